"""Scores against scikit-learn, scipy and the definitions; the `evaluate` module against both."""

import socket

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from gppdfd.errors import DataError
from gppdfd.tasks import TASK_NAMES, task_spec
from gppdfd.tasks.metrics import EVALUATE_MODULE, majority, score

ORACLES = {
    "accuracy": lambda labels, given: sklearn.metrics.accuracy_score(labels, given),
    "f1": lambda labels, given: sklearn.metrics.f1_score(labels, given),
    "matthews": lambda labels, given: sklearn.metrics.matthews_corrcoef(labels, given),
    "pearson": lambda labels, given: scipy.stats.pearsonr(labels, given)[0],
    "spearman": lambda labels, given: scipy.stats.spearmanr(labels, given)[0],
}


def _drawn(task: str, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels that agree in part."""
    random, spec = np.random.default_rng(0), task_spec(task)
    if spec.regression:
        labels = random.uniform(0, 5, rows).astype(np.float32)
        return labels + random.normal(0, 1, rows).astype(np.float32), labels
    labels = random.integers(spec.outputs, size=rows)
    return np.where(random.random(rows) < 0.6, labels, random.integers(spec.outputs, size=rows)), labels


@pytest.mark.parametrize("task", TASK_NAMES)
def test_scores_are_those_of_the_libraries(task: str) -> None:
    predictions, labels = _drawn(task)
    scores = score(task_spec(task), predictions, labels)
    assert tuple(scores) == task_spec(task).metrics
    for metric, value in scores.items():
        assert value == pytest.approx(ORACLES[metric](labels, predictions), abs=1e-6)
        assert type(value) is float


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_binary_scores_are_those_of_the_definitions(pairs: list[tuple[int, int]]) -> None:
    predictions, labels = map(np.array, zip(*pairs, strict=True))
    tp, fp, fn, tn = (pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))
    f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score(task_spec("mrpc"), predictions, labels) == pytest.approx(
        {"accuracy": (tp + tn) / len(pairs), "f1": f1}
    )
    matthews = score(task_spec("cola"), predictions, labels)["matthews"]
    assert matthews == pytest.approx((tp * tn - fp * fn) / root if root else 0.0)


def test_spearman_sees_the_order_only_pearson_the_line() -> None:
    labels = np.arange(10, dtype=np.float32) / 2
    scores = score(task_spec("stsb"), np.exp(labels), labels)
    assert scores["spearman"] == pytest.approx(1.0)
    assert 0.5 < scores["pearson"] < 0.95


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", TASK_NAMES)
def test_constant_answers_have_no_correlation_and_no_nan(task: str) -> None:
    spec = task_spec(task)
    labels = _drawn(task)[1]
    zeros = np.zeros_like(labels)
    for predictions, truth in ((zeros, labels), (labels, zeros), (zeros, zeros)):
        scores = score(spec, predictions, truth)
        assert np.isfinite(list(scores.values())).all()
        assert {scores.get(name, 0.0) for name in ("matthews", "pearson", "spearman")} == {0.0}


def test_majority_answers_the_commonest_training_label() -> None:
    labels = np.array([0, 1, 1, 1])
    assert majority(task_spec("mrpc"), np.array([1, 1, 0]), labels) == pytest.approx({"accuracy": 0.75, "f1": 6 / 7})
    assert majority(task_spec("mrpc"), np.array([1, 0, 0]), labels) == {"accuracy": 0.25, "f1": 0.0}
    assert majority(task_spec("cola"), np.array([1, 1, 0]), labels) == {"matthews": 0.0}
    values = np.array([0.1, 4.9, 3.3], np.float32)
    assert majority(task_spec("stsb"), values, values) == {"pearson": 0.0, "spearman": 0.0}


def test_bad_arguments() -> None:
    with pytest.raises(DataError, match="stsb: predictions are NaN"):
        score(task_spec("stsb"), np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="equally many"):
        score(task_spec("rte"), np.array([1, 0, 1]), np.array([1, 0]))
    with pytest.raises(ValueError, match="equally many"):
        score(task_spec("rte"), np.array([], int), np.array([], int))


@pytest.mark.parametrize("task", TASK_NAMES)
def test_evaluate_module_gives_the_same_scores_without_a_network(
    task: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluate

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked for the network"))
    metric = evaluate.load(
        str(EVALUATE_MODULE), task, cache_dir=str(tmp_path_factory.mktemp("evaluate")), keep_in_memory=True
    )
    predictions, labels = _drawn(task)
    found = metric.compute(predictions=predictions, references=labels)
    assert found == pytest.approx(
        {name: ORACLES[name](labels, predictions) for name in task_spec(task).metrics}, abs=1e-6
    )


def test_evaluate_module_refuses_an_unknown_task() -> None:
    import evaluate

    with pytest.raises(ValueError, match="unknown task 'mrcp'"):
        evaluate.load(str(EVALUATE_MODULE), "mrcp")
