// The sortable tables: means by method and task, and single runs.

// --- sorting ---

/** "key" or "-key" in the address; numbers by value, absent ones last. */
function sorted(rows, order, value) {
  if (!order) return rows;
  const down = order.startsWith("-") ? -1 : 1;
  const key = order.replace(/^-/, "");
  return [...rows].sort((a, b) => down * compare(value(a, key), value(b, key), down));
}

function compare(a, b, down) {
  const absent = (value) => value === "" || value === undefined || value === null;
  if (absent(a) || absent(b)) return down * (absent(a) - absent(b));
  const [left, right] = [Number(a), Number(b)];
  return Number.isNaN(left) || Number.isNaN(right) ? String(a).localeCompare(String(b), "en") : left - right;
}

function sortHeader(table, key, text, more, left) {
  const [up, down] = [chosen[table] === key, chosen[table] === `-${key}`];
  const sort = () => {
    choose({ [table]: up ? `-${key}` : key });
    $(`${table}-${key}`)?.focus();
  };
  const button = make("button", { type: "button", id: `${table}-${key}`, onclick: sort }, text);
  const attributes = {
    scope: "col",
    "aria-sort": up ? "ascending" : down ? "descending" : "none",
    class: left && "text",
  };
  return make("th", attributes, button, more ? make("small", {}, make("br"), more) : null);
}

// --- methods x tasks ---

function showMeans() {
  const columns = DATA.columns
    .map((column, place) => ({ ...column, place }))
    .filter((column) => admits("task", column.task));
  const average = { title: "average", metric: `of ${plural(DATA.tasks.length, "task")}`, place: DATA.columns.length };
  if (!chosen.task.size && DATA.tasks.length > 1) columns.push(average);
  const rows = DATA.means[chosen.seed].filter((row) => admits("method", row.label) && admits("sparsity", row.sparsity));
  const value = (row, key) => row[key] ?? row.cells[key]?.text;
  const signs = new Map();
  const several = rows.some((row) => row.cells.some((cell) => cell.n > 1));
  const show = (cell) => meanCell(cell, signs, several);
  const body = sorted(rows, chosen.means, value).map((row, place, all) => meanRow(row, columns, show, all[place - 1]));
  const head = make(
    "tr",
    {},
    sortHeader("means", "sparsity", "sparsity", "", true),
    sortHeader("means", "label", "method", "", true),
    ...columns.map((column) => sortHeader("means", String(column.place), column.title, column.metric)),
  );
  $("means-table").replaceChildren(
    caption(meansCaption(rows.length, several)),
    make("thead", {}, head),
    make("tbody", {}, ...body),
  );
  $("means-notes").replaceChildren(
    ...[...signs].map(([mark, sign]) => make("li", {}, make("sup", {}, sign), ` ${mark}`)),
  );
}

function meansCaption(rows, several) {
  const seeds = several
    ? "mean ± standard deviation over seeds, n: their number"
    : "n = 1: one seed each, no standard deviation";
  return `Scores × 100; ${seeds}; ${plural(rows, "row")}. Headers sort.`;
}

function meanRow(row, columns, show, before) {
  const starts = !chosen.means && before && before.sparsity !== row.sparsity;
  const cells = columns.map((column) => show(row.cells[column.place]));
  return make(
    "tr",
    { class: starts && "block" },
    make("td", { class: "text" }, sparsityText(row.sparsity)),
    make("th", { scope: "row" }, row.label),
    ...cells,
  );
}

function meanCell(cell, signs, several) {
  const marks = cell.marks.map((mark) => signs.get(mark) ?? signs.set(mark, letters(signs.size)).get(mark));
  const raised = marks.length ? make("sup", { title: cell.marks.join("; ") }, marks.join(",")) : null;
  if (cell.text === undefined) return make("td", {}, "–", raised);
  const spread = several ? make("small", {}, `${cell.sd ? `±${cell.sd}, ` : ""}n ${cell.n}`) : null;
  return make("td", {}, make(cell.best ? "strong" : "span", {}, cell.text), raised, spread);
}

function letters(place) {
  return (place >= 26 ? letters(Math.floor(place / 26) - 1) : "") + String.fromCharCode(97 + (place % 26));
}

// --- runs ---

const COLUMNS = [
  ["label", "method", true],
  ["task", "task", true],
  ["sparsity", "target"],
  ["reached", "reached %"],
  ["seed", "seed"],
  ["state", "state", true],
  ["score", "score"],
  ["retention", "of teacher %"],
  ["flops", "FLOPs ratio"],
  ...(HAS_SPEEDUP ? [["speedup", "speedup"]] : []),
  ["parameters", "params (M)"],
  ["seconds", "seconds"],
];
const CELLS = {
  label: (run) => make("th", { scope: "row" }, openButton(run, run.label)),
  task: (run) => make("td", { class: "text" }, taskTitle(run.task)),
  sparsity: (run) => make("td", {}, sparsityText(run.sparsity)),
  state: (run) => make("td", { class: `text state-${run.state}` }, stateText(run.state)),
  score: (run) => make("td", {}, run.score ?? "–", run.score ? make("small", {}, TASK.get(run.task).metric) : null),
};

function runCell(run, key) {
  return CELLS[key]?.(run) ?? make("td", {}, String(run[key] || "–"));
}

function openButton(run, text) {
  return make(
    "button",
    { type: "button", class: "plain", "aria-haspopup": "dialog", onclick: (event) => pin(run, event.currentTarget) },
    text,
  );
}

function showRuns(runs) {
  const ordered = sorted(runs, chosen.runs, (run, key) => run[key]);
  const shown = allRows ? ordered : ordered.slice(0, ROWS);
  const head = make(
    "tr",
    {},
    ...COLUMNS.map(([key, text, left]) => sortHeader("runs", key, text, "", left)),
    make("th", { scope: "col", class: "text" }, "marks and reasons"),
    make("th", { scope: "col", class: "text" }, "folder"),
  );
  const told = caption(
    `${plural(shown.length, "run")} of ${runs.length.toLocaleString("en")}. A method opens its run; headers sort.`,
  );
  $("runs-table").replaceChildren(told, make("thead", {}, head), make("tbody", {}, ...shown.map(runRow)));
  const rest = make(
    "button",
    {
      type: "button",
      onclick: () => {
        allRows = true;
        showRuns(runs);
      },
    },
    `Show all ${plural(runs.length, "run")}`,
  );
  $("runs-more").replaceChildren(...(shown.length < runs.length ? [rest] : []));
}

function runRow(run) {
  const words = [run.note, ...(run.marks ?? [])].filter(Boolean).join("; ");
  const folder = run.folder ? make("a", { href: run.folder, "aria-label": `folder of ${run.id}` }, "folder") : "–";
  const cells = COLUMNS.map(([key]) => runCell(run, key));
  return make(
    "tr",
    { class: run.state !== "done" && "lost" },
    ...cells,
    make("td", { class: "wide" }, words),
    make("td", { class: "text" }, folder),
  );
}
