"""GLUE's official scores, computed by scikit-learn and scipy, and the scores of a constant answer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gppdfd.errors import DataError
from gppdfd.tasks.base import TaskSpec

EVALUATE_MODULE = Path(__file__).parent / "evaluate_modules" / "glue_score"
"""Folder for `evaluate.load(str(EVALUATE_MODULE), "mrpc")`: the same numbers as a Hugging Face metric."""


def score(spec: TaskSpec, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All metrics of a task, in the order of `spec.metrics`.

    Args:
        spec: the task.
        predictions: class numbers or regression values, [examples].
        labels: the same for the right answers, [examples].

    Returns:
        Metric name -> value in 0..1 (accuracy, f1, macro_f1) or -1..1 (matthews, pearson, spearman). Where the
        predictions or the labels are constant, a correlation is 0.0.

    Raises:
        DataError: a prediction is NaN or infinite.
        ValueError: shapes differ, or there are no examples.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(f"predictions {predictions.shape} and labels {labels.shape} must be equally many")
    if not np.isfinite(predictions).all():
        raise DataError(f"task {spec.name}: predictions are NaN or infinite, the training has diverged")
    return {metric: _METRICS[metric](predictions, labels) for metric in spec.metrics}


def majority(spec: TaskSpec, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores on `labels` of always answering the most frequent class (or mean value) of the training rows."""
    constant = train_labels.mean() if spec.regression else np.bincount(train_labels).argmax()
    return score(spec, np.full(len(labels), constant), labels)


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1, 0.0 when neither side has it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0.0))


def _macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of their F1, 0.0 for a class that is never found."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _constant(predictions, labels) else float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def _correlation(
    correlate: Callable[[np.ndarray, np.ndarray], tuple[float, float]],
    predictions: np.ndarray,
    labels: np.ndarray,
) -> float:
    if _constant(predictions, labels):
        return 0.0
    coefficient, _ = correlate(predictions.astype(np.float64), labels.astype(np.float64))
    return float(coefficient)


def _constant(predictions: np.ndarray, labels: np.ndarray) -> bool:
    """Whether one side never changes: no correlation is defined, and the libraries warn or give NaN."""
    return bool(np.ptp(predictions) == 0 or np.ptp(labels) == 0)


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
