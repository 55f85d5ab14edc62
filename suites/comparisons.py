"""Every row of a table against the reference method, with the tests of the whole table corrected together."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isnan

from gppdfd.errors import DataError
from suites.cells import Cells, RowKey, ScoreColumn
from suites.examples import METRICS, Difference, Predictions, bootstrap, read_predictions
from suites.records import PlannedRun, Record, Results
from suites.statistics import ALPHA, NAN, Comparison, Ranks, average_ranks, compare, holm

TestKey = tuple[RowKey, str]
AVERAGE = ""
"""Stands for the title of a task in the key of a row's test over all tasks."""


@dataclass(frozen=True)
class Comparisons:
    """Tests of all students against the reference method at their own sparsity.

    Per task: a paired bootstrap over the seeds that both have and the examples. Over all tasks: Wilcoxon's
    signed-rank test over (task, seed) pairs. `adjusted` holds Holm's correction over all of them.
    """

    cells: Cells

    @cached_property
    def reference(self) -> str:
        """Label of the reference method; empty if the plan has no student of it."""
        return next((run.label for run in self._students if run.reference), "")

    @property
    def _students(self) -> list[PlannedRun]:
        return [run for run in self.cells.results.planned if run.role == "student"]

    @cached_property
    def rivals(self) -> list[RowKey]:
        """Rows that have a reference to be compared with."""
        rows = self.cells.rows("student")
        there = set(rows)
        return [row for row in rows if row[0] != self.reference and (self.reference, row[1]) in there]

    @cached_property
    def over_runs(self) -> dict[RowKey, Comparison]:
        """Primary scores over (task, seed) pairs, row by row."""
        return {row: self._over_runs(row) for row in self.rivals}

    def _over_runs(self, row: RowKey) -> Comparison:
        pairs = [pair for column in self.cells.tasks for pair in self.pairs(row, column)]
        return compare([own.primary.value for own, _ in pairs], [other.primary.value for _, other in pairs])

    def differences(self, row: RowKey, column: ScoreColumn) -> list[float]:
        """Primary score minus the reference's, seed by seed."""
        return [own.primary.value - other.primary.value for own, other in self.pairs(row, column)]

    def pairs(self, row: RowKey, column: ScoreColumn) -> list[tuple[Record, Record]]:
        """Finished runs of a row and the reference's with the same task, seed and data; none that missed its target."""
        others = {record.seed: record for record in self._met((self.reference, row[1]), column)}
        paired = [(own, others[own.seed]) for own in self._met(row, column) if own.seed in others]
        return [(own, other) for own, other in paired if own.data.content == other.data.content]

    def _met(self, row: RowKey, column: ScoreColumn) -> list[Record]:
        records = self.cells.done(self.cells.by_cell.get((*row, column.task), []))
        return [record for record in records if not record.missed_target]

    @cached_property
    def on_examples(self) -> dict[TestKey, Difference]:
        """Bootstrapped difference by row and title of the column, where both sides stored their predictions."""
        # Column by column: the runs of one split share their draws.
        tested = ((row, column) for column in self.cells.columns for row in self.rivals)
        found = (((row, column.title), self._on_examples(row, column)) for row, column in tested)
        return {key: difference for key, difference in found if difference is not None}

    def _on_examples(self, row: RowKey, column: ScoreColumn) -> Difference | None:
        metric, pairs = self.cells.primary(column.task), list(self._answers(row, column))
        return bootstrap(pairs, metric) if pairs and metric in METRICS else None

    def _answers(self, row: RowKey, column: ScoreColumn) -> Iterator[tuple[Predictions, Predictions]]:
        for own, other in self.pairs(row, column):
            pair = self._read(own, column.split_of(own)), self._read(other, column.split_of(own))
            if pair[0] and pair[1] and pair[0].same_examples(pair[1]):
                yield pair[0], pair[1]

    def _read(self, record: Record, split: str) -> Predictions | None:
        """A run's predictions; None where it stored none, or damaged ones."""
        if record.run_id in self.damaged:
            return None
        return read_predictions(self.cells.results.store / record.run_id, split)

    @cached_property
    def damaged(self) -> list[str]:
        """Runs whose predictions cannot be read: one broken file must not cost the whole report."""
        return [run.run_id for run in self._students if run.state == "done" and self._unreadable(run.run_id)]

    def _unreadable(self, run_id: str) -> bool:
        record = self.cells.results.records[run_id]
        try:
            read_predictions(self.cells.results.store / run_id, record.primary.split)
        except DataError:
            return True
        return False

    @cached_property
    def on_one_pair(self) -> bool:
        """Whether some test of `on_examples` has one pair of runs, and so says nothing of other seeds."""
        columns = {column.title: column for column in self.cells.columns}
        return any(len(self.pairs(row, columns[title])) == 1 for row, title in self.on_examples)

    @cached_property
    def adjusted(self) -> dict[TestKey, float]:
        """Holm-corrected p of every test of the table; the key of a row's test over all tasks ends in AVERAGE."""
        single = {key: difference.p for key, difference in self.on_examples.items()}
        return holm(single | {(row, AVERAGE): comparison.p for row, comparison in self.over_runs.items()})

    @property
    def tests(self) -> int:
        """Number of tests that were possible."""
        return sum(not isnan(p) for p in self.adjusted.values())

    def direction(self, row: RowKey, title: str = AVERAGE) -> int:
        """1 if a row is better than the reference on a column (or over all tasks), -1 if worse, 0 if not shown."""
        p = self.adjusted.get((row, title), NAN)
        if isnan(p) or p >= ALPHA:
            return 0
        found = self.on_examples.get((row, title))
        difference = found.value if found else self.over_runs[row].difference
        return 1 if difference > 0 else -1

    def ranks(self, sparsity: float) -> Ranks:
        """Average ranks over the tasks of the comparable rows of one sparsity; means over seeds count."""
        rows = [row for row in self._averaged(sparsity) if not self._unlike(row)]
        return average_ranks({row[0]: [self._mean(row, column) for column in self.cells.tasks] for row in rows})

    def unranked(self, sparsity: float) -> dict[str, str]:
        """Labels of one sparsity that have an average and yet no rank, with the reason."""
        reasons = {row[0]: self._unlike(row) for row in self._averaged(sparsity)}
        return {label: reason for label, reason in reasons.items() if reason}

    def _averaged(self, sparsity: float) -> list[RowKey]:
        return [row for row in self.cells.rows("student") if row[1] == sparsity and row in self.cells.averages]

    def _unlike(self, row: RowKey) -> str:
        return self.cells.unlike(self.cells.done(self.cells.runs_of(row)))

    def _mean(self, row: RowKey, column: ScoreColumn) -> float:
        return self.cells.summaries(row, column)[self.cells.primary(column.task)].mean


@lru_cache(maxsize=4)
def comparisons_of(results: Results) -> Comparisons:
    """The comparisons of some results, computed once for all tables and figures."""
    return Comparisons(Cells(results))
