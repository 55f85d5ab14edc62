// Draws the report page from the JSON in it. Texts of records enter by textContent and attributes only, never as HTML.
"use strict";
{
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const ROWS = 200; // rows of the runs' table before "show all"
  const STRUCTURES = 6;
  const ALL = "all";
  const KINDS = {
    head: "heads", qk: "QK dims", vo: "VO dims", ffn: "FFN dims", hidden: "hidden dims",
    mha_layer: "attention", ffn_layer: "FFN layer", weight: "weights",
  };
  const STATES = {
    done: ["✓", "finished"], failed: ["✕", "failed"], blocked: ["⊘", "blocked"], unreachable: ["∅", "not reachable"],
    missing: ["○", "not run yet"], running: ["▷", "running"], stale: ["◌", "interrupted"],
  };
  const AXES = {
    reached: ["sparsity reached (%)", "sparsity"],
    flops: ["FLOPs, dense over this model", "FLOPs ratio"],
    speedup: ["measured speedup", "speedup"],
  };
  const DASHES = ["", "6 2", "2 2", "7 2 2 2"];
  // Markers around (0, 0), about 9 units wide.
  const MARKERS = [
    "M4.2 0A4.2 4.2 0 1 1-4.2 0A4.2 4.2 0 1 1 4.2 0Z", "M-3.8-3.8H3.8V3.8H-3.8Z", "M0-5L5 0L0 5L-5 0Z", "M0-4.8L4.6 3.6H-4.6Z",
    "M0 4.8L4.6-3.6H-4.6Z", "M-1.6-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z", "M-4.8 0L3.6-4.6V4.6Z",
    "M4.8 0L-3.6-4.6V4.6Z", "M0-5L4.8-1.5L3-4.1-3-4.1-4.8-1.5Z", "M0-5.2L1.5-1.7 5.2-1.6 2.3.8 3.2 4.6 0 2.4-3.2 4.6-2.3.8-5.2-1.6-1.5-1.7Z",
  ];
  const TASK = new Map(DATA.tasks.map((task) => [task.name, task]));
  const PLACE = new Map(DATA.methods.filter((method) => method.student).map((method, place) => [method.label, place]));
  const PAPER = new Map(DATA.methods.map((method) => [method.label, method.paper]));
  const HAS_SPEEDUP = DATA.runs.some((run) => run.speedup);

  const $ = (id) => document.getElementById(id);

  // --- small helpers ---

  function make(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  function draw(name, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, name), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  /** A caption that stays within the window where its table does not. */
  const caption = (...content) => make("caption", {}, make("span", { class: "fit" }, ...content));
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const sparsityText = (sparsity) => (sparsity ? String(sparsity) : "dense");
  const taskTitle = (name) => TASK.get(name)?.title ?? name;
  const stateText = (state) => (STATES[state] ?? ["?", state]).join(" ");
  const groupBy = (items, key) => Map.groupBy(items, key);

  function title(run) {
    return `${run.label}, ${taskTitle(run.task)}, ${run.sparsity ? `sparsity ${run.sparsity}` : "dense"}, seed ${run.seed}`;
  }

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
    if (!(choice.seed in DATA.means)) choice.seed = ALL;
    if (!(choice.x in AXES)) choice.x = DEFAULTS.x;
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
    unfinished: (run) => run.state !== "done",
  };

  function inScope(run) {
    const seed = chosen.seed === ALL || String(run.seed) === chosen.seed;
    return seed && admits("task", run.task) && admits("method", run.label) && admits("sparsity", run.sparsity);
  }

  function ofState(show) {
    return SHOWN[show] ?? ((run) => run.state === show);
  }

  // --- filters ---

  function buildFilters() {
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    const sets = Object.entries(SETS).map(([key, set]) => setFilter(key, set));
    $("choices").replaceChildren(...sets, seedFilter(), make("button", { type: "button", id: "clear", onclick: clear }, "Clear all"));
    document.addEventListener("click", (event) => closeFilters(event.target.closest?.(".filter")));
  }

  function setFilter(key, { title, values }) {
    const boxes = values.map(([value, text]) =>
      make("label", {}, make("input", { type: "checkbox", name: key, value, onchange: () => pick(key) }), text));
    const list = make("fieldset", {}, make("legend", {}, title), ...boxes);
    return make("details", { class: "filter", id: `filter-${key}`, onkeydown: closeOnEscape }, make("summary", {}, title), list);
  }

  function seedFilter() {
    const options = [[ALL, "all seeds"], ...DATA.seeds.map((seed) => [String(seed), `seed ${seed}`])];
    const choices = options.map(([value, text]) => make("option", { value }, text));
    const select = make("select", { id: "seed", "aria-label": "Seed", onchange: () => choose({ seed: $("seed").value }) }, ...choices);
    return select;
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
    document.querySelectorAll(".filter[open]").forEach((filter) => { if (filter !== except) filter.open = false; });
  }

  function showFilters() {
    for (const [key, { title, values }] of Object.entries(SETS)) {
      const names = values.filter(([value]) => chosen[key].has(value)).map(([, text]) => text);
      $(`filter-${key}`).querySelector("summary").textContent = `${title}: ${names.join(", ") || "all"}`;
      document.querySelectorAll(`input[name="${key}"]`).forEach((box) => { box.checked = chosen[key].has(box.value); });
    }
    $("seed").value = chosen.seed;
    document.querySelectorAll("#axis input").forEach((button) => { button.checked = button.value === chosen.x; });
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
    const sort = () => { choose({ [table]: up ? `-${key}` : key }); $(`${table}-${key}`)?.focus(); };
    const button = make("button", { type: "button", id: `${table}-${key}`, onclick: sort }, text);
    const attributes = { scope: "col", "aria-sort": up ? "ascending" : down ? "descending" : "none", class: left && "text" };
    return make("th", attributes, button, more ? make("small", {}, make("br"), more) : null);
  }

  // --- methods x tasks ---

  function showMeans() {
    const columns = DATA.columns.map((column, place) => ({ ...column, place })).filter((column) => admits("task", column.task));
    const average = { title: "average", metric: `of ${plural(DATA.tasks.length, "task")}`, place: DATA.columns.length };
    if (!chosen.task.size && DATA.tasks.length > 1) columns.push(average);
    const rows = DATA.means[chosen.seed].filter((row) => admits("method", row.label) && admits("sparsity", row.sparsity));
    const value = (row, key) => row[key] ?? row.cells[key]?.text;
    const signs = new Map();
    const several = rows.some((row) => row.cells.some((cell) => cell.n > 1));
    const show = (cell) => meanCell(cell, signs, several);
    const body = sorted(rows, chosen.means, value).map((row, place, all) => meanRow(row, columns, show, all[place - 1]));
    const head = make("tr", {}, sortHeader("means", "sparsity", "sparsity", "", true), sortHeader("means", "label", "method", "", true),
      ...columns.map((column) => sortHeader("means", String(column.place), column.title, column.metric)));
    $("means-table").replaceChildren(caption(meansCaption(rows.length, several)), make("thead", {}, head), make("tbody", {}, ...body));
    $("means-notes").replaceChildren(...[...signs].map(([mark, sign]) => make("li", {}, make("sup", {}, sign), ` ${mark}`)));
  }

  function meansCaption(rows, several) {
    const seeds = several ? "mean ± standard deviation over seeds, n: their number" : "n = 1: one seed each, no standard deviation";
    return `Scores × 100; ${seeds}; ${plural(rows, "row")}. Headers sort.`;
  }

  function meanRow(row, columns, show, before) {
    const starts = !chosen.means && before && before.sparsity !== row.sparsity;
    const cells = columns.map((column) => show(row.cells[column.place]));
    return make("tr", { class: starts && "block" }, make("td", { class: "text" }, sparsityText(row.sparsity)),
      make("th", { scope: "row" }, row.label), ...cells);
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
    ["label", "method", true], ["task", "task", true], ["sparsity", "target"], ["reached", "reached %"], ["seed", "seed"], ["state", "state", true],
    ["score", "score"], ["retention", "of teacher %"], ["flops", "FLOPs ratio"], ...(HAS_SPEEDUP ? [["speedup", "speedup"]] : []),
    ["parameters", "params (M)"], ["seconds", "seconds"],
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
    return make("button", { type: "button", class: "plain", "aria-haspopup": "dialog", onclick: (event) => pin(run, event.currentTarget) }, text);
  }

  function showRuns(runs) {
    const ordered = sorted(runs, chosen.runs, (run, key) => run[key]);
    const shown = allRows ? ordered : ordered.slice(0, ROWS);
    const head = make("tr", {}, ...COLUMNS.map(([key, text, left]) => sortHeader("runs", key, text, "", left)),
      make("th", { scope: "col", class: "text" }, "marks and reasons"), make("th", { scope: "col", class: "text" }, "folder"));
    const told = caption(`${plural(shown.length, "run")} of ${runs.length.toLocaleString("en")}. The method opens a run's details; headers sort.`);
    $("runs-table").replaceChildren(told, make("thead", {}, head), make("tbody", {}, ...shown.map(runRow)));
    const rest = make("button", { type: "button", onclick: () => { allRows = true; showRuns(runs); } }, `Show all ${plural(runs.length, "run")}`);
    $("runs-more").replaceChildren(...(shown.length < runs.length ? [rest] : []));
  }

  function runRow(run) {
    const words = [run.note, ...(run.marks ?? [])].filter(Boolean).join("; ");
    const folder = run.folder ? make("a", { href: run.folder, "aria-label": `Folder of ${run.id}` }, "folder") : "–";
    const cells = COLUMNS.map(([key]) => runCell(run, key));
    return make("tr", { class: run.state !== "done" && "lost" }, ...cells, make("td", { class: "wide" }, words), make("td", { class: "text" }, folder));
  }

  // --- charts ---

  const BOX = { left: 40, right: 332, top: 10, bottom: 190, strip: 234, width: 340, height: 244 };

  function buildAxis() {
    const axes = Object.entries(AXES).filter(([key]) => key !== "speedup" || HAS_SPEEDUP);
    const radios = axes.map(([key, [, text]]) =>
      make("label", {}, make("input", { type: "radio", name: "x", value: key, onchange: () => choose({ x: key }) }), ` ${text}`));
    $("axis").append(...radios);
  }

  function showCharts(runs) {
    const students = runs.filter((run) => run.role === "student");
    const byTask = groupBy(students, (run) => run.task);
    const tasks = DATA.tasks.filter((task) => byTask.has(task.name));
    const range = extent(students.map((run) => Number(run[chosen.x])).filter(Number.isFinite));
    $("panels").replaceChildren(...tasks.map((task) => panel(task, byTask.get(task.name), range)));
    if (!tasks.length) $("panels").replaceChildren(make("p", {}, "No student runs are chosen."));
    showLegend(students);
  }

  function showLegend(students) {
    const labels = new Set(students.map((run) => run.label));
    const methods = [...labels].map((label) => make("li", {}, swatch(PLACE.get(label)), label));
    const level = (name, text) => make("li", {}, draw("svg", { class: "swatch", viewBox: "0 0 30 12", "aria-hidden": "true" },
      draw("line", { class: name, x1: 0, x2: 30, y1: 6, y2: 6 })), text);
    const lost = students.some((run) => run.state !== "done");
    $("legend").replaceChildren(...methods, level("teacher", "teacher"), level("majority", "majority class"),
      make("li", {}, "hollow: run with marks"), ...(lost ? [make("li", {}, "✕ ⊘ ∅ ○ with a number: runs without a result")] : []));
  }

  function look(place) {
    return { class: `m${place % 9}`, marker: MARKERS[place % MARKERS.length], dash: DASHES[place % DASHES.length] };
  }

  function swatch(place) {
    const { class: colour, marker, dash } = look(place);
    return draw("svg", { class: `swatch ${colour}`, viewBox: "0 0 30 12", "aria-hidden": "true" },
      draw("line", { class: "line", x1: 0, x2: 30, y1: 6, y2: 6, "stroke-dasharray": dash }),
      draw("path", { class: "point", d: marker, transform: "translate(15 6)" }));
  }

  function extent(values) {
    if (!values.length) return [0, 1];
    const [low, high] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - margin, high + margin];
  }

  function ticks([low, high], most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, place) => Number(((first + place) * step).toPrecision(10)));
  }

  const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

  function panel(task, runs, range) {
    const done = runs.filter((run) => run.score && run[chosen.x]);
    const teachers = DATA.runs.filter((run) => run.role === "teacher" && run.task === task.name && run.score
      && (chosen.seed === ALL || String(run.seed) === chosen.seed));
    const heights = extent([...done, ...teachers].map((run) => Number(run.score)));
    const x = scale(range, BOX.left, BOX.right);
    const y = scale(heights, BOX.bottom, BOX.top);
    const label = `${task.title}: ${task.metric} against ${AXES[chosen.x][1]}, ${plural(done.length, "run")}`;
    const picture = draw("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "group", "aria-label": label },
      ...axes(range, heights, x, y), ...levels(teachers, done, heights, y), ...lines(done, x, y));
    const points = done.map((run) => point(run, x(Number(run[chosen.x])), y(Number(run.score))));
    points.sort((a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1]);
    const stops = [...points.map(({ shape }) => shape), ...lostGroups(runs.filter((run) => !done.includes(run)), x)];
    stops.forEach((stop, place) => stop.setAttribute("tabindex", place ? -1 : 0));
    picture.append(...stops);
    picture.addEventListener("keydown", (event) => step(event, stops));
    return make("div", { class: "panel" }, make("h3", {}, `${task.title} (${task.metric || "no score yet"})`), picture);
  }

  function axes(range, heights, x, y) {
    const across = ticks(heights, 5).flatMap((value) => [
      draw("line", { class: "grid", x1: BOX.left, x2: BOX.right, y1: y(value), y2: y(value) }),
      draw("text", { x: BOX.left - 5, y: y(value) + 4, "text-anchor": "end", "aria-hidden": "true" }, String(value)),
    ]);
    const along = ticks(range, 6).flatMap((value) => [
      draw("line", { class: "frame", x1: x(value), x2: x(value), y1: BOX.bottom, y2: BOX.bottom + 4 }),
      draw("text", { x: x(value), y: BOX.bottom + 16, "text-anchor": "middle", "aria-hidden": "true" }, String(value)),
    ]);
    const frame = draw("path", { class: "frame", d: `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}`, fill: "none" });
    const name = draw("text", { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 30, "text-anchor": "middle", "aria-hidden": "true" }, AXES[chosen.x][0]);
    return [...across, ...along, frame, name];
  }

  /** Teacher and majority class as horizontal lines, where they are within the panel. */
  function levels(teachers, done, [low, high], y) {
    const level = (name, values) => {
      const height = mean(values);
      if (!values.length || height < low || height > high) return [];
      return [draw("line", { class: name, x1: BOX.left, x2: BOX.right, y1: y(height), y2: y(height) })];
    };
    const known = done.filter((run) => run.majority);
    return [...level("teacher", teachers.map((run) => Number(run.score))), ...level("majority", known.map((run) => Number(run.majority)))];
  }

  function lines(done, x, y) {
    return [...groupBy(done, (run) => run.label)].map(([label, runs]) => {
      const stops = [...groupBy(runs, (run) => run.sparsity)].sort(([a], [b]) => a - b).map(([, own]) =>
        `${x(mean(own.map((run) => Number(run[chosen.x])))).toFixed(1)} ${y(mean(own.map((run) => Number(run.score)))).toFixed(1)}`);
      const { class: colour, dash } = look(PLACE.get(label));
      return draw("path", { class: `line ${colour}`, d: `M${stops.join("L")}`, "stroke-dasharray": dash });
    });
  }

  function point(run, left, top) {
    const { class: colour, marker } = look(PLACE.get(run.label));
    const marks = run.marks.length ? `; ${plural(run.marks.length, "mark")}: ${run.marks.join("; ")}` : "";
    const shape = draw("path", {
      class: `point ${colour}${run.marks.length ? " marked" : ""}`, d: marker, transform: `translate(${left.toFixed(1)} ${top.toFixed(1)})`,
      role: "button", "aria-label": `${title(run)}: ${TASK.get(run.task).metric} ${run.score}, ${AXES[chosen.x][1]} ${run[chosen.x]}${marks}`,
      onpointerenter: (event) => hover(run, event.currentTarget), onpointerleave: unhover,
      onfocus: (event) => { if (event.currentTarget.matches(":focus-visible")) hover(run, event.currentTarget); },
      onclick: (event) => pin(run, event.currentTarget),
    });
    return { shape, place: [left, top] };
  }

  /** Runs without a point, below the axis: one sign per sparsity, or one in all where the axis is not sparsity. */
  function lostGroups(lost, x) {
    const groups = groupBy(lost, (run) => (chosen.x === "reached" ? run.sparsity : null));
    return [...groups].map(([sparsity, runs]) => {
      const counts = [...groupBy(runs, (run) => run.state)].map(([state, own]) => `${(STATES[state] ?? ["?"])[0]}${own.length}`);
      const left = sparsity === null ? (BOX.left + BOX.right) / 2 : Math.min(Math.max(x(100 * sparsity), BOX.left), BOX.right - 10);
      const open = (event) => pinLost(runs, event.currentTarget);
      return draw("g", { class: "lost-group", role: "button", "aria-label": `${plural(runs.length, "run")} without a point: ${counts.join(" ")}`, onclick: open },
        draw("text", { x: left, y: BOX.strip + 6 }, counts.join(" ")));
    });
  }

  function step(event, stops) {
    const place = stops.indexOf(event.target);
    if (place < 0) return;
    const moves = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: stops.length - 1 };
    if (event.key === "Enter" || event.key === " ") event.target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    else if (event.key in moves) moveFocus(stops, place, moves[event.key]);
    else return;
    event.preventDefault();
  }

  function moveFocus(stops, from, to) {
    const next = stops[Math.min(Math.max(to, 0), stops.length - 1)];
    stops[from].setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  }

  // --- details of a run ---

  let source = null; // the element whose run is shown
  let pinned = false;
  let leaving = 0;
  let returning = false; // focus goes back to the source of a card just dismissed, which must not open it again

  function hover(run, element) {
    clearTimeout(leaving);
    if (!pinned && !returning) openCard(runCard(run), element);
  }

  function unhover() {
    if (!pinned) leaving = setTimeout(closeCard, 300);
  }

  function pin(run, element) {
    pinCard(runCard(run), element);
  }

  function pinLost(runs, element) {
    pinCard(lostCard(runs), element);
  }

  function pinCard(content, element) {
    openCard(content, element);
    pinned = true;
    $("card").focus({ preventScroll: true });
  }

  function openCard(content, element) {
    closeCard();
    source = element;
    element.classList.add("shown");
    const card = $("card");
    card.replaceChildren(...content);
    card.hidden = false;
    card.scrollTop = 0;
    place(card, element.getBoundingClientRect());
  }

  /** Beside what it tells of, within the window; on a narrow one the style sheet puts it at the foot. */
  function place(card, beside) {
    const below = beside.bottom + 8 + card.offsetHeight <= innerHeight;
    const top = below ? beside.bottom + 8 : Math.max(beside.top - card.offsetHeight - 8, 8);
    const left = Math.min(Math.max(beside.left, 8), document.documentElement.clientWidth - card.offsetWidth - 8);
    card.style.setProperty("top", `${top + scrollY}px`);
    card.style.setProperty("left", `${left + scrollX}px`);
    if (getComputedStyle(card).position === "fixed") ["top", "left"].forEach((side) => card.style.removeProperty(side));
  }

  function closeCard() {
    clearTimeout(leaving);
    pinned = false;
    source?.classList.remove("shown");
    $("card").hidden = true;
  }

  function dismissCard() {
    const back = $("card").contains(document.activeElement) ? source : null;
    closeCard();
    returning = true;
    back?.focus();
    returning = false;
  }

  function cardHead(text) {
    const close = make("button", { type: "button", "aria-label": "Close", onclick: dismissCard }, "×");
    return make("div", { class: "bar" }, make("h3", { id: "card-title" }, text), close);
  }

  function runCard(run) {
    const marks = [...(run.marks ?? []), ...(run.note ? [run.note] : [])];
    return [
      cardHead(title(run)), facts(runFacts(run)),
      ...(marks.length ? [make("strong", {}, "Marks"), make("ul", {}, ...marks.map((mark) => make("li", {}, mark)))] : []),
      make("p", {}, "Run: ", folderLink(run, run.id)),
      ...(run.settings === undefined ? [] : [make("details", { open: true }, make("summary", {}, "Settings"), facts(Object.entries(DATA.settings[run.settings])))]),
    ];
  }

  const folderLink = (run, text) => (run.folder ? make("a", { href: run.folder }, text) : text);

  function runFacts(run) {
    const target = run.sparsity ? `${run.reached} % (target ${Number((100 * run.sparsity).toPrecision(6))} %)` : "";
    const measured = run.score ? [
      ...run.scores, ["of teacher", run.retention && `${run.retention} %`], ["sparsity", target], ["FLOPs ratio", run.flops],
      ["speedup", run.speedup], ["parameters", `${run.parameters} M in the encoder`], ["time", `${run.seconds} s`], ["finished", run.finished],
    ] : [];
    return [["state", stateText(run.state)], ["method", run.method], ["paper", PAPER.get(run.label)], ...measured].filter(([, value]) => value);
  }

  function facts(pairs) {
    return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function lostCard(runs) {
    const most = 8;
    const shown = runs.slice(0, most).map((run) => make("li", {}, folderLink(run, title(run)),
      ` ${stateText(run.state)}${run.note ? `: ${run.note}` : ""}`));
    const rest = runs.length > most ? [make("p", {}, `and ${runs.length - most} more in the table of runs`)] : [];
    return [cardHead(`${plural(runs.length, "run")} without a point`), make("ul", {}, ...shown), ...rest];
  }

  function listenForCard() {
    $("card").addEventListener("pointerenter", () => clearTimeout(leaving));
    $("card").addEventListener("pointerleave", unhover);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") dismissCard(); });
    document.addEventListener("click", (event) => {
      if (event.target !== source && !source?.contains(event.target) && !$("card").contains(event.target)) closeCard();
    });
  }

  // --- structure ---

  function showStructures(runs) {
    const known = sorted(runs, chosen.runs, (run, key) => run[key]).filter((run) => run.role === "student" && Object.keys(run.kept ?? {}).length);
    const shown = known.slice(0, structures);
    $("structures").replaceChildren(...shown.map(structure));
    const more = make("button", { type: "button", onclick: () => { structures += 4 * STRUCTURES; showStructures(runs); } }, "Show more");
    const told = `${shown.length} of ${plural(known.length, "run")}, in the order of the table of runs. `;
    $("structures-more").replaceChildren(told, ...(shown.length < known.length ? [more] : []));
  }

  function structure(run) {
    const layers = Math.max(...Object.values(run.kept).map(({ kept }) => kept.length));
    const score = run.score ? ` score ${run.score}` : "";
    const heads = Array.from({ length: layers }, (_, layer) => make("th", { scope: "col" }, String(layer + 1)));
    const head = make("tr", {}, make("th", { scope: "col", class: "text" }, "layer"), ...heads, make("th", { scope: "col" }, "sum"));
    const rows = Object.entries(run.kept).map(([kind, units]) => structureRow(kind, units, layers));
    const region = { class: "structure", role: "region", "aria-label": `Structure of ${title(run)}`, tabindex: 0 };
    return make("div", region, make("table", {}, caption(openButton(run, title(run)), score), make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function structureRow(kind, { kept, of }, layers) {
    const sum = kept.reduce((total, count) => total + count, 0);
    const span = kept.length < layers ? layers : null;
    const cells = kept.map((count) => {
      const cell = make("td", { colspan: span, class: !count && "none", title: of ? `${count} of ${of}` : null }, String(count));
      cell.style.setProperty("--of-whole", of ? count / of : 0);
      return cell;
    });
    const whole = of ? `/${of * kept.length}` : "";
    return make("tr", {}, make("th", { scope: "row", class: "text" }, KINDS[kind] ?? kind), ...cells, make("td", { class: "sum" }, `${sum}${whole}`));
  }

  // --- colours ---

  const THEMES = { system: "light", light: "dark", dark: "system" };

  function setTheme(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = `Colours: ${theme}`;
    $("theme").onclick = () => { keepTheme(THEMES[theme]); setTheme(THEMES[theme]); };
  }

  // A browser may refuse storage to a local file; then the choice lasts as long as the page.
  function keepTheme(theme) {
    try { localStorage.setItem("theme", theme); } catch { /* see above */ }
  }

  function keptTheme() {
    try { return localStorage.getItem("theme"); } catch { return null; }
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
  setTheme(theme in THEMES ? theme : "system");
  document.querySelectorAll("[data-jump]").forEach((link) => link.addEventListener("click", jump));
  addEventListener("hashchange", () => { chosen = readChoice(); showAll(); });
  buildFilters();
  buildAxis();
  listenForCard();
  showAll();
}
