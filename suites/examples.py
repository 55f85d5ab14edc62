"""Stored predictions, example by example: read, scored under resampling, and compared run against run.

A paired bootstrap draws the examples of a split with replacement and scores both runs on each draw. A draw is a row of
counts, how often each example is in it, and every metric is a function of such counts: all draws are scored by a few
matrix products, and the runs of one table share their draws. Several pairs of runs (seeds) are drawn too, before the
examples.

What this can say depends on the seeds. One pair of runs: that these two runs differ, never that their methods do. If
accuracy on 400 examples varies by 3 points over seeds, a method against itself has p < .05 in 37 % of all cases. Two or
three pairs: their spread is known so badly that only large differences get a small p, and a rough one, .05 in 7 % (two)
and 4 % (three) of those cases, in 12 % and 7 % where seeds vary by 8 points. With five it is 5 % at most
(`python -m benchmarks.null_rate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gppdfd.errors import DataError
from suites.statistics import mcnemar

DRAWS = 1000
PREDICTIONS = "predictions.parquet"
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)  # compared by identity, so that what was computed of a run is found again
class Predictions:
    """A run's answers on one split: `examples` their ids, `labels` the right ones, `answers` the run's, [examples]."""

    examples: np.ndarray
    labels: np.ndarray
    answers: np.ndarray

    def same_examples(self, other: "Predictions") -> bool:
        """Whether two runs answered the same questions in the same order."""
        return np.array_equal(self.examples, other.examples) and np.array_equal(self.labels, other.labels)


class Difference(NamedTuple):
    """Score of a method minus that of the reference (fractions), resampled over seeds and examples.

    `low` and `high` bound the middle 95 % of the draws; `p` is two-sided, from the normal distribution (several seeds:
    Student's) with the draws' standard deviation: a thousand draws could not show the small p that many tests in one
    table need.
    """

    value: float
    low: float
    high: float
    p: float


@lru_cache(maxsize=4096)
def read_predictions(folder: Path, split: str) -> Predictions | None:
    """A run's stored predictions on a split; None if it stored none there.

    Raises:
        DataError: the file is broken or lacks columns.
    """
    import pandas as pd

    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        table = pd.read_parquet(path, columns=["split", "example", "label", "prediction"])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as predictions ({error}); delete the run and launch again") from error
    rows = table[table["split"] == split]
    columns = (rows[name].to_numpy() for name in ("example", "label", "prediction"))
    return Predictions(*columns) if len(rows) else None


def bootstrap(pairs: Sequence[tuple[Predictions, Predictions]], metric: str) -> Difference:
    """Method minus reference, mean over pairs of runs (seeds), all scored on the same draws of the examples.

    A draw takes one pair less than there are, with replacement: so the draws vary with the seeds as much as the mean
    does (Rao and Wu, 1988). The degrees of freedom are Satterthwaite's: as many as there are seeds, less one, if all
    variance is between seeds, and more the more of it the examples account for.

    Args:
        pairs: (method, reference), one pair per seed, all on the same examples.
        metric: a key of `METRICS`.
    """
    scored = [(resampled(method, metric), resampled(reference, metric)) for method, reference in pairs]
    single = np.array([method.score - reference.score for method, reference in scored])  # [seeds]
    drawn = _drawn_seeds(np.array([method.drawn - reference.drawn for method, reference in scored]))
    value, variance = float(single.mean()), float(drawn.var(ddof=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(value, float(low), float(high), _two_sided_p(value, variance, _freedom(single, variance)))


def _drawn_seeds(drawn: np.ndarray) -> np.ndarray:
    """Mean over the seeds of each draw, [DRAWS], of [seeds, DRAWS]."""
    seeds = len(drawn)
    if seeds == 1:
        return drawn[0]
    chosen = np.random.default_rng(seeds).integers(seeds, size=(seeds - 1, drawn.shape[1]))
    return np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)


def _freedom(single: np.ndarray, variance: float) -> float:
    """Degrees of freedom of a variance that is partly one between seeds; infinite if no part of it is."""
    between = float(single.var(ddof=1)) / len(single) if len(single) > 1 else 0.0
    return (len(single) - 1) * max(1.0, variance / between) ** 2 if between else inf


class Resampled(NamedTuple):
    """The score of a run, and its scores on all draws, [DRAWS]."""

    score: float
    drawn: np.ndarray


def _two_sided_p(value: float, variance: float, freedom: float) -> float:
    from scipy.special import ndtr, stdtr  # without the seconds that scipy.stats takes to load

    if value == 0:
        return 1.0
    if not variance:
        return 0.0
    below = -abs(value) / sqrt(variance)
    return float(2 * (ndtr(below) if freedom == inf else stdtr(freedom, below)))


@lru_cache(maxsize=4096)
def resampled(predictions: Predictions, metric: str) -> Resampled:
    """Score a run's predictions as they are, and on all draws."""
    labels, answers = predictions.labels, predictions.answers
    once = np.ones((1, len(labels)), dtype=np.float32)
    score = METRICS[metric]
    return Resampled(float(score(once, labels, answers)[0]), score(draws(len(labels)), labels, answers))


@lru_cache(maxsize=2)
def draws(examples: int) -> np.ndarray:
    """How often each example is in each draw, float32 [DRAWS, examples]; the same for every run."""
    random = np.random.default_rng(examples)
    counts = [np.bincount(random.integers(examples, size=examples), minlength=examples) for _ in range(DRAWS)]
    return np.array(counts, dtype=np.float32)


def mcnemar_p(first: Predictions, second: Predictions) -> float:
    """McNemar's p for the right answers of two runs on the same examples (classes only)."""
    return mcnemar(first.answers == first.labels, second.answers == second.labels)


# --- metrics as functions of counts [draws, examples] ---


def _accuracy(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    return counts @ (answers == labels).astype(np.float32) / counts.sum(1)


def _confusion(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """True positives, false positives, false negatives, true negatives of class 1: float64 [4, draws]."""
    yes, said = labels == 1, answers == 1
    groups = np.stack([yes & said, ~yes & said, yes & ~said, ~yes & ~said], axis=1).astype(np.float32)
    return (counts @ groups).T.astype(np.float64)


def _f1(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    hits, false_alarms, misses, _ = _confusion(counts, labels, answers)
    return _ratio(2 * hits, 2 * hits + false_alarms + misses)


def _matthews(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    hits, false_alarms, misses, rest = _confusion(counts, labels, answers)
    sides = (hits + false_alarms) * (hits + misses) * (rest + false_alarms) * (rest + misses)
    return _ratio(hits * rest - false_alarms * misses, np.sqrt(sides))


def _pearson(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    x, y = (values - values.mean() for values in (labels.astype(np.float64), answers.astype(np.float64)))
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1).astype(np.float32)
    sums = (counts @ moments).T.astype(np.float64) / counts.sum(1)
    return _correlation(*sums)


def _spearman(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    x, y = midranks(counts, labels), midranks(counts, answers)
    size = counts.sum(1, keepdims=True)
    x, y = ((ranks - (size + 1) / 2) / size for ranks in (x, y))
    # Centred ranks have the mean 0 in every draw.
    xx, yy, xy = ((counts * part).sum(1, dtype=np.float64) for part in (x * x, y * y, x * y))
    return _correlation(np.zeros_like(xx), np.zeros_like(xx), xx, yy, xy)


def midranks(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank of every example among the examples of each draw, ties sharing the mean of theirs: [draws, examples]."""
    _, places = np.unique(values, return_inverse=True)
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)  # [draws, different values]
    return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, places]


def _correlation(x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Correlation from the means of values, of their squares and of their product."""
    return _ratio(xy - x * y, np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient; 0 where there is nothing below, as the tasks' metrics have it."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


METRICS: dict[str, Score] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
