// What the reader has chosen: kept in the address of the page, set by the filters.

// --- what is chosen, and its place in the address ---

const DEFAULTS = { seed: ALL, show: ALL, x: "reached", means: "", runs: "" };
const SETS = {
  task: { title: "Task", values: DATA.tasks.map((task) => [task.name, task.title]) },
  method: { title: "Method", values: DATA.methods.map((method) => [method.label, method.label]) },
  sparsity: { title: "Sparsity", values: DATA.sparsities.map((value) => [String(value), sparsityText(value)]) },
};
let chosen = readChoice();
let allRows = false;
let structures = STRUCTURES;

function readChoice() {
  const address = new URLSearchParams(location.hash.slice(1));
  const choice = Object.fromEntries(Object.entries(DEFAULTS).map(([key, value]) => [key, address.get(key) ?? value]));
  if (!Object.hasOwn(DATA.means, choice.seed)) choice.seed = ALL;
  if (!Object.hasOwn(AXES, choice.x)) choice.x = DEFAULTS.x;
  for (const [key, { values }] of Object.entries(SETS)) {
    const known = new Set(values.map(([value]) => value));
    choice[key] = new Set(address.getAll(key).filter((value) => known.has(value)));
  }
  return choice;
}

function writeChoice() {
  const address = new URLSearchParams();
  for (const key of Object.keys(SETS)) chosen[key].forEach((value) => address.append(key, value));
  for (const [key, value] of Object.entries(DEFAULTS)) if (chosen[key] !== value) address.set(key, chosen[key]);
  if (address.toString() !== location.hash.slice(1)) history.replaceState(null, "", `#${address}`);
}

function choose(changes) {
  Object.assign(chosen, changes);
  allRows = false;
  structures = STRUCTURES;
  writeChoice();
  showAll();
}

const admits = (key, value) => !chosen[key].size || chosen[key].has(String(value));
const SHOWN = {
  all: () => true,
  marked: (run) => run.marks?.length > 0,
};

function inScope(run) {
  const seed = chosen.seed === ALL || String(run.seed) === chosen.seed;
  return seed && admits("task", run.task) && admits("method", run.label) && admits("sparsity", run.sparsity);
}

function ofState(show) {
  return Object.hasOwn(SHOWN, show) ? SHOWN[show] : (run) => run.state === show;
}

// --- filters ---

function buildFilters() {
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  const sets = Object.entries(SETS).map(([key, set]) => setFilter(key, set));
  $("choices").replaceChildren(
    ...sets,
    seedFilter(),
    make("button", { type: "button", id: "clear", onclick: clear }, "Clear all"),
  );
  document.addEventListener("click", (event) => closeFilters(event.target.closest?.(".filter")));
}

function setFilter(key, { title, values }) {
  const boxes = values.map(([value, text]) =>
    make("label", {}, make("input", { type: "checkbox", name: key, value, onchange: () => pick(key) }), text),
  );
  const list = make("fieldset", {}, make("legend", {}, title), ...boxes);
  return make(
    "details",
    { class: "filter", id: `filter-${key}`, onkeydown: closeOnEscape },
    make("summary", {}, title),
    list,
  );
}

function seedFilter() {
  const options = [[ALL, "all seeds"], ...DATA.seeds.map((seed) => [String(seed), `seed ${seed}`])];
  const choices = options.map(([value, text]) => make("option", { value }, text));
  return make(
    "select",
    { id: "seed", "aria-label": "Seed", onchange: () => choose({ seed: $("seed").value }) },
    ...choices,
  );
}

function pick(key) {
  choose({ [key]: new Set([...document.querySelectorAll(`input[name="${key}"]:checked`)].map((box) => box.value)) });
}

function clear() {
  choose({ task: new Set(), method: new Set(), sparsity: new Set(), seed: ALL, show: ALL });
}

function closeOnEscape(event) {
  if (event.key !== "Escape" || !this.open) return;
  this.open = false;
  this.querySelector("summary").focus();
  event.stopPropagation();
}

function closeFilters(except) {
  document.querySelectorAll(".filter[open]").forEach((filter) => {
    if (filter !== except) filter.open = false;
  });
}

function showFilters() {
  for (const [key, { title, values }] of Object.entries(SETS)) {
    const names = values.filter(([value]) => chosen[key].has(value)).map(([, text]) => text);
    $(`filter-${key}`).querySelector("summary").textContent = `${title}: ${names.join(", ") || "all"}`;
    document.querySelectorAll(`input[name="${key}"]`).forEach((box) => {
      box.checked = chosen[key].has(box.value);
    });
  }
  $("seed").value = chosen.seed;
  document.querySelectorAll("#axis input").forEach((button) => {
    button.checked = button.value === chosen.x;
  });
}

/** Buttons with how many runs are in each state, which show only those. */
function showStates(runs) {
  const counts = Object.keys(STATES).map((state) => [state, stateText(state), runs.filter(ofState(state)).length]);
  const marked = ["marked", "⚑ with marks", runs.filter(SHOWN.marked).length];
  const all = [[ALL, "all runs", runs.length], ...counts, marked];
  const old = document.activeElement?.dataset?.show;
  const buttons = all.filter(([show, , count]) => count || show === ALL || show === chosen.show).map(stateButton);
  $("states").replaceChildren(...buttons);
  if (old) buttons.find((button) => button.dataset.show === old)?.focus();
}

function stateButton([show, text, count]) {
  const pressed = String(chosen.show === show);
  const attributes = { type: "button", "data-show": show, "aria-pressed": pressed, onclick: () => choose({ show }) };
  return make("button", attributes, `${text} ${count.toLocaleString("en")}`);
}
