"""Published numbers as blocks of our tables, one block for each way of taking scores."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from suites.cells import Cells, ScoreColumn, metric_label
from suites.comparisons import comparisons_of
from suites.formats import UNNAMED, Block, Cell, Column, Number, Row, Table
from suites.published import METRICS, NOT_STATED, Protocol, PublishedRow, PublishedScore
from suites.records import Results

OURS = Protocol("dev", augmented=False, unstructured=False)
NEAR = 0.006
"""Published rows stand beside our block if their nominal sparsity is this near to it."""

_NOTES = (
    "Scores in percent as their sources print them. Removed: nominal, as each source counts it; encoder: millions of "
    "parameters without embeddings. Blocks are never to be compared with each other.",
)


def published_blocks(
    cells: Cells,
    columns: Sequence[ScoreColumn],
    rows: Iterable[PublishedRow],
    title: str,
    after: int = 0,
    sizes: bool = False,
) -> list[Block]:
    """Rows as blocks named `<title> published, <protocol>`; each row is marked with where it stands.

    Args:
        columns: tasks, in the order of the table.
        after: number of empty cells behind the scores, for averages and the like, which are ours alone.
        sizes: whether two cells before all others tell the share removed and the size of the encoder.
    """
    groups: dict[Protocol, list[Row]] = defaultdict(list)
    for row in rows:
        before = [*(_size_cells(row) if sizes else []), *info_cells(row)]
        scores = [_score(cells, column, row) for column in columns]
        groups[row.key.protocol].append(_row(row, before, scores, after))
    name = f"{title} published".strip()
    return [Block(f"{name}, {protocol.words}", tuple(shown)) for protocol, shown in groups.items()]


def _size_cells(row: PublishedRow) -> list[Cell]:
    key = row.key
    removed = "" if key.sparsity is None else f"{100 * key.sparsity:g}"
    size = "" if key.encoder_params is None else f"{key.encoder_params:g}"
    return [Cell((Number(text),) if text else ()) for text in (removed, size)]


def published_table(results: Results, caption: str, rows: Iterable[PublishedRow]) -> Table | None:
    """All rows on the suite's tasks, one block for each way of taking scores; None if there are none."""
    rows = list(rows)
    if not rows:
        return None
    cells = comparisons_of(results).cells
    blocks = published_blocks(cells, cells.columns, rows, "", sizes=True)
    columns = [Column(column.title, tuple(map(metric_label, cells.metrics(column)))) for column in cells.columns]
    infos = map(Column, ("removed (%)", "encoder (M)", "backbone", "split", "augmented", "seeds"))
    return Table("table_published", caption, ("protocol", "model"), (*infos, *columns), tuple(blocks), _NOTES)


def beside(rows: Sequence[PublishedRow], sparsities: Sequence[float]) -> list[PublishedRow]:
    """Rows at one of our sparsities; of the dense ones those of the same sources, or taken as ours are."""
    pruned = [row for sparsity in sparsities for row in near(rows, sparsity)]
    sources = {row.key.source.key for row in pruned}
    dense = [row for row in rows if row.dense and (row.key.source.key in sources or row.key.protocol == OURS)]
    return list({id(row): row for row in [*dense, *pruned]}.values())


def near(rows: Iterable[PublishedRow], sparsity: float) -> list[PublishedRow]:
    """Rows at about this nominal sparsity."""
    return [row for row in rows if row.key.sparsity is not None and abs(row.key.sparsity - sparsity) < NEAR]


def _row(row: PublishedRow, before: list[Cell], scores: list[Cell], after: int) -> Row:
    """Remarks on every number of the row move to its label."""
    common = [mark for mark in _remarks(scores) if all(mark in cell.marks for cell in scores if cell.numbers)]
    own = [_without(cell, common) for cell in scores]
    return Row(row.label, (*before, *own, *[Cell()] * after), (row.reference, *common))


def _remarks(scores: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(mark for cell in scores for mark in cell.marks if mark != UNNAMED))


def _without(cell: Cell, marks: Iterable[str]) -> Cell:
    hidden = set(marks)
    return Cell(cell.numbers, tuple(mark for mark in cell.marks if mark not in hidden), cell.ranked, cell.unnamed)


def info_cells(row: PublishedRow) -> list[Cell]:
    """Backbone, split, augmentation and seeds of a row."""
    key = row.key
    seeds = NOT_STATED if key.seeds is None else str(key.seeds)
    words = (key.backbone or NOT_STATED, key.protocol.split, augmentation(key.protocol.augmented), seeds)
    return [Cell((Number(word),)) for word in words]


def augmentation(augmented: bool | None) -> str:
    """Whether training data were augmented: yes, no or not stated."""
    return {True: "yes", False: "no", None: NOT_STATED}[augmented]


def _score(cells: Cells, column: ScoreColumn, row: PublishedRow) -> Cell:
    scores = {score.metric: score for score in row.scores if score.place == (column.task, column.split)}
    remarks = tuple(dict.fromkeys(score.remark for score in scores.values() if score.remark))
    if unnamed := scores.pop("", None):
        return Cell((as_printed(unnamed),), (UNNAMED, *remarks), ranked=False, unnamed=True)
    named = {METRICS.get(metric, metric): as_printed(score) for metric, score in scores.items()}
    numbers = tuple(named.get(metric, Number("")) for metric in cells.metrics(column))
    return Cell(numbers, remarks, ranked=False) if any(number.text for number in numbers) else Cell(ranked=False)


def as_printed(score: PublishedScore) -> Number:
    """As printed at the source, but for one decimal at least."""
    text = f"{score.value:g}"
    return Number(text if "." in text else f"{text}.0")
