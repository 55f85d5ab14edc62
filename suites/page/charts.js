// Score against sparsity or speedup: a panel per task, a point per run.

const DASHES = ["", "6 2", "2 2", "7 2 2 2"];
// Markers around (0, 0), about 9 units wide.
const MARKERS = [
  "M4.2 0A4.2 4.2 0 1 1-4.2 0A4.2 4.2 0 1 1 4.2 0Z",
  "M-3.8-3.8H3.8V3.8H-3.8Z",
  "M0-5L5 0L0 5L-5 0Z",
  "M0-4.8L4.6 3.6H-4.6Z",
  "M0 4.8L4.6-3.6H-4.6Z",
  "M-1.6-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z",
  "M-4.8 0L3.6-4.6V4.6Z",
  "M4.8 0L-3.6-4.6V4.6Z",
  "M0-5L4.8-1.5L3 4.1H-3L-4.8-1.5Z",
  "M0-5.2L1.5-1.7 5.2-1.6 2.3.8 3.2 4.6 0 2.4-3.2 4.6-2.3.8-5.2-1.6-1.5-1.7Z",
];
const BOX = { left: 40, right: 332, top: 10, bottom: 190, strip: 234, width: 340, height: 244 };

function buildAxis() {
  const axes = Object.entries(AXES).filter(([key]) => key !== "speedup" || HAS_SPEEDUP);
  const radios = axes.map(([key, [, text]]) =>
    make(
      "label",
      {},
      make("input", { type: "radio", name: "x", value: key, onchange: () => choose({ x: key }) }),
      ` ${text}`,
    ),
  );
  $("axis").append(...radios);
}

function showCharts(runs) {
  const students = runs.filter((run) => run.role === "student");
  const byTask = groupBy(students, (run) => run.task);
  const tasks = DATA.tasks.filter((task) => byTask.has(task.name));
  const range = extent(students.filter((run) => run[chosen.x]).map((run) => Number(run[chosen.x])));
  $("panels").replaceChildren(...tasks.map((task) => panel(task, byTask.get(task.name), range)));
  if (!tasks.length) $("panels").replaceChildren(make("p", {}, "No student runs are chosen."));
  showLegend(students);
}

function showLegend(students) {
  const labels = new Set(students.map((run) => run.label));
  const methods = [...labels].map((label) => make("li", {}, swatch(PLACE.get(label)), label));
  const level = (name, text) =>
    make(
      "li",
      {},
      draw(
        "svg",
        { class: "swatch", viewBox: "0 0 30 12", "aria-hidden": "true" },
        draw("line", { class: name, x1: 0, x2: 30, y1: 6, y2: 6 }),
      ),
      text,
    );
  const lost = students.some((run) => run.state !== "done");
  $("legend").replaceChildren(
    ...methods,
    level("teacher", "teacher"),
    level("majority", "majority class"),
    make("li", {}, "hollow: run with marks"),
    ...(lost ? [make("li", {}, "✕ ⊘ ∅ ○ with a number: runs without a result")] : []),
  );
}

function look(place) {
  return { class: `m${place % 9}`, marker: MARKERS[place % MARKERS.length], dash: DASHES[place % DASHES.length] };
}

function swatch(place) {
  const { class: colour, marker, dash } = look(place);
  return draw(
    "svg",
    { class: `swatch ${colour}`, viewBox: "0 0 30 12", "aria-hidden": "true" },
    draw("line", { class: "line", x1: 0, x2: 30, y1: 6, y2: 6, "stroke-dasharray": dash }),
    draw("path", { class: "point", d: marker, transform: "translate(15 6)" }),
  );
}

function extent(values) {
  if (!values.length) return [0, 1];
  const [low, high] = values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

function ticks([low, high], most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, place) =>
    Number(((first + place) * step).toPrecision(10)),
  );
}

const scale =
  ([low, high], from, to) =>
  (value) =>
    from + ((value - low) / (high - low)) * (to - from);

function panel(task, runs, range) {
  const done = runs.filter((run) => run.score && run[chosen.x]);
  const teachers = DATA.runs.filter(
    (run) =>
      run.role === "teacher" &&
      run.task === task.name &&
      run.score &&
      (chosen.seed === ALL || String(run.seed) === chosen.seed),
  );
  const heights = extent([...done, ...teachers].map((run) => Number(run.score)));
  const x = scale(range, BOX.left, BOX.right);
  const y = scale(heights, BOX.bottom, BOX.top);
  const label = `${task.title}: ${task.metric} against ${AXES[chosen.x][1]}, ${plural(done.length, "run")}`;
  const picture = draw(
    "svg",
    { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "group", "aria-label": label },
    ...axes(range, heights, x, y),
    ...levels(teachers, done, heights, y),
    ...lines(done, x, y),
  );
  const points = done.map((run) => point(run, x(Number(run[chosen.x])), y(Number(run.score))));
  points.sort((a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1]);
  const stops = [
    ...points.map(({ shape }) => shape),
    ...lostGroups(
      runs.filter((run) => !done.includes(run)),
      x,
    ),
  ];
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
  const frame = draw("path", {
    class: "frame",
    d: `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}`,
    fill: "none",
  });
  const name = draw(
    "text",
    { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 30, "text-anchor": "middle", "aria-hidden": "true" },
    AXES[chosen.x][0],
  );
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
  return [
    ...level(
      "teacher",
      teachers.map((run) => Number(run.score)),
    ),
    ...level(
      "majority",
      known.map((run) => Number(run.majority)),
    ),
  ];
}

const meanOf = (runs, key) => mean(runs.map((run) => Number(run[key])));

function lines(done, x, y) {
  return [...groupBy(done, (run) => run.label)].map(([label, runs]) => {
    const targets = [...groupBy(runs, (run) => run.sparsity)].sort(([a], [b]) => a - b);
    const stops = targets.map(
      ([, own]) => `${x(meanOf(own, chosen.x)).toFixed(1)} ${y(meanOf(own, "score")).toFixed(1)}`,
    );
    const { class: colour, dash } = look(PLACE.get(label));
    return draw("path", { class: `line ${colour}`, d: `M${stops.join("L")}`, "stroke-dasharray": dash });
  });
}

function point(run, left, top) {
  const { class: colour, marker } = look(PLACE.get(run.label));
  const marks = run.marks.length ? `; ${plural(run.marks.length, "mark")}: ${run.marks.join("; ")}` : "";
  const across = `${AXES[chosen.x][1]} ${run[chosen.x]}`;
  const shape = draw("path", {
    class: `point ${colour}${run.marks.length ? " marked" : ""}`,
    d: marker,
    transform: `translate(${left.toFixed(1)} ${top.toFixed(1)})`,
    role: "button",
    "aria-label": `${title(run)}: ${TASK.get(run.task).metric} ${run.score}, ${across}${marks}`,
    onpointerenter: (event) => hover(run, event.currentTarget),
    onpointerleave: unhover,
    onfocus: (event) => {
      if (event.currentTarget.matches(":focus-visible")) hover(run, event.currentTarget);
    },
    onclick: (event) => pin(run, event.currentTarget),
  });
  return { shape, place: [left, top] };
}

/** Runs without a point, below the axis: one sign per sparsity, or one in all where the axis is not sparsity. */
function lostGroups(lost, x) {
  const groups = groupBy(lost, (run) => (chosen.x === "reached" ? run.sparsity : null));
  return [...groups].map(([sparsity, runs]) => {
    const counts = [...groupBy(runs, (run) => run.state)].map(
      ([state, own]) => `${(STATES[state] ?? ["?"])[0]}${own.length}`,
    );
    const left =
      sparsity === null ? (BOX.left + BOX.right) / 2 : Math.min(Math.max(x(100 * sparsity), BOX.left), BOX.right - 10);
    const open = (event) => pinLost(runs, event.currentTarget);
    return draw(
      "g",
      {
        class: "lost-group",
        role: "button",
        "aria-label": `${plural(runs.length, "run")} without a point: ${counts.join(" ")}`,
        onclick: open,
      },
      draw("text", { x: left, y: BOX.strip + 6 }, counts.join(" ")),
    );
  });
}

function step(event, stops) {
  const place = stops.indexOf(event.target);
  if (place < 0) return;
  const moves = {
    ArrowRight: place + 1,
    ArrowDown: place + 1,
    ArrowLeft: place - 1,
    ArrowUp: place - 1,
    Home: 0,
    End: stops.length - 1,
  };
  if (event.key === "Enter" || event.key === " ")
    event.target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
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
