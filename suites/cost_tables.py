"""Tables of what runs cost and what is left of their models: size, structure, training. Stored records alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import isnan
from statistics import fmean

from suites.cells import Cells, RowKey
from suites.comparisons import comparisons_of
from suites.formats import Block, Cell, Column, Number, Row, Table
from suites.kept import read_kept
from suites.provenance import provenance
from suites.records import Record, Results
from suites.statistics import NAN, summary
from suites.tables import CORNER

RowCells = Callable[[Cells, RowKey], Iterator[Cell]]
_NOTES = {
    "size": (
        "Means over the finished runs. Encoder parameters: kept weights and biases of the encoder's attention and "
        "feed-forward linear maps; all parameters: of the whole model, embeddings included; both in millions.",
        "FLOPs: the dense model's over this one's, at the task's mean length. Latency: one batch through the layers of "
        "the extracted model while other runs may have shared the machine, so take the speedup, which was measured "
        "against the dense model in turns, before the seconds.",
    ),
    "structure": (
        "Means over the finished runs, ± standard deviation. Attention layers: layers with at least one head; heads: "
        "of the whole model; QK and VO: query-key and value-output dims per kept head; FFN: dims per layer, layers "
        "without any included. A dash: unknown from what the run stored.",
    ),
    "training": (
        "Means over the finished runs. Steps: before the search, in it, and of recovery after extraction. Scoring "
        "passes: forward and backward passes of the student that only score units. Minutes: wall clock of one run, its "
        "teacher's not included; hours in all: of all finished runs of the row.",
    ),
}


def size_table(results: Results, caption: str) -> Table:
    """Per method and sparsity: parameters, true sparsity, FLOPs, latency, speedup."""
    titles = ("runs", "encoder (M)", "all (M)", "true sparsity (%)", "FLOPs ratio", "latency (ms)", "speedup")
    return _table(results, "size", caption, titles, _sizes)


def structure_table(results: Results, caption: str) -> Table:
    """Per method and sparsity: what is left of heads, their dims and feed-forward layers (GRAIN's Table 6)."""
    titles = ("runs", "attention layers", "heads", "QK/head", "VO/head", "FFN/layer", "hidden")
    return _table(results, "structure", caption, titles, _structure)


def training_table(results: Results, caption: str) -> Table:
    """Per method and sparsity: steps, scoring passes, wall clock, GPU-hours, peak memory."""
    titles = ("runs", "before", "search", "recovery", "scoring passes", "minutes", "hours in all", "device", "GB")
    return _table(results, "training", caption, titles, _training)


def _table(results: Results, name: str, caption: str, titles: Sequence[str], cells_of: RowCells) -> Table:
    """One block per sparsity; columns in which no row has anything are left out."""
    cells = comparisons_of(results).cells
    rows = [("reference", row) for row in cells.rows("teacher")]
    rows += [(f"{row[1]:g}", row) for row in cells.rows("student")]
    shown = [(title, Row(row[0], tuple(cells_of(cells, row)), cells.row_marks(row))) for title, row in rows]
    used = [place for place, _ in enumerate(titles) if any(row.cells[place].numbers for _, row in shown)]
    blocks = [
        Block(title, tuple(replace(row, cells=tuple(row.cells[place] for place in used)) for _, row in group))
        for title, group in groupby(shown, key=lambda pair: pair[0])
    ]
    columns = tuple(Column(titles[place]) for place in used)
    notes = (*_NOTES[name], *provenance(results))
    return Table(f"table_{name}", caption, CORNER, columns, tuple(blocks), notes)


def _sizes(cells: Cells, row: RowKey) -> Iterator[Cell]:
    runs = cells.runs_of(row)
    records = cells.done(runs)
    missed = sum(record.missed_target for record in records)
    off = (f"{missed} of {len(records)} runs more than 0.5 points off their target",) if missed else ()
    latencies = [record.latency for record in records if record.latency]
    yield _runs(cells, row)
    yield _mean("{:.3f}", [record.size.encoder_kept / 1e6 for record in records])
    yield _mean("{:.3f}", [_known(record.size.total) / 1e6 for record in records])
    yield replace(_mean("{:.1f}", [100 * record.size.sparsity for record in records]), marks=off)
    yield _mean("{:.2f}", [record.size.flops_ratio for record in records])
    yield _mean("{:.1f}", [1000 * latency.seconds for latency in latencies])
    yield replace(_mean("{:.2f}", [latency.speedup for latency in latencies]), marks=_latency_marks(records))


def _latency_marks(records: Sequence[Record]) -> tuple[str, ...]:
    """How latencies were taken, and how many of the runs have one."""
    ways = {f"batch {latency.batch}, {latency.tokens} tokens" for record in records if (latency := record.latency)}
    without = sum(record.latency is None for record in records)
    some = (f"{without} of {len(records)} runs were not timed",) if ways and without else ()
    return (*sorted(ways), *some)


def _structure(cells: Cells, row: RowKey) -> Iterator[Cell]:
    records = cells.done(cells.runs_of(row))
    found = [read_kept(cells.results.store / record.run_id, record) for record in records]
    yield _runs(cells, row)
    for values in zip(*found, strict=True):
        yield _mean_and_spread(values)
    if not found:
        yield from [Cell()] * 6


def _training(cells: Cells, row: RowKey) -> Iterator[Cell]:
    records = cells.done(cells.runs_of(row))
    yield _runs(cells, row)
    for phase in ("before", "search", "recovery"):
        yield _mean("{:.0f}", [record.steps.get(phase, NAN) for record in records])
    yield _mean("{:.0f}", [_known(record.scoring_passes) for record in records])
    yield _mean("{:.1f}", [record.seconds / 60 for record in records])
    yield Cell((Number(f"{sum(record.seconds for record in records) / 3600:.2f}"),) if records else ())
    devices = sorted({"GPU" if record.on_gpu else "CPU" for record in records if record.environment.device})
    yield Cell((Number(", ".join(devices)),) if devices else ())
    yield _mean("{:.2f}", [_known(record.peak_memory) / 1e9 for record in records])


def _runs(cells: Cells, row: RowKey) -> Cell:
    runs = cells.runs_of(row)
    done = len(cells.done(runs))
    return Cell((Number(str(done)),), () if done == len(runs) else (f"{len(runs)} runs planned",))


def _known(value: float | None) -> float:
    return NAN if value is None else value


def _mean(form: str, values: Sequence[float]) -> Cell:
    """Mean as one printed number; a dash if there is no value or one is unknown."""
    known = bool(values) and not any(map(isnan, values))
    return Cell((Number(form.format(fmean(values))),) if known else ())


def _mean_and_spread(values: Sequence[float]) -> Cell:
    found = summary(values)
    if isnan(found.mean):
        return Cell()
    return Cell((Number(f"{found.mean:.1f}", f"{found.sd:.1f}" if found.n > 1 else ""),))
