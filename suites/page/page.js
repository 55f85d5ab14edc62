// Kept structure, colours, and the page as a whole; runs last.

// --- structure ---

function showStructures(runs) {
  const known = sorted(runs, chosen.runs, (run, key) => run[key]).filter(
    (run) => run.role === "student" && Object.keys(run.kept ?? {}).length,
  );
  const shown = known.slice(0, structures);
  $("structures").replaceChildren(...shown.map(structure));
  const more = make(
    "button",
    {
      type: "button",
      onclick: () => {
        structures += 4 * STRUCTURES;
        showStructures(runs);
      },
    },
    "Show more",
  );
  const told = `${shown.length} of ${plural(known.length, "run")}, in the order of the table of runs. `;
  $("structures-more").replaceChildren(told, ...(shown.length < known.length ? [more] : []));
}

function structure(run) {
  const layers = Math.max(...Object.values(run.kept).map(({ kept }) => kept.length));
  const score = run.score ? ` score ${run.score}` : "";
  const heads = Array.from({ length: layers }, (_, layer) => make("th", { scope: "col" }, String(layer + 1)));
  const head = make(
    "tr",
    {},
    make("th", { scope: "col", class: "text" }, "layer"),
    ...heads,
    make("th", { scope: "col" }, "sum"),
  );
  const rows = Object.keys({ ...KINDS, ...run.kept })
    .filter((kind) => kind in run.kept)
    .map((kind) => structureRow(kind, run.kept[kind], layers));
  const region = { class: "structure", role: "region", "aria-label": `Structure of ${title(run)}`, tabindex: 0 };
  return make(
    "div",
    region,
    make("table", {}, caption(openButton(run, title(run)), score), make("thead", {}, head), make("tbody", {}, ...rows)),
  );
}

function structureRow(kind, { kept, of }, layers) {
  const sum = kept.reduce((total, count) => total + count, 0);
  const span = kept.length < layers ? layers : null;
  const cells = kept.map((count) => {
    const cell = make(
      "td",
      { colspan: span, class: !count && "none", title: of ? `${count} of ${of}` : null },
      String(count),
    );
    cell.style.setProperty("--of-whole", of ? count / of : 0);
    return cell;
  });
  const whole = of ? `/${of * kept.length}` : "";
  return make(
    "tr",
    {},
    make("th", { scope: "row", class: "text" }, KINDS[kind] ?? kind),
    ...cells,
    make("td", { class: "sum" }, `${sum}${whole}`),
  );
}

// --- colours ---

const THEMES = { system: "light", light: "dark", dark: "system" };

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Colours: ${theme}`;
  $("theme").onclick = () => {
    keepTheme(THEMES[theme]);
    setTheme(THEMES[theme]);
  };
}

// A browser may refuse storage to a local file; then the choice lasts as long as the page.
function keepTheme(theme) {
  try {
    localStorage.setItem("theme", theme);
  } catch {
    /* see above */
  }
}

function keptTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

// --- all of it ---

function showAll() {
  closeCard();
  const scope = DATA.runs.filter(inScope);
  const runs = scope.filter(ofState(chosen.show));
  const counted = `${plural(runs.length, "run")} of ${DATA.runs.length.toLocaleString("en")} shown`;
  $("count").textContent = runs.length ? counted : `${counted}: no run fits these filters`;
  showFilters();
  showStates(scope);
  showMeans();
  showCharts(runs);
  showRuns(runs);
  showStructures(runs);
}

/** Jumps within the page leave the address to the filters. */
function jump(event) {
  event.preventDefault();
  const target = $(this.getAttribute("href").slice(1));
  target.focus({ preventScroll: true });
  target.scrollIntoView();
}

const theme = keptTheme();
setTheme(Object.hasOwn(THEMES, theme) ? theme : "system");
document.querySelectorAll("[data-jump]").forEach((link) => link.addEventListener("click", jump));
addEventListener("hashchange", () => {
  chosen = readChoice();
  showAll();
});
buildFilters();
buildAxis();
listenForCard();
showAll();
