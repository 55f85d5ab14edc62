"""The main GLUE table: methods x tasks, one block per sparsity, published numbers beside ours. Stored records alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from math import isnan
from statistics import fmean

from suites.cells import GLUE, NAN, SINGLE_WEIGHTS, Cells, RowKey, ScoreColumn, metric_label
from suites.comparisons import AVERAGE, Comparisons, comparisons_of
from suites.formats import BETTER, NO_EVIDENCE, WORSE, Block, Cell, Column, Number, Row, Table
from suites.provenance import provenance
from suites.published import PublishedRow
from suites.published_rows import augmentation, beside, near, published_blocks
from suites.records import PlannedRun, Record, Results
from suites.statistics import LEAST_PAIRS, Summary, no_evidence

INCOMPLETE = "no average: no seed of this row finished every task"
NOT_PLANNED = "not planned"
MISSED_AVERAGE = "averages runs that missed their sparsity target"
OTHER_DATA = "on other data than most runs"
CORNER = ("sparsity", "method")
_STATES = {"missing": "not run yet", "stale": "interrupted", "unreachable": "not reachable"}


# --- the main table ---


def main_table(results: Results, caption: str, published: Sequence[PublishedRow] = ()) -> Table:
    """Methods x tasks, one block per sparsity; the notes of the table say every rule.

    Args:
        published: rows to show beside ours, each in the block of its sparsity and protocol.
    """
    comparisons = comparisons_of(results)
    cells = comparisons.cells
    published = beside(published, [row[1] for row in cells.rows("student")])
    columns = [score_column(cells, column) for column in cells.columns]
    infos = _infos(cells, bool(published))
    return Table(
        "table_main",
        caption,
        CORNER,
        (*(info.column for info in infos), *columns, average_column(cells), Column("kept (%)")),
        tuple(_blocks(comparisons, columns, infos, published)),
        (*_main_notes(comparisons), *(_PUBLISHED_NOTES if published else ()), *provenance(results)),
    )


@dataclass(frozen=True)
class Info:
    """A column about the runs of a row, before the scores; `text` is empty where it does not apply."""

    column: Column
    text: Callable[[RowKey], str]

    def cell(self, row: RowKey) -> Cell:
        text = self.text(row)
        return Cell((Number(text),) if text else ())


def _infos(cells: Cells, published: bool) -> list[Info]:
    """Seeds where there are several; beside published rows, all that says whether two rows may be compared."""
    seeds = Info(Column("seeds"), lambda row: str(cells.seeds(row)))
    if published:
        backbone = Info(Column("backbone"), lambda row: _backbone(cells, row))
        return [
            backbone,
            Info(Column("split"), lambda row: "dev"),
            Info(Column("augmented"), lambda row: augmentation(False)),
            seeds,
        ]
    several = any(cells.seeds(row) > 1 for role in ("teacher", "student") for row in cells.rows(role))
    return [seeds] if several else []


def _backbone(cells: Cells, row: RowKey) -> str:
    return ", ".join(dict.fromkeys(record.model for record in cells.done(cells.runs_of(row))))


def score_column(cells: Cells, column: ScoreColumn) -> Column:
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
    missing = [f"no {split} scores: {record.missing[split]}"] if split in record.missing else []
    return [*missing, *subset_marks(record)]


def subset_marks(record: Record) -> list[str]:
    """Which part of the official rows a run saw, where it was not all of them."""
    marks = []
    if record.data.subset:
        marks.append(f"only part of the official rows: {', '.join(record.data.subset)}")
    if record.data.max_train_rows is not None:
        marks.append(f"trained on at most {record.data.max_train_rows} rows")
    return marks


def _blocks(
    comparisons: Comparisons, columns: Sequence[Column], infos: Sequence[Info], published: Sequence[PublishedRow]
) -> Iterator[Block]:
    """Teachers and majority class first, then the students of each sparsity; published rows follow their block."""
    cells = comparisons.cells

    def shown(label: str, row: RowKey) -> Row:
        about = [info.cell(row) for info in infos]
        ends = (_average(comparisons, row), _retention(cells, row))
        return Row(label, (*about, *_scores(comparisons, row, columns), *ends), cells.row_marks(row))

    def others(sparsity: float, title: str) -> list[Block]:
        return published_blocks(cells, cells.columns, near(published, sparsity), title, after=2)

    teachers = [shown(f"{row[0]} (teacher)", row) for row in cells.rows("teacher")]
    yield Block("reference", (*teachers, _majority_row(cells, len(infos))))
    yield from others(0, "dense")
    for sparsity, rows in groupby(cells.rows("student"), key=lambda row: row[1]):
        yield Block(f"{sparsity:g}", with_best([shown(row[0], row) for row in rows], skip=len(infos)))
        yield from others(sparsity, f"{sparsity:g}")


def _scores(comparisons: Comparisons, row: RowKey, columns: Sequence[Column]) -> Iterator[Cell]:
    for column, head in zip(comparisons.cells.columns, columns, strict=True):
        cell = score_cell(comparisons.cells, row, column)
        marks = [mark for mark in cell.marks if mark not in head.marks]
        yield replace(cell, marks=(*significance(comparisons, row, column.title), *marks))


def significance(comparisons: Comparisons, row: RowKey, title: str = AVERAGE) -> list[str]:
    """The mark of a row that differs from the reference on a column, or over all tasks."""
    return {1: [BETTER], 0: [], -1: [WORSE]}[comparisons.direction(row, title)]


def score_cell(cells: Cells, row: RowKey, column: ScoreColumn) -> Cell:
    """Means over seeds of a cell's metrics, with every mark that a reader needs."""
    runs = cells.by_cell.get((*row, column.task), [])
    if not runs:
        return Cell(marks=(NOT_PLANNED,))
    records, weak = cells.done(runs), cells.weak(row, column)
    other = [OTHER_DATA] * bool(cells.other_data(records))
    missed = seed_marks(map(_missed_marks, records), len(runs))
    about = seed_marks((_record_marks(record, column) for record in records), len(runs))
    marks = (*[NO_EVIDENCE] * weak, *state_marks(runs), *missed, *other, *about)
    numbers = tuple(map(percent, cells.summaries(row, column).values()))
    return Cell(numbers, marks, ranked=not (weak or missed or other))


def state_marks(runs: Sequence[PlannedRun]) -> list[str]:
    """Why runs of a cell are not finished, with their number if others are."""
    unfinished = Counter((run.state, run.note) for run in runs if run.state != "done")
    return [_part_of(count, len(runs)) + _state(*reason) for reason, count in unfinished.items()]


def seed_marks(marks: Iterable[Iterable[str]], planned: int) -> list[str]:
    """Marks of the finished runs of a cell, each with its number of seeds where others of them lack it."""
    finished = [list(dict.fromkeys(found)) for found in marks]
    counts = Counter(mark for found in finished for mark in found)
    return [mark if count == len(finished) else f"{count} of {planned} seeds: {mark}" for mark, count in counts.items()]


def _part_of(count: int, total: int) -> str:
    return "" if count == total else f"{count} of {total} seeds "


def _state(state: str, note: str) -> str:
    words = _STATES.get(state, state)
    return f"{words}: {note}" if note else words


def _missed_marks(record: Record) -> Iterator[str]:
    if record.missed_target:
        yield f"true sparsity {100 * record.size.sparsity:.1f} %, target {100 * record.sparsity_target:.1f} %"


def _record_marks(record: Record, column: ScoreColumn) -> Iterator[str]:
    yield from _data_marks(record, column)
    if (split := column.split_of(record)) in record.constant_predictions:
        yield f"constant predictions on {split}"


def run_marks(record: Record) -> Iterator[str]:
    """What a reader must know before believing a run."""
    size, split = record.size, record.primary.split
    if no_evidence(record.scores.get(split, {}), record.majority.get(split, {})):
        yield NO_EVIDENCE
    if record.missed_target:
        yield f"missed its target: sparsity {100 * size.sparsity:.1f} % of {100 * record.sparsity_target:.1f} %"
    if record.single_weights:
        yield SINGLE_WEIGHTS
    yield from subset_marks(record)
    yield from (f"no {name} scores: {why}" for name, why in record.missing.items())
    yield from record.warnings


def _average(comparisons: Comparisons, row: RowKey) -> Cell:
    cell = average_in_column(comparisons.cells, row)
    return replace(cell, marks=(*significance(comparisons, row), *cell.marks)) if cell.numbers else cell


@lru_cache(maxsize=1)
def average_column(cells: Cells) -> Column:
    """Header of the averages, with what holds for the data of every row that has finished runs."""
    rows = [row for role in ("teacher", "student") for row in cells.rows(role) if cells.done(cells.runs_of(row))]
    marks = [_average_subsets(cells, row) for row in rows]
    return Column("avg", (), tuple(mark for mark in marks[0] if all(mark in other for other in marks)) if marks else ())


def average_in_column(cells: Cells, row: RowKey) -> Cell:
    """`average_cell` without the marks that its header has."""
    cell, common = average_cell(cells, row), average_column(cells).marks
    return replace(cell, marks=tuple(mark for mark in cell.marks if mark not in common))


def average_cell(cells: Cells, row: RowKey) -> Cell:
    """Average over the tasks, marked where it is not over all seeds and rows, or over runs unlike those of others."""
    summary = cells.averages.get(row)
    if summary is None:
        return Cell(marks=(INCOMPLETE,))
    records, planned = cells.done(cells.runs_of(row)), cells.seeds(row)
    apart = [MISSED_AVERAGE] if any(record.missed_target for record in records) else []
    if tasks := cells.other_data(records):
        apart.append(f"{OTHER_DATA}: {', '.join(tasks)}")
    part = [f"average over the {summary.n} of {planned} seeds that finished every task"] * (summary.n < planned)
    return Cell((percent(summary),), (*apart, *part, *_average_subsets(cells, row)), ranked=not apart)


def _average_subsets(cells: Cells, row: RowKey) -> list[str]:
    """Marks of partial data of all finished runs of a row."""
    records = cells.done(cells.runs_of(row))
    return list(dict.fromkeys(mark for record in records for mark in subset_marks(record)))


def _retention(cells: Cells, row: RowKey) -> Cell:
    """Share of the teachers' scores that is kept; a dash wherever the average has none."""
    summary = cells.retention.get(row)
    known = summary is not None and summary.n and row in cells.averages
    return Cell((percent(summary),), ranked=average_cell(cells, row).ranked) if summary and known else Cell()


def _majority_row(cells: Cells, infos: int) -> Row:
    scores = [[cells.majority(column, metric) for metric in cells.metrics(column)] for column in cells.columns]
    primary = [cells.majority(column, cells.primary(column.task)) for column in cells.tasks]
    average = Cell(marks=(INCOMPLETE,)) if any(map(isnan, primary)) else _plain([fmean(primary)])
    return Row("majority class", (*[Cell()] * infos, *map(_plain, scores), average, Cell()))


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


_PUBLISHED_NOTES = (
    "Published rows: other people's numbers as their sources print them, never ranked with ours; backbone, split, "
    "augmentation and seeds as far as stated. Their sparsity is nominal, as each source counts it.",
)


def _main_notes(comparisons: Comparisons) -> list[str]:
    cells = comparisons.cells
    titles = {task: title for title, task, _ in reversed(GLUE)}
    primary = [
        f"{titles.get(column.task, column.task)} {metric_label(cells.primary(column.task))}"
        for column in cells.tasks
        if cells.primary(column.task)
    ]
    return [
        "Scores × 100; mean ± standard deviation (ddof 1) over seeds where there are several.",
        f"avg: mean over the tasks, each counted once by its primary metric ({', '.join(primary)}).",
        "kept: mean over the tasks of the run's score over that of its own teacher (of the dense run with its seed "
        "where the method has no teacher).",
        *significance_notes(comparisons),
        "Bold: best of its block among the cells that carry evidence, met their sparsity target and are on the data "
        "of most runs.",
        "Sparsity: removed share of the weights and biases of the encoder's attention and feed-forward "
        "linear maps; runs more than 0.5 points off their target are marked.",
    ]


def significance_notes(comparisons: Comparisons) -> list[str]:
    """What the arrows mean; nothing where there is no reference to compare with."""
    if not comparisons.rivals:
        return []
    tested = sum(not isnan(each.p) for each in comparisons.over_runs.values())
    return [
        f"Arrows: better or worse than {comparisons.reference} at the same sparsity and seeds, p < .05 after Holm's "
        f"correction over the {comparisons.tests} tests of the table. Tasks: paired bootstrap over seeds and examples "
        "of the primary metric; avg: Wilcoxon's signed-rank test over (task, seed) pairs, possible where "
        f"{LEAST_PAIRS} of them differ ({tested} of {len(comparisons.rivals)} rows).",
        *[_ONE_PAIR] * comparisons.on_one_pair,
        *(f"In no test of a task: {run_id}, {_DAMAGED}." for run_id in comparisons.damaged),
    ]


_DAMAGED = "whose predictions.parquet is damaged; delete the run and launch again"
_ONE_PAIR = "With one seed a task's arrow says that these two runs differ; with other seeds their methods might not."
