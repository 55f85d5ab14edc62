"""The cells of tables and figures: planned runs and their scores by method, sparsity and task."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from suites.records import PlannedRun, Record, Results
from suites.statistics import (
    Summary,
    average_summaries,
    majority_scores,
    no_evidence,
    retention_summaries,
    score_summaries,
)

# Title, task, split (None: the run's selection split), in the order of the GLUE papers.
GLUE = (
    ("CoLA", "cola", None),
    ("SST-2", "sst2", None),
    ("MRPC", "mrpc", None),
    ("QQP", "qqp", None),
    ("STS-B", "stsb", None),
    ("MNLI-m", "mnli", "matched"),
    ("MNLI-mm", "mnli", "mismatched"),
    ("QNLI", "qnli", None),
    ("RTE", "rte", None),
)
METRIC_LABELS = {
    "accuracy": "acc",
    "f1": "F1",
    "matthews": "MCC",
    "matthews_correlation": "MCC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "spearmanr": "Spearman",
}
SINGLE_WEIGHTS = "zeroes single weights: the model is neither smaller nor faster than the dense one"
NAN = float("nan")
RowKey = tuple[str, float]


def metric_label(metric: str) -> str:
    """Short printed name of a metric."""
    return METRIC_LABELS.get(metric, metric)


@dataclass(frozen=True)
class ScoreColumn:
    """A task on one split (None: the run's selection split)."""

    title: str
    task: str
    split: str | None = None

    def split_of(self, record: Record) -> str:
        return self.split or record.primary.split


def score_columns(tasks: Iterable[str]) -> list[ScoreColumn]:
    """Columns of these tasks: GLUE's order first, then other tasks by name."""
    present = set(tasks)
    known = [ScoreColumn(*entry) for entry in GLUE if entry[1] in present]
    others = sorted(present - {column.task for column in known})
    return known + [ScoreColumn(task, task) for task in others]


@dataclass(frozen=True)
class Cells:
    """The runs by cell, with their summaries: computed once, read by every table and figure."""

    results: Results

    @cached_property
    def columns(self) -> list[ScoreColumn]:
        return score_columns(run.task for run in self.results.planned)

    @cached_property
    def tasks(self) -> list[ScoreColumn]:
        """One column per task, the first one: its selection split."""
        return list({column.task: column for column in reversed(self.columns)}.values())[::-1]

    @cached_property
    def by_cell(self) -> dict[tuple[str, float, str], list[PlannedRun]]:
        """Planned runs by (label, sparsity, task)."""
        groups = defaultdict(list)
        for run in self.results.planned:
            groups[run.label, run.sparsity, run.task].append(run)
        return dict(groups)

    @cached_property
    def by_task(self) -> dict[str, list[Record]]:
        """Finished records by task, in the plan's order."""
        groups = defaultdict(list)
        for run in self.results.planned:
            if run.run_id in self.results.records:
                groups[run.task].append(self.results.records[run.run_id])
        return dict(groups)

    @cached_property
    def common_data(self) -> dict[str, str]:
        """By task, the content of the data that most of the finished runs saw."""
        contents = {task: Counter(record.data.content for record in records) for task, records in self.by_task.items()}
        return {task: counts.most_common(1)[0][0] for task, counts in contents.items()}

    @cached_property
    def averages(self) -> dict[RowKey, Summary]:
        """Summary of the average over tasks by row; see `average_summaries`."""
        return average_summaries(self.results)

    @cached_property
    def retention(self) -> dict[RowKey, Summary]:
        """Summary of the share of their teachers' scores that the runs of a row keep; see `retention_summaries`."""
        return retention_summaries(self.results)

    @cached_property
    def _scores(self) -> dict[tuple[str, float, str, str, str], Summary]:
        return score_summaries(self.results)

    @cached_property
    def _majority(self) -> dict[tuple[str, str, str], float]:
        return majority_scores(self.results)

    def rows(self, role: str) -> list[RowKey]:
        """(label, sparsity) of this role: sparsities ascending, labels in the plan's order."""
        keys = dict.fromkeys((run.label, run.sparsity) for run in self.results.planned if run.role == role)
        return sorted(keys, key=lambda key: key[1])

    def runs_of(self, row: RowKey) -> list[PlannedRun]:
        """All planned runs of one row, task by task."""
        return [run for column in self.tasks for run in self.by_cell.get((*row, column.task), [])]

    def seeds(self, row: RowKey) -> int:
        """Number of planned seeds of a row."""
        return len({run.seed for run in self.runs_of(row)})

    def done(self, runs: Iterable[PlannedRun]) -> list[Record]:
        """Records of those runs that are finished."""
        return [self.results.records[run.run_id] for run in runs if run.run_id in self.results.records]

    def other_data(self, records: Iterable[Record]) -> list[str]:
        """Titles of the tasks on which some of these runs saw other data than most runs."""
        strange = {record.task for record in records if record.data.content != self.common_data[record.task]}
        return [column.title for column in self.tasks if column.task in strange]

    def unlike(self, records: Sequence[Record]) -> str:
        """Why runs are not to be compared with those of other rows; empty if nothing speaks against it."""
        missed = ["missed its sparsity target"] if any(record.missed_target for record in records) else []
        other = [f"other data on {title}" for title in self.other_data(records)]
        return ", ".join((*missed, *other))

    def row_marks(self, row: RowKey) -> tuple[str, ...]:
        """What a reader must know of all runs of a row."""
        single = any(record.single_weights for record in self.done(self.runs_of(row)))
        return (SINGLE_WEIGHTS,) if single else ()

    def metrics(self, column: ScoreColumn) -> tuple[str, ...]:
        """Metrics of a column in the order of the records; those of the selection split if it has none."""
        records = self.by_task.get(column.task, [])
        own = (record.scores.get(column.split_of(record)) for record in records)
        spare = (record.scores.get(record.primary.split) for record in records)
        return tuple(next(filter(None, chain(own, spare)), {}))

    def primary(self, task: str) -> str:
        """Name of the task's primary metric, empty if no run of the task is finished."""
        records = self.by_task.get(task)
        return records[0].primary.metric if records else ""

    def summaries(self, row: RowKey, column: ScoreColumn) -> dict[str, Summary]:
        """Summary of each metric of one cell; empty where no finished run has the split."""
        split = self._split(column)
        keys = {metric: (*row, column.task, split, metric) for metric in self.metrics(column)}
        return {metric: self._scores[key] for metric, key in keys.items() if key in self._scores}

    def majority(self, column: ScoreColumn, metric: str) -> float:
        """What the majority class scores, NaN if unknown."""
        return self._majority.get((column.task, self._split(column), metric), NAN)

    def weak(self, row: RowKey, column: ScoreColumn) -> bool:
        """Whether the cell has a score that is no evidence of anything learnt."""
        means = {metric: summary.mean for metric, summary in self.summaries(row, column).items()}
        return no_evidence(means, {metric: self.majority(column, metric) for metric in means})

    def _split(self, column: ScoreColumn) -> str:
        records = self.by_task.get(column.task)
        return column.split_of(records[0]) if records else ""
