"""Statistics over runs: against hand-computed examples, numpy, scipy and statsmodels."""

from itertools import product
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from suites.records import Results, read_results
from suites.statistics import (
    average_ranks,
    average_summaries,
    compare,
    critical_difference,
    holm,
    mcnemar,
    no_evidence,
    retention_summaries,
    score_summaries,
    summary,
)
from tests.suites.fake_store import FakeStore, full_store

fractions = st.integers(0, 20).map(lambda number: number / 20)


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def results_of(store: FakeStore) -> Results:
    return read_results(store.save_plan(), store.root)


def test_summaries_agree_with_numpy(tmp_path: Path) -> None:
    store = full_store(tmp_path, tasks=["mrpc", "mnli"], methods=["gpp+dfd", "random+dfd"], seeds=(1, 2, 3, 5))
    results = results_of(store)
    for key, found in score_summaries(results).items():
        label, sparsity, task, split, metric = key
        values = [
            record.scores[split][metric]
            for record in results.records.values()
            if (record.label, record.sparsity_target, record.task) == (label, sparsity, task)
        ]
        np.testing.assert_allclose(found, (np.mean(values), np.std(values, ddof=1), 4), rtol=1e-12)


def test_averages_are_over_tasks_first_and_seeds_then(store: FakeStore) -> None:
    numbers = {
        ("mrpc", 1): 0.9,
        ("mrpc", 2): 0.8,
        ("mnli", 1): 0.7,
        ("mnli", 2): 0.5,
        ("rte", 1): 0.6,
        ("rte", 2): 0.65,
    }
    for (task, seed), value in numbers.items():
        scores = {"mnli": {"matched": [value], "mismatched": [0.1]}, "mrpc": {"validation": [0.2, value]}}
        run = store.add(task, "gpp+dfd", 0.8, seed)
        store.finish(run, scores.get(task, {"validation": [value]}))
    by_seed = [np.mean([value for (_, seed), value in numbers.items() if seed == wanted]) for wanted in (1, 2)]
    averages = average_summaries(results_of(store))
    np.testing.assert_allclose(averages["gpp+dfd", 0.8], (np.mean(by_seed), np.std(by_seed, ddof=1), 2))


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_no_evidence_is_at_most_a_point_above_the_majority(score: float, majority: float) -> None:
    assert no_evidence({"m": majority + 0.01}, {"m": majority})
    assert not no_evidence({"m": majority + 0.0101}, {"m": majority})
    assert no_evidence({"m": min(score, majority)}, {"m": majority})
    assert not no_evidence({"m": score}, {}), "unknown"


def test_one_metric_is_enough_for_no_evidence() -> None:
    majority = {"accuracy": 0.63, "f1": 0.0}  # of QQP, where most pairs are no duplicates
    assert no_evidence({"accuracy": 0.37, "f1": 0.54}, majority), "always yes"
    assert not no_evidence({"accuracy": 0.7, "f1": 0.54}, majority)


@given(st.lists(st.floats(-1, 1), max_size=9))
def test_a_summary_is_numpys(values: list[float]) -> None:
    found = summary(values)
    assert found.n == len(values)
    assert isnan(found.mean) == (not values)
    assert isnan(found.sd) == (len(values) < 2)
    if len(values) > 1:
        np.testing.assert_allclose(found[:2], (np.mean(values), np.std(values, ddof=1)))


def test_retention_is_a_mean_over_tasks_of_shares_of_the_own_teacher(store: FakeStore) -> None:
    for task, teacher, student in (("rte", 0.8, 0.4), ("sst2", 0.9, 0.9)):
        scores = {"validation": {"accuracy": teacher}}
        store.finish(
            store.add(task, "gpp+dfd", 0.8), {"validation": [student]}, teacher={"run_id": "t", "scores": scores}
        )
    assert retention_summaries(results_of(store))["gpp+dfd", 0.8].mean == pytest.approx(0.75)


@pytest.mark.parametrize("teacher", [0.0, -0.2])
def test_nothing_is_retained_of_a_teacher_that_knows_nothing(store: FakeStore, teacher: float) -> None:
    """A correlation may be 0 or below, and no share of it says anything."""
    told = {"run_id": "t", "scores": {"validation": {"matthews": teacher}}}
    store.finish(store.add("cola", "gpp+dfd", 0.8), {"validation": [0.4]}, teacher=told)
    assert retention_summaries(results_of(store)) == {}


# --- a method against the reference ---


def test_six_wins_are_the_smallest_test() -> None:
    found = compare([0.6 + 0.01 * each for each in range(6)], [0.5] * 6)
    assert (found.wins, found.ties, found.losses, found.pairs) == (6, 0, 0, 6)
    assert found.p == pytest.approx(2 / 2**6)
    assert found.difference == pytest.approx(0.125)


def test_too_few_pairs_are_said_and_not_tested() -> None:
    found = compare([0.6] * 5, [0.5] * 5)
    assert isnan(found.p)
    assert found.why_not == "no test: 5 pairs; Wilcoxon's needs 6 that differ"


def test_constant_columns_are_ties_and_no_evidence() -> None:
    found = compare([0.5] * 8, [0.5] * 8)
    assert (found.wins, found.ties, found.losses, found.difference, found.sd) == (0, 8, 0, 0, 0)
    assert found.why_not == "no test: 8 pairs, 8 of them ties; Wilcoxon's needs 6 that differ"


def test_no_pairs_at_all() -> None:
    assert compare([], []).why_not == "no test: 0 pairs; Wilcoxon's needs 6 that differ"


def exact_signed_rank(differences: np.ndarray) -> float:
    """Two-sided p by writing out all signs: the definition of the test, ties with mean ranks."""
    ranks = stats.rankdata(np.abs(differences))
    signs = np.array(list(product((0, 1), repeat=len(ranks))))
    sums, seen = signs @ ranks, ranks[differences > 0].sum()
    return min(1.0, 2 * min((sums <= seen + 1e-9).mean(), (sums >= seen - 1e-9).mean()))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(fractions, fractions), min_size=6, max_size=10))
def test_wilcoxon_is_the_exact_test_with_ties_in_ranks_and_pairs(pairs: list[tuple[float, float]]) -> None:
    method, reference = map(list, zip(*pairs, strict=True))
    found = compare(method, reference)
    differences = np.round(np.subtract(method, reference), 9)
    differences = differences[differences != 0]
    if len(differences) < 6:
        assert isnan(found.p)
    else:
        assert found.p == pytest.approx(exact_signed_rank(differences))


def test_the_last_bits_of_a_difference_do_not_break_ties() -> None:
    """0.8 - 0.7 and 0.4 - 0.3 differ as floating point numbers."""
    method, reference = [0.8, 0.4, 0.9, 0.5, 0.6, 0.7], [0.7, 0.3, 1.0, 0.4, 0.5, 0.6]
    assert compare(method, reference).p == pytest.approx(exact_signed_rank(np.array([1, 1, -1, 1, 1, 1])))


def test_mcnemar_is_a_sign_test_on_the_answers_that_differ() -> None:
    first = np.array([True] * 10 + [False] * 2 + [True] * 50)
    second = np.array([False] * 10 + [True] * 2 + [True] * 50)
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert mcnemar(first, first) == 1.0


def test_mcnemar_of_many_answers_is_chi_square_with_continuity_correction() -> None:
    first = np.array([True] * 40 + [False] * 20)
    assert mcnemar(first, ~first) == pytest.approx(stats.chi2.sf((abs(40 - 20) - 1) ** 2 / 60, 1))


def test_mcnemar_is_exact_up_to_25_answers() -> None:
    for wins, losses in ((17, 8), (18, 8)):
        first = np.array([True] * wins + [False] * losses)
        exact, approximate = (
            stats.binomtest(wins, len(first)).pvalue,
            stats.chi2.sf((wins - losses - 1) ** 2 / len(first), 1),
        )
        assert mcnemar(first, ~first) == pytest.approx(exact if len(first) <= 25 else approximate)


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan")})
    assert corrected["a"] == pytest.approx(0.03)
    assert corrected["c"] == pytest.approx(0.06)
    assert corrected["b"] == pytest.approx(0.06), "never below a smaller p's"
    assert isnan(corrected["d"]), "no test is no test, and counts for nothing"
    assert holm({}) == {}


@settings(deadline=None, max_examples=12)  # statsmodels collects garbage at every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(values: list[float]) -> None:
    corrected = holm(dict(enumerate(values)))
    np.testing.assert_allclose(list(corrected.values()), multipletests(values, method="holm")[1])


# --- ranks ---


def test_critical_differences_are_those_of_the_tables() -> None:
    """Demšar (2006), table 5: q is 2.343, 2.569 and 2.728 for 3, 4 and 5 methods; 4 methods on 14 data sets: 1.25."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    for methods, quantile in ((3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)):
        expected = quantile * np.sqrt(methods * (methods + 1) / 6 / 8)
        assert critical_difference(methods, 8) == pytest.approx(expected, rel=1e-3)


def test_ranks_by_hand_with_a_tie() -> None:
    ranks = average_ranks({"a": [0.9, 0.8], "b": [0.7, 0.8], "c": [0.5, 0.1]})
    assert ranks.mean == {"a": 1.25, "b": 1.75, "c": 3.0}
    assert ranks.p == pytest.approx(stats.friedmanchisquare([0.9, 0.8], [0.7, 0.8], [0.5, 0.1]).pvalue)


def test_the_last_bits_of_a_score_do_not_break_ties_in_ranks() -> None:
    assert average_ranks({"a": [0.1 + 0.2], "b": [0.3], "c": [0.1]}).mean == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_ranks_of_equal_methods_and_of_too_few() -> None:
    equal = average_ranks({name: [0.5, 0.5] for name in "abc"})
    assert set(equal.mean.values()) == {2.0}
    assert equal.p == 1.0
    assert isnan(average_ranks({"a": [0.5, 0.4], "b": [0.4, 0.3]}).critical)
    assert isnan(average_ranks({name: [0.5] for name in "abc"}).critical)
    assert average_ranks({}).mean == {}
