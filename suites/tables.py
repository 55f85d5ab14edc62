"""What the report's tables say: the main GLUE table and the table of sizes, from stored records alone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import isnan
from statistics import fmean

from suites.cells import GLUE, NAN, Cells, RowKey, ScoreColumn, metric_label
from suites.formats import NO_EVIDENCE, Block, Cell, Column, Number, Row, Table
from suites.provenance import provenance
from suites.records import PlannedRun, Record, Results
from suites.statistics import Summary

INCOMPLETE = "no average: no seed of this row finished every task"
NOT_PLANNED = "not planned"
MISSED_AVERAGE = "averages runs that missed their sparsity target"
_CORNER = ("sparsity", "method")
_STATES = {"missing": "not run yet", "stale": "interrupted", "unreachable": "not reachable"}


# --- the main table ---


def main_table(results: Results, caption: str) -> Table:
    """Methods x tasks, one block per sparsity; the notes of the table say every rule."""
    cells = Cells(results)
    columns = [_column(cells, column) for column in cells.columns]
    several = any(cells.seeds(row) > 1 for role in ("teacher", "student") for row in cells.rows(role))
    seeds = [Column("seeds")] if several else []
    return Table(
        "table_main",
        caption,
        _CORNER,
        (*seeds, *columns, Column("avg")),
        tuple(_blocks(cells, columns, several)),
        (*_main_notes(cells), *provenance(results)),
    )


def _column(cells: Cells, column: ScoreColumn) -> Column:
    """Header, with the marks that hold for every finished run of the column."""
    records = cells.by_task.get(column.task, [])
    marks = [_data_marks(record, column) for record in records]
    common = [mark for mark in marks[0] if all(mark in other for other in marks)] if marks else []
    versions = len({record.data.content for record in records})
    mixed = [f"runs on {versions} different versions of the data"] if versions > 1 else []
    return Column(column.title, tuple(map(metric_label, cells.metrics(column))), (*common, *mixed))


def _data_marks(record: Record, column: ScoreColumn) -> list[str]:
    """What a reader must know of the data behind a score."""
    split = column.split_of(record)
    marks = []
    if split in record.missing:
        marks.append(f"no {split} scores: {record.missing[split]}")
    if record.data.subset:
        marks.append(f"only part of the official rows: {', '.join(record.data.subset)}")
    if record.data.max_train_rows is not None:
        marks.append(f"trained on at most {record.data.max_train_rows} rows")
    return marks


def _blocks(cells: Cells, columns: Sequence[Column], several: bool) -> Iterator[Block]:
    """Teachers and majority class first, then the students of each sparsity."""

    def shown(label: str, row: RowKey) -> Row:
        count = [Cell((Number(str(cells.seeds(row))),))] if several else []
        return Row(label, (*count, *_scores(cells, row, columns), _average(cells, row)))

    teachers = [shown(f"{row[0]} (teacher)", row) for row in cells.rows("teacher")]
    yield Block("reference", (*teachers, _majority_row(cells, several)))
    for sparsity, rows in groupby(cells.rows("student"), key=lambda row: row[1]):
        yield Block(f"{sparsity:g}", with_best([shown(row[0], row) for row in rows], skip=int(several)))


def _scores(cells: Cells, row: RowKey, columns: Sequence[Column]) -> Iterator[Cell]:
    for column, head in zip(cells.columns, columns, strict=True):
        cell = _score(cells, row, column)
        yield replace(cell, marks=tuple(mark for mark in cell.marks if mark not in head.marks))


def _score(cells: Cells, row: RowKey, column: ScoreColumn) -> Cell:
    runs = cells.by_cell.get((*row, column.task), [])
    if not runs:
        return Cell(marks=(NOT_PLANNED,))
    records, weak = cells.done(runs), cells.weak(row, column)
    missed = _missed_marks(records)
    marks = [*[NO_EVIDENCE] * weak, *state_marks(runs), *missed, *_record_marks(records, column)]
    numbers = tuple(map(percent, cells.summaries(row, column).values()))
    return Cell(numbers, tuple(dict.fromkeys(marks)), ranked=not (weak or missed))


def state_marks(runs: Sequence[PlannedRun]) -> list[str]:
    """Why runs of a cell are not finished, with their number if others are."""
    unfinished = Counter((run.state, run.note) for run in runs if run.state != "done")
    return [_part_of(count, len(runs)) + _state(*reason) for reason, count in unfinished.items()]


def _part_of(count: int, total: int) -> str:
    return "" if count == total else f"{count} of {total} seeds "


def _state(state: str, note: str) -> str:
    words = _STATES.get(state, state)
    return f"{words}: {note}" if note else words


def _missed_marks(records: Iterable[Record]) -> list[str]:
    return [
        f"true sparsity {100 * record.size.sparsity:.1f} %, target {100 * record.sparsity_target:.1f} %"
        for record in records
        if record.missed_target
    ]


def _record_marks(records: Iterable[Record], column: ScoreColumn) -> Iterator[str]:
    for record in records:
        yield from _data_marks(record, column)
        if (split := column.split_of(record)) in record.constant_predictions:
            yield f"constant predictions on {split}"


def _average(cells: Cells, row: RowKey) -> Cell:
    summary = cells.averages.get(row)
    if summary is None:
        return Cell(marks=(INCOMPLETE,))
    missed = any(record.missed_target for record in cells.done(cells.runs_of(row)))
    planned = cells.seeds(row)
    marks = [MISSED_AVERAGE] if missed else []
    if summary.n < planned:
        marks.append(f"average over the {summary.n} of {planned} seeds that finished every task")
    return Cell((percent(summary),), tuple(marks), ranked=not missed)


def _majority_row(cells: Cells, several: bool) -> Row:
    scores = [[cells.majority(column, metric) for metric in cells.metrics(column)] for column in cells.columns]
    primary = [cells.majority(column, cells.primary(column.task)) for column in cells.tasks]
    average = Cell(marks=(INCOMPLETE,)) if any(map(isnan, primary)) else _plain([fmean(primary)])
    return Row("majority class", (*[Cell()] * several, *map(_plain, scores), average))


def _plain(values: Sequence[float]) -> Cell:
    """Scores without seeds; a dash if one is unknown."""
    known = not any(map(isnan, values))
    return Cell(tuple(percent(Summary(value, NAN, 1)) for value in values) if known else ())


def percent(summary: Summary) -> Number:
    """A fraction as printed: times 100, one decimal; the sd only for more than one value."""
    return Number(_tenths(summary.mean), _tenths(summary.sd) if summary.n > 1 else "")


def _tenths(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"


def with_best(rows: Sequence[Row], skip: int = 0) -> tuple[Row, ...]:
    """Mark the best printed numbers (ties too) of a block in all columns but the first `skip`."""
    columns = list(zip(*(row.cells for row in rows), strict=True))
    marked = [cells if place < skip else _best_marked(cells) for place, cells in enumerate(columns)]
    return tuple(replace(row, cells=cells) for row, cells in zip(rows, zip(*marked, strict=True), strict=True))


def _best_marked(cells: Sequence[Cell]) -> Sequence[Cell]:
    """Only ranked cells compete, and a cell without a rival is not the best of anything."""
    ranked = [cell.numbers for cell in cells if cell.ranked and cell.numbers]
    if len(ranked) < 2:
        return cells
    tops = [max(float(number.text) for number in numbers) for numbers in zip(*ranked, strict=True)]
    return [_with_tops(cell, tops) if cell.ranked else cell for cell in cells]


def _with_tops(cell: Cell, tops: Sequence[float]) -> Cell:
    numbers = (replace(number, best=float(number.text) == top) for number, top in zip(cell.numbers, tops, strict=False))
    return replace(cell, numbers=tuple(numbers))


def _main_notes(cells: Cells) -> list[str]:
    titles = {task: title for title, task, _ in reversed(GLUE)}
    primary = [
        f"{titles.get(column.task, column.task)} {metric_label(cells.primary(column.task))}"
        for column in cells.tasks
        if cells.primary(column.task)
    ]
    return [
        "Scores × 100; mean ± standard deviation (ddof 1) over seeds where there are several.",
        f"avg: mean over the tasks, each counted once by its primary metric ({', '.join(primary)}).",
        "Bold: best of its block among the cells that carry evidence and met their sparsity target.",
        "Sparsity: removed share of the weights and biases of the encoder's attention and feed-forward "
        "linear maps; runs more than 0.5 points off their target are marked.",
    ]


# --- the table of sizes ---

_SIZE_COLUMNS = ("runs", "parameters (M)", "true sparsity (%)", "FLOPs ratio", "seconds")
_SIZE_NOTES = (
    "Means over the finished runs. Parameters: kept weights and biases of the encoder's attention and "
    "feed-forward linear maps, in millions. FLOPs ratio: the dense model's over this one's, at the task's "
    "mean length. Seconds: wall clock of one run, its teacher's not included.",
)


def size_table(results: Results, caption: str) -> Table:
    """Per method and sparsity: finished runs, kept parameters, true sparsity, FLOPs ratio, seconds."""
    cells = Cells(results)
    keys = [("reference", row) for row in cells.rows("teacher")]
    keys += [(f"{row[1]:g}", row) for row in cells.rows("student")]
    blocks = [
        Block(title, tuple(Row(row[0], _sizes(cells, row)) for _, row in group))
        for title, group in groupby(keys, key=lambda key: key[0])
    ]
    columns = tuple(map(Column, _SIZE_COLUMNS))
    return Table("table_size", caption, _CORNER, columns, tuple(blocks), (*_SIZE_NOTES, *provenance(results)))


def _sizes(cells: Cells, row: RowKey) -> tuple[Cell, ...]:
    runs = cells.runs_of(row)
    records = cells.done(runs)
    missed = sum(record.missed_target for record in records)
    off = (f"{missed} of {len(records)} runs more than 0.5 points off their target",) if missed else ()
    unfinished = () if len(records) == len(runs) else (f"{len(runs)} runs planned",)
    return (
        Cell((Number(str(len(records))),), unfinished),
        _mean("{:.3f}", [record.size.encoder_kept / 1e6 for record in records]),
        replace(_mean("{:.1f}", [100 * record.size.sparsity for record in records]), marks=off),
        _mean("{:.2f}", [record.size.flops_ratio for record in records]),
        _mean("{:.1f}", [record.seconds for record in records]),
    )


def _mean(form: str, values: Sequence[float]) -> Cell:
    """Mean as one printed number; a dash if there is no value or one is unknown."""
    known = bool(values) and not any(map(isnan, values))
    return Cell((Number(form.format(fmean(values))),) if known else ())
