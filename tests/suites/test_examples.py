"""Scores under resampling: every metric against scikit-learn and scipy on the drawn examples themselves."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from benchmarks.null_rate import null_rate
from gppdfd.errors import DataError, UsageError
from suites.compare import compare_runs
from suites.examples import DRAWS, METRICS, Predictions, bootstrap, draws, mcnemar_p, midranks, read_predictions
from suites.statistics import mcnemar
from tests.suites.fake_store import FakeStore

ORACLES = {
    "accuracy": accuracy_score,
    "f1": lambda labels, answers: f1_score(labels, answers, zero_division=0.0),
    "matthews": matthews_corrcoef,
    "pearson": lambda labels, answers: stats.pearsonr(labels, answers).statistic,
    "spearman": lambda labels, answers: stats.spearmanr(labels, answers).statistic,
}
CORRELATIONS = ("matthews", "pearson", "spearman")
COARSE = st.integers(0, 3).map(float)  # many ties


def predictions(labels: object, answers: object) -> Predictions:
    labels = np.asarray(labels)
    return Predictions(np.arange(len(labels)), labels, np.asarray(answers))


def oracle(metric: str, labels: np.ndarray, answers: np.ndarray) -> float:
    """0 where a side never changes, as the tasks' own metrics have it."""
    if metric in CORRELATIONS and (np.ptp(labels) == 0 or np.ptp(answers) == 0):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(ORACLES[metric](labels, answers))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(sorted(METRICS)), st.integers(2, 12))
def test_a_metric_of_counts_is_the_metric_of_the_repeated_examples(data: st.DataObject, metric: str, size: int) -> None:
    values = COARSE if metric in ("pearson", "spearman") else st.integers(0, 1)
    labels, answers = (np.array(data.draw(st.lists(values, min_size=size, max_size=size))) for _ in range(2))
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    counts[0] += counts.sum() == 0
    repeated = np.repeat(np.arange(size), counts)
    found = METRICS[metric](counts[None].astype(np.float32), labels, answers)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(oracle(metric, labels[repeated], answers[repeated]), abs=1e-5)


@given(st.lists(COARSE, min_size=1, max_size=20))
def test_midranks_of_every_example_once_are_scipys(values: list[float]) -> None:
    ranks = midranks(np.ones((1, len(values)), dtype=np.float32), np.array(values))
    np.testing.assert_array_equal(ranks[0], stats.rankdata(values))


def test_draws_are_of_the_right_size_and_the_same_for_all() -> None:
    counts = draws(50)
    assert counts.shape == (DRAWS, 50)
    assert (counts.sum(1) == 50).all()
    assert draws(50) is counts
    assert counts.mean() == 1
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.03), "binomial with n = 50, p = 1/50"


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_the_interval_is_that_of_scipys_paired_bootstrap(metric: str) -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 300)
    if metric in ("pearson", "spearman"):
        labels = labels + random.normal(size=300)
        first, second = labels + random.normal(size=300), labels + 2 * random.normal(size=300)
    else:
        first, second = (np.where(random.random(300) < share, labels, 1 - labels) for share in (0.85, 0.75))
    found = bootstrap([(predictions(labels, first), predictions(labels, second))], metric)

    def difference(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
        return oracle(metric, labels, first) - oracle(metric, labels, second)

    expected = stats.bootstrap(
        (labels, first, second), difference, paired=True, vectorized=False, n_resamples=300, method="percentile", rng=1
    )
    assert found.value == pytest.approx(difference(labels, first, second), abs=1e-5)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval, abs=0.15 * width)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.value) / expected.standard_error), rel=0.5, abs=0.01)


def test_on_accuracy_the_bootstrap_says_what_mcnemar_says() -> None:
    labels = np.zeros(1000, dtype=int)
    first, second = labels.copy(), labels.copy()
    first[:60], second[40:150] = 1, 1  # 40 right in the second alone, 90 in the first alone
    pair = predictions(labels, first), predictions(labels, second)
    found = bootstrap([pair], "accuracy")
    assert found.value == pytest.approx(0.05)
    assert stats.norm.isf(found.p / 2) == pytest.approx(50 / np.sqrt(130 - 50**2 / 1000), rel=0.1)
    assert mcnemar_p(*pair) == pytest.approx(mcnemar(first == 0, second == 0))
    assert mcnemar_p(*pair) == pytest.approx(found.p, abs=1e-4)


def test_equal_answers_differ_in_nothing() -> None:
    labels = np.arange(20) % 2
    found = bootstrap([(predictions(labels, labels), predictions(labels, labels))], "accuracy")
    assert found == (0.0, 0.0, 0.0, 1.0)


def test_constant_answers_have_no_correlation_and_do_not_fail() -> None:
    labels = np.linspace(0, 5, 30)
    found = bootstrap([(predictions(labels, labels), predictions(labels, 0 * labels))], "spearman")
    assert found.value == pytest.approx(1)
    assert found.p < 1e-6


def test_seeds_are_drawn_with_the_examples() -> None:
    labels = np.arange(100) % 2
    good, bad = predictions(labels, labels), predictions(labels, 1 - labels)
    assert bootstrap([(good, bad), (bad, good)], "accuracy") == (0.0, -1.0, 1.0, 1.0)
    assert bootstrap([(good, bad)] * 3, "accuracy") == (1.0, 1.0, 1.0, 0.0)


def test_seeds_that_disagree_are_a_t_test() -> None:
    """Without any variance between examples, the test over seeds is Student's on their differences."""
    labels = np.zeros(4000, dtype=int)
    right = [predictions(labels, np.arange(4000) >= 4000 * share) for share in (0.9, 0.6, 0.7, 0.8, 0.75)]
    found = bootstrap([(run, predictions(labels, labels + 1)) for run in right], "accuracy")
    expected = stats.ttest_1samp([0.9, 0.6, 0.7, 0.8, 0.75], 0).pvalue
    assert found.p == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize(("seeds", "least", "most"), [(1, 0.25, 0.5), (2, 0, 0.12), (3, 0, 0.08)])
def test_a_method_seldom_differs_from_itself_if_there_are_seeds(seeds: int, least: float, most: float) -> None:
    assert least <= null_rate(seeds, spread=0.03, repeats=200) <= most


# --- stored predictions ---


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    store = FakeStore(tmp_path / "runs")
    labels = np.arange(80) % 2
    for method, wrong in (("gpp+dfd", 4), ("gpp+none", 30)):
        run = store.add("rte", method, 0.8)
        store.finish(run, {"validation": [1 - wrong / 80]})
        store.predict(run, np.where(np.arange(80) < wrong, 1 - labels, labels), labels)
    return store


def folders(store: FakeStore) -> list[Path]:
    return [store.root / row["run_id"] for row in store.plan]


def test_predictions_are_read_by_split(store: FakeStore) -> None:
    found = read_predictions(folders(store)[0], "validation")
    assert found is not None
    assert (found.answers == found.labels).mean() == pytest.approx(76 / 80)
    assert read_predictions(folders(store)[0], "matched") is None
    assert read_predictions(store.root / "nothing", "validation") is None


def test_broken_predictions_are_one_message(store: FakeStore) -> None:
    broken = store.root / store.plan[1]["run_id"]
    (broken / "predictions.parquet").write_text("torn")
    with pytest.raises(DataError, match=r"predictions\.parquet: not readable"):
        read_predictions(broken, "validation")


def test_two_runs_are_compared_in_words(store: FakeStore) -> None:
    first, second = folders(store)[:2]
    for folder, changes in ((first, {}), (second, {"warnings": ["lost its way"]})):
        record = json.loads((folder / "record.json").read_text())
        scores = {"validation": {"accuracy": 0.625 if changes else 0.95}}
        (folder / "record.json").write_text(json.dumps({**record, "scores": scores, **changes}))
    title, scores_line, difference, answers, mark = compare_runs(first, second)
    assert title == "validation: 80 examples"
    assert scores_line == "  accuracy: 95.00 and 62.50"
    assert difference.startswith("  difference: +32.50 points [+")
    assert answers == "  right answers: McNemar p = 0.0000"
    assert mark == f"{second.name}: lost its way"


def test_only_finished_runs_of_one_task_on_one_data_set_are_compared(store: FakeStore) -> None:
    first = folders(store)[0]
    other = store.finish(store.add("sst2", "gpp+dfd", 0.8))
    with pytest.raises(UsageError, match=r"a run of rte, .* of sst2"):
        compare_runs(first, other)
    with pytest.raises(UsageError, match="no finished run"):
        compare_runs(first, store.root / "nothing")
    run = store.add("rte", "random+dfd", 0.8)
    folder = store.finish(run)
    with pytest.raises(DataError, match="stored no predictions"):
        compare_runs(first, folder)
    store.predict(run, [0, 1], [0, 1])
    read_predictions.cache_clear()
    with pytest.raises(DataError, match="different examples"):
        compare_runs(first, folder)
