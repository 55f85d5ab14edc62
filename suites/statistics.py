"""Statistics over seeds: the numbers that tables and figures share."""

from typing import TYPE_CHECKING, NamedTuple

from suites.records import Results

if TYPE_CHECKING:
    import pandas as pd

ROW = ["label", "sparsity"]
POINT = 0.01
_ROUNDING = 1e-9


class Summary(NamedTuple):
    """Mean, standard deviation (ddof 1, NaN for one value) and number of values."""

    mean: float
    sd: float
    n: int


def score_summaries(results: Results) -> dict[tuple[str, float, str, str, str], Summary]:
    """Summary over seeds by (label, sparsity, task, split, metric)."""
    return _summaries(results.scores, [*ROW, "task", "split", "metric"], "value")


def average_summaries(results: Results) -> dict[tuple[str, float], Summary]:
    """Summary over seeds of the average over tasks, by (label, sparsity).

    A task counts once, with its primary metric on its selection split (MNLI: matched). A seed enters only if
    every task of the plan has a finished run with it, so that all averages are over the same tasks.
    """
    return _summaries(complete_averages(results), ROW, "value")


def complete_averages(results: Results) -> "pd.DataFrame":
    """Average over all tasks, one row (label, sparsity, seed, value) per seed that finished every task."""
    primary = primary_scores(results)
    grouped = primary.groupby([*ROW, "seed"], sort=False)["value"].agg(["mean", "count"]).reset_index()
    complete = grouped[grouped["count"] == results.runs["task"].nunique()]
    return complete.rename(columns={"mean": "value"}).drop(columns="count")


def primary_scores(results: Results) -> "pd.DataFrame":
    """The rows of `results.scores` with each run's one primary number."""
    splits = {run_id: record.primary.split for run_id, record in results.records.items()}
    scores = results.scores
    return scores[scores["primary"] & (scores["split"] == scores["run_id"].map(splits))]


def _summaries(frame: "pd.DataFrame", keys: list[str], value: str) -> dict[tuple, Summary]:
    table = frame.groupby(keys, sort=False)[value].agg(["mean", "std", "count"])
    return {key: Summary(mean, sd, int(n)) for key, mean, sd, n in table.itertuples(name=None)}


def majority_scores(results: Results) -> dict[tuple[str, str, str], float]:
    """What predicting the majority class scores, by (task, split, metric): mean over the finished runs."""
    means = results.scores.groupby(["task", "split", "metric"], sort=False)["majority"].mean().reset_index()
    return {(task, split, metric): mean for task, split, metric, mean in means.itertuples(index=False, name=None)}


def no_evidence(score: float, majority: float) -> bool:
    """Whether a score is at most one point above the majority class (both fractions)."""
    return score <= majority + POINT + _ROUNDING
