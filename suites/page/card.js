// The card with the details of a run, beside what it tells of.

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
    cardHead(title(run)),
    facts(runFacts(run)),
    ...(marks.length
      ? [make("strong", {}, "Marks"), make("ul", {}, ...marks.map((mark) => make("li", {}, mark)))]
      : []),
    make("p", {}, "Run: ", folderLink(run, run.id)),
    ...(run.settings === undefined
      ? []
      : [
          make(
            "details",
            { open: true },
            make("summary", {}, "Settings"),
            facts(Object.entries(DATA.settings[run.settings])),
          ),
        ]),
  ];
}

const folderLink = (run, text) => (run.folder ? make("a", { href: run.folder }, text) : text);

function runFacts(run) {
  const target = run.sparsity ? `${run.reached} % (target ${Number((100 * run.sparsity).toPrecision(6))} %)` : "";
  const measured = run.score
    ? [
        ...run.scores,
        ["of teacher", run.retention && `${run.retention} %`],
        ["sparsity", target],
        ["FLOPs ratio", run.flops],
        ["speedup", run.speedup],
        ["parameters", `${run.parameters} M in the encoder`],
        ["time", `${run.seconds} s`],
        ["finished", run.finished],
      ]
    : [];
  return [["state", stateText(run.state)], ["method", run.method], ["paper", PAPER.get(run.label)], ...measured].filter(
    ([, value]) => value,
  );
}

function facts(pairs) {
  return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function lostCard(runs) {
  const most = 8;
  const shown = runs
    .slice(0, most)
    .map((run) =>
      make("li", {}, folderLink(run, title(run)), ` ${stateText(run.state)}${run.note ? `: ${run.note}` : ""}`),
    );
  const rest = runs.length > most ? [make("p", {}, `and ${runs.length - most} more in the table of runs`)] : [];
  return [cardHead(`${plural(runs.length, "run")} without a point`), make("ul", {}, ...shown), ...rest];
}

function listenForCard() {
  $("card").addEventListener("pointerenter", () => clearTimeout(leaving));
  $("card").addEventListener("pointerleave", unhover);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") dismissCard();
  });
  document.addEventListener("click", (event) => {
    if (event.target !== source && !source?.contains(event.target) && !$("card").contains(event.target)) closeCard();
  });
}
