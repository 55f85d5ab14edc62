"""Tables that compare: methods with the reference, kinds of units, distillers on a pruner, pruners on a distiller."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import isnan

from suites.cells import Cells, RowKey, ScoreColumn, metric_label
from suites.comparisons import AVERAGE, Comparisons, comparisons_of
from suites.formats import DASH, Block, Cell, Column, Number, Row, Table
from suites.halves import Halves
from suites.provenance import provenance
from suites.published import PublishedRow
from suites.published_rows import near, published_blocks
from suites.records import Results
from suites.statistics import ALPHA, Comparison, Summary, summary
from suites.tables import (
    CORNER,
    average_cell,
    average_column,
    average_in_column,
    percent,
    score_cell,
    score_column,
    significance,
    significance_notes,
    with_best,
)

UNIT_OPTIONS = frozenset({"units", "kinds", "ranking"})
"""Options of pruners that say which units go, and whether their kinds compete."""


# --- every method against the reference ---


def ablation_table(results: Results, caption: str) -> Table | None:
    """Difference of each method to the reference, task by task; None without two methods to compare."""
    comparisons = comparisons_of(results)
    if not comparisons.rivals:
        return None
    cells = comparisons.cells
    tasks = [Column(column.title, (f"Δ {_primary(cells, column)}",)) for column in cells.tasks]
    pairs = Column("pairs", ("wins", "ties", "losses"))
    tests = (Column("Δ all"), pairs, *map(Column, ("p", "p (Holm)", "rank")))
    rows = groupby(cells.rows("student"), key=lambda row: row[1])
    blocks = [Block(f"{sparsity:g}", tuple(_ablation_rows(comparisons, list(group)))) for sparsity, group in rows]
    notes = (*_ablation_notes(comparisons), *provenance(results))
    return Table("table_ablation", caption, CORNER, (*tasks, *tests), tuple(blocks), notes)


def _primary(cells: Cells, column: ScoreColumn) -> str:
    return metric_label(cells.primary(column.task)) or DASH


def _ablation_rows(comparisons: Comparisons, rows: Sequence[RowKey]) -> Iterator[Row]:
    """The reference with its scores, then the others with their differences."""
    cells, ranks = comparisons.cells, comparisons.ranks(rows[0][1]).mean if rows else {}
    for row in sorted(rows, key=lambda row: row[0] != comparisons.reference):
        rank = Cell((Number(f"{ranks[row[0]]:.2f}"),) if row[0] in ranks else ())
        if row[0] == comparisons.reference:
            yield Row(f"{row[0]} (reference: scores)", (*_reference_cells(cells, row), rank), cells.row_marks(row))
        elif row in comparisons.over_runs:
            yield Row(row[0], (*_difference_cells(comparisons, row), rank), cells.row_marks(row))


def _reference_cells(cells: Cells, row: RowKey) -> Iterator[Cell]:
    for column in cells.tasks:
        whole, primary = score_cell(cells, row, column), cells.summaries(row, column).get(cells.primary(column.task))
        yield Cell((percent(primary),) if primary else (), whole.marks)
    yield average_cell(cells, row)
    yield from [Cell()] * 3


def _difference_cells(comparisons: Comparisons, row: RowKey) -> Iterator[Cell]:
    cells = comparisons.cells
    for column in cells.tasks:
        differences = comparisons.differences(row, column)
        marks = (*significance(comparisons, row, column.title), *score_cell(cells, row, column).marks)
        yield Cell((signed(summary(differences)),) if differences else (), marks)
    yield from _test_cells(comparisons, row, comparisons.over_runs[row])


def _test_cells(comparisons: Comparisons, row: RowKey, found: Comparison) -> Iterator[Cell]:
    if not found.pairs:
        yield from [Cell(marks=("no finished pair of runs",)), Cell(), Cell(), Cell()]
        return
    overall = Summary(found.difference, found.sd, found.pairs)
    yield Cell((signed(overall),), tuple(significance(comparisons, row)))
    yield Cell(tuple(Number(str(count)) for count in (found.wins, found.ties, found.losses)))
    yield _p_cell(found.p, found.why_not)
    yield _p_cell(comparisons.adjusted[row, AVERAGE], "")


def signed(difference: Summary) -> Number:
    """A difference in points with its sign."""
    number = percent(difference)
    return Number(f"+{number.text}" if float(number.text) > 0 else number.text, number.spread)


def _p_cell(p: float, why_not: str) -> Cell:
    if isnan(p):
        return Cell(marks=(why_not,) if why_not else ())
    return Cell((Number(f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"),))


def _ablation_notes(comparisons: Comparisons) -> Iterator[str]:
    yield (
        f"Points of the primary metric above or below {comparisons.reference} with the same task, sparsity, seed and "
        "data; mean ± standard deviation (ddof 1) over the pairs. Runs that missed their target are in no pair."
    )
    yield "Δ all, pairs, p: over all pairs of task and seed. Rank: mean over the tasks, 1 is best."
    yield from significance_notes(comparisons)
    for sparsity in dict.fromkeys(row[1] for row in comparisons.rivals):
        ranks, unranked = comparisons.ranks(sparsity), comparisons.unranked(sparsity)
        if not isnan(ranks.critical):
            yield (
                f"Ranks at {sparsity:g}: two of the {len(ranks.mean)} methods differ at {ALPHA:g} if their ranks are "
                f"more than {ranks.critical:.2f} apart (Nemenyi, {ranks.tasks} tasks); Friedman's p is {ranks.p:.3f}."
            )
        if unranked:
            left_out = "; ".join(f"{label} ({reason})" for label, reason in unranked.items())
            yield f"Without a rank at {sparsity:g}: {left_out}."


# --- one half of the methods exchanged ---


def distiller_table(results: Results, caption: str) -> Table | None:
    """All distillers on the reference's pruner; None if there is only one."""
    halves = Halves(comparisons_of(results))
    pruner = halves.reference[0]
    labels = halves.labels(pruner=pruner)
    return _exchange_table(halves, "table_distillers", f"{caption}, pruner {pruner}", "distiller", labels)


def pruner_table(results: Results, caption: str) -> Table | None:
    """All pruners with the reference's distiller; None if there is only one."""
    halves = Halves(comparisons_of(results))
    distiller = halves.reference[1]
    labels = halves.labels(distiller=distiller)
    return _exchange_table(halves, "table_pruners", f"{caption}, distiller {distiller}", "pruner", labels)


def _exchange_table(halves: Halves, name: str, caption: str, half: str, labels: dict[str, str]) -> Table | None:
    if len(labels) < 2 or not all(halves.reference):
        return None
    cells = halves.cells
    columns = [score_column(cells, column) for column in cells.columns]
    rows = groupby((row for row in cells.rows("student") if row[0] in labels), key=lambda row: row[1])
    blocks = [
        Block(f"{sparsity:g}", with_best([_score_row(cells, row, labels[row[0]]) for row in group]))
        for sparsity, group in rows
    ]
    notes = (*_score_notes(), *provenance(cells.results))
    return Table(name, caption, ("sparsity", half), (*columns, average_column(cells)), tuple(blocks), notes)


def _score_row(cells: Cells, row: RowKey, label: str) -> Row:
    return Row(label, tuple(_score_cells(cells, row)), cells.row_marks(row))


def _score_cells(cells: Cells, row: RowKey) -> Iterator[Cell]:
    yield from (score_cell(cells, row, column) for column in cells.columns)
    yield average_in_column(cells, row)


def _score_notes() -> tuple[str, ...]:
    return ("Scores × 100; mean ± standard deviation (ddof 1) over seeds; avg and marks as in the main table.",)


def matrix_table(results: Results, caption: str) -> Table | None:
    """Average over the tasks of every pruner with every distiller; None unless two of each were combined."""
    halves = Halves(comparisons_of(results))
    if not halves.crossed:
        return None
    pruners, distillers = (list(dict.fromkeys(half)) for half in zip(*halves.crossed, strict=True))
    blocks = tuple(
        Block(f"{sparsity:g}", _matrix_rows(halves, sparsity, pruners, distillers))
        for sparsity in dict.fromkeys(row[1] for row in halves.cells.rows("student"))
    )
    notes = (
        "Average over the tasks as in the main table; a dash: not in this suite. Bold: the best pair among "
        "those that met their sparsity target and are on the data of most runs.",
        *(f"All runs: {mark}." for mark in average_column(halves.cells).marks),
        *provenance(results),
    )
    return Table("table_matrix", caption, ("sparsity", "pruner"), tuple(map(Column, distillers)), blocks, notes)


def _matrix_rows(halves: Halves, sparsity: float, pruners: Iterable[str], distillers: Sequence[str]) -> tuple[Row, ...]:
    grid = {
        pair: _pair_cell(halves.cells, (label, sparsity))
        for pair, label in halves.crossed.items()
        if halves.cells.runs_of((label, sparsity))
    }
    best = max((float(cell.numbers[0].text) for cell in grid.values() if cell.numbers and cell.ranked), default=None)
    return tuple(
        Row(pruner, tuple(_marked_best(grid.get((pruner, distiller), Cell()), best) for distiller in distillers))
        for pruner in pruners
    )


def _pair_cell(cells: Cells, row: RowKey) -> Cell:
    """The average of a row that is a cell here, with the row's own marks."""
    cell = average_in_column(cells, row)
    return replace(cell, marks=(*cells.row_marks(row), *cell.marks))


def _marked_best(cell: Cell, best: float | None) -> Cell:
    numbers = tuple(
        Number(number.text, number.spread, cell.ranked and float(number.text) == best) for number in cell.numbers
    )
    return Cell(numbers, cell.marks, cell.ranked)


# --- kinds of units ---


def unit_table(results: Results, caption: str, published: Sequence[PublishedRow] = ()) -> Table | None:
    """The reference with other kinds of units (CoFi's Table 4, GRAIN's Table 3); None if the suite has no such rows."""
    halves = Halves(comparisons_of(results))
    labels = _unit_variants(halves)
    if len(labels) < 2:
        return None
    cells = halves.cells
    columns = [score_column(cells, column) for column in cells.columns]
    blocks: list[Block] = []
    for sparsity, group in groupby((row for row in cells.rows("student") if row[0] in labels), key=lambda row: row[1]):
        rows = [
            Row(
                row[0],
                (*_unit_infos(cells, row), *_score_cells(cells, row), _speedup(cells, row)),
                cells.row_marks(row),
            )
            for row in group
        ]
        blocks.append(Block(f"{sparsity:g}", with_best(rows, skip=len(_UNIT_COLUMNS))))
        blocks += _published_units(cells, near(published, sparsity), f"{sparsity:g}")
    ends = (average_column(cells), Column("speedup"))
    notes = ("Units: the kinds that the runs decided on.", *_score_notes(), *provenance(results))
    return Table("table_units", caption, CORNER, (*_UNIT_COLUMNS, *columns, *ends), tuple(blocks), notes)


_UNIT_COLUMNS = tuple(map(Column, ("units", "backbone", "split", "augmented", "seeds")))


def _unit_variants(halves: Halves) -> set[str]:
    """Labels that differ from the reference in nothing but the options about units."""
    wanted, distiller = without_unit_options(halves.reference[0]), halves.reference[1]
    return {
        label
        for label, pair in halves.pairs.items()
        if pair[1] == distiller and without_unit_options(pair[0]) == wanted
    }


def without_unit_options(pruner: str) -> str:
    """`l0(units=heads+ffn,size=released)` -> `l0(size=released)`."""
    return re.sub(r"\((.*)\)$", _other_options, pruner)


def _other_options(options: re.Match[str]) -> str:
    kept = [option for option in options[1].split(",") if option.partition("=")[0] not in UNIT_OPTIONS]
    return f"({','.join(kept)})" if kept else ""


def _unit_infos(cells: Cells, row: RowKey) -> list[Cell]:
    records = cells.done(cells.runs_of(row))
    kinds = dict.fromkeys(", ".join(record.kept) for record in records)
    models = dict.fromkeys(record.model for record in records)
    texts = (" or ".join(kinds), ", ".join(models), "dev", "no", str(cells.seeds(row)))
    return [Cell((Number(text),) if text else ()) for text in texts]


def _speedup(cells: Cells, row: RowKey) -> Cell:
    latencies = [record.latency for record in cells.done(cells.runs_of(row)) if record.latency]
    found = summary([latency.speedup for latency in latencies])
    return Cell((Number(f"{found.mean:.2f}"),) if latencies else ())


def _published_units(cells: Cells, rows: Sequence[PublishedRow], title: str) -> list[Block]:
    blocks = published_blocks(cells, cells.columns, [row for row in rows if row.scores], title, after=2)
    # Their kinds of units stand in their labels.
    return [
        Block(block.title, tuple(Row(row.label, (Cell(), *row.cells), row.marks) for row in block.rows))
        for block in blocks
    ]
