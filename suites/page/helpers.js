// What all other scripts use. Texts of records enter the page by textContent and attributes only, never as HTML.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const ROWS = 200; // rows of the runs' table before "show all"
const STRUCTURES = 6;
const ALL = "all";
const KINDS = {
  head: "heads",
  qk: "QK dims",
  vo: "VO dims",
  ffn: "FFN dims",
  hidden: "hidden dims",
  mha_layer: "attention",
  ffn_layer: "FFN layer",
  weight: "weights",
};
const STATES = {
  done: ["✓", "finished"],
  failed: ["✕", "failed"],
  blocked: ["⊘", "blocked"],
  unreachable: ["∅", "not reachable"],
  missing: ["○", "not run yet"],
  running: ["▷", "running"],
  stale: ["◌", "interrupted"],
};
const AXES = {
  reached: ["sparsity reached (%)", "sparsity"],
  flops: ["FLOPs, dense over this model", "FLOPs ratio"],
  speedup: ["measured speedup", "speedup"],
};
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
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
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
  const sparsity = run.sparsity ? `sparsity ${run.sparsity}` : "dense";
  return `${run.label}, ${taskTitle(run.task)}, ${sparsity}, seed ${run.seed}`;
}
