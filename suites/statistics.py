"""Statistics over runs: the numbers that tables and figures share. All scores are fractions.

Tests are scipy's and statsmodels'; this module says what is paired with what. Examples are resampled in `examples.py`.
"""

from collections.abc import Mapping, Sequence
from math import isnan, sqrt
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from suites.records import Results

if TYPE_CHECKING:
    import pandas as pd

ROW = ["label", "sparsity"]
POINT = 0.01
ALPHA = 0.05
LEAST_PAIRS = 6
"""With fewer pairs that differ, no outcome of Wilcoxon's test is below .05: 2 / 2^5 is .0625."""
_ROUNDING = 1e-9
_DIGITS = 12
NAN = float("nan")
Key = TypeVar("Key")


class Summary(NamedTuple):
    """Mean, standard deviation (ddof 1, NaN for one value) and number of values."""

    mean: float
    sd: float
    n: int


def summary(values: Sequence[float]) -> Summary:
    """Summary of some values; NaN, NaN, 0 of none."""
    if not values:
        return Summary(NAN, NAN, 0)
    return Summary(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else NAN, len(values))


# --- over seeds ---


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
    return _complete(results, primary_scores(results))


def retention_summaries(results: Results) -> dict[tuple[str, float], Summary]:
    """Summary over seeds of the retention by (label, sparsity), over the seeds that `average_summaries` counts.

    Retention of a run: its primary score over the same score of its own teacher; of a seed: the mean over the tasks.
    Runs that had no teacher are measured by the dense run of their task and seed. NaN where a teacher is unknown.
    """
    primary = primary_scores(results)
    retention = primary["value"] / own_teachers(primary)
    return _summaries(_complete(results, primary.assign(value=retention)), ROW, "value")


def own_teachers(primary: "pd.DataFrame") -> "pd.Series":
    """Primary score of each run's teacher; of runs without one, that of the dense run of their task and seed."""
    dense = primary[primary["role"] == "teacher"].drop_duplicates(["task", "seed"]).set_index(["task", "seed"])["value"]
    places = list(zip(primary["task"], primary["seed"], strict=True))
    teachers = primary["teacher"].fillna(dense.reindex(places).set_axis(primary.index))
    return teachers.where(teachers > 0)


def _complete(results: Results, primary: "pd.DataFrame") -> "pd.DataFrame":
    """Mean of `value` over the tasks, by row and seed, of those seeds that have every task of the plan."""
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


def no_evidence(scores: Mapping[str, float], majority: Mapping[str, float]) -> bool:
    """Whether a metric is at most one point above the majority class (fractions by metric).

    One metric is enough. The primary one alone would not do: where the majority class is the negative one, its F1 is 0,
    and a model that always says yes is far above it; accuracy tells both. A correlation of a constant answer is 0.
    """
    return any(score <= majority.get(metric, NAN) + POINT + _ROUNDING for metric, score in scores.items())


# --- a method against the reference ---


class Comparison(NamedTuple):
    """A method against the reference over pairs of runs, each of one task and seed.

    `difference` is the mean of method minus reference, `sd` its standard deviation over the pairs (ddof 1), `p` that
    of Wilcoxon's signed-rank test, two-sided; NaN where the test is impossible, and then `why_not` says why.
    """

    difference: float
    sd: float
    pairs: int
    wins: int
    ties: int
    losses: int
    p: float
    why_not: str = ""


def compare(method: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Compare paired scores; pairs without a difference are ties, which the test leaves out."""
    # Rounded, so that equal differences of different scores are ties to the ranks, whatever their last bits.
    differences = np.round(np.subtract(method, reference), _DIGITS)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p, why_not = _wilcoxon(differences[differences != 0], len(differences))
    mean, sd, pairs = summary(differences.tolist())
    return Comparison(mean, sd, pairs, wins, pairs - wins - losses, losses, p, why_not)


def _wilcoxon(differences: np.ndarray, pairs: int) -> tuple[float, str]:
    if len(differences) < LEAST_PAIRS:
        ties = f", {pairs - len(differences)} of them ties" if pairs > len(differences) else ""
        found = f"{pairs} pair{'s' * (pairs != 1)}{ties}"
        return NAN, f"no test: {found}; Wilcoxon's needs {LEAST_PAIRS} that differ"
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue), ""


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """p of McNemar's test on two runs' right answers, bool [examples]; 1 where no answer differs.

    Exact up to 25 answers that only one of them has right, above by chi-square with continuity correction.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(test([[0, only_first], [only_second, 0]], exact=only_first + only_second <= 25).pvalue)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p-values corrected for being several (Holm, 1979); those that are NaN are no tests and stay NaN."""
    known = {key: p for key, p in p_values.items() if not isnan(p)}
    if not known:
        return dict(p_values)
    from statsmodels.stats.multitest import multipletests

    corrected = multipletests(list(known.values()), method="holm")[1]
    return {**p_values, **dict(zip(known, map(float, corrected), strict=True))}


# --- ranks over tasks ---


class Ranks(NamedTuple):
    """Average rank of each method (1 is best, ties share), over tasks that all of them have.

    Two methods differ at the level .05 (Nemenyi) if their ranks differ by more than `critical`. `p` is Friedman's, for
    no method differing at all. Both are NaN with fewer than three methods or two tasks.
    """

    mean: dict[str, float]
    tasks: int
    critical: float
    p: float


def average_ranks(scores: Mapping[str, Sequence[float]]) -> Ranks:
    """Ranks from each method's scores, task by task in the same order (Demšar, 2006)."""
    from scipy.stats import rankdata

    table = np.round(np.array(list(scores.values()), dtype=float), _DIGITS)  # [methods, tasks]
    methods, tasks = table.shape if table.ndim == 2 else (len(scores), 0)
    if not tasks:
        return Ranks({}, 0, NAN, NAN)
    mean = rankdata(-table, axis=0).mean(axis=1)
    testable = methods >= 3 and tasks >= 2
    critical = critical_difference(methods, tasks) if testable else NAN
    p = _friedman(table) if testable else NAN
    return Ranks(dict(zip(scores, mean.tolist(), strict=True)), tasks, critical, p)


def critical_difference(methods: int, tasks: int) -> float:
    """Nemenyi's critical difference of average ranks at the level .05."""
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(1 - ALPHA, methods, np.inf) / sqrt(2)
    return float(quantile * sqrt(methods * (methods + 1) / (6 * tasks)))


def _friedman(table: np.ndarray) -> float:
    """p of Friedman's test on [methods, tasks]; 1 where all methods are equal on every task."""
    from scipy.stats import friedmanchisquare

    if (table == table[0]).all():
        return 1.0
    return float(friedmanchisquare(*table).pvalue)
