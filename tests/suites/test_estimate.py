"""What durations are expected, and on what that rests."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.display import Display
from suites.estimate import Estimate, forecast, measured_runs
from suites.plan import PlannedRun
from suites.store import Store

PlanOf = Callable[..., list[PlannedRun]]


def one(plan: Sequence[PlannedRun], **values: object) -> PlannedRun:
    """The only run of a plan with these values."""
    (found,) = [run for run in plan if all(getattr(run, name) == value for name, value in values.items())]
    return found


def test_nothing_measured_is_no_estimate(plan_of: PlanOf) -> None:
    plan = plan_of()
    assert Estimate().guess(plan[0]) is None
    assert Estimate().total(plan) is None
    assert Estimate().total([]) == 0.0
    assert forecast(plan, Estimate(), 2).unknown == plan


def test_estimates_come_from_the_runs_most_alike(plan_of: PlanOf) -> None:
    plan = plan_of()
    wanted = one(plan, task="mrpc", label="OK", sparsity=0.95)
    other_method = one(plan, task="mrpc", label="alone", sparsity=0.8)
    other_task = one(plan, task="stsb", label="OK", sparsity=0.8)
    alike = one(plan, task="mrpc", label="OK", sparsity=0.8)
    estimate = Estimate()

    def told() -> tuple[float, str]:
        guess = estimate.guess(wanted)
        assert guess is not None
        return guess.seconds, guess.basis

    estimate.add(one(plan, task="stsb", label="alone", sparsity=0.8), 30.0)
    assert told() == (30.0, "steps of other methods and tasks")
    estimate.add(other_task, 50.0)
    assert told() == (50.0, "steps of its method on other tasks")
    estimate.add(dataclasses.replace(other_method, run_id="x", method="other+none"), 70.0)
    assert told() == (70.0, "runs of its task")
    estimate.add(other_method, 90.0)  # ok+none: the pruner is the same
    assert told() == (90.0, "runs of its task and pruner")
    assert not estimate.measured(wanted)
    estimate.add_probe(alike, 110.0)
    assert told() == (110.0, "a probe of its task and method")
    assert estimate.measured(wanted)
    estimate.add(alike, 130.0)
    estimate.add(alike, 150.0)
    assert told() == (140.0, "runs of its task and method")


def test_a_pruner_goes_to_the_plus_between_the_pair(plan_of: PlanOf) -> None:
    plan = plan_of("task=mrpc", "method=ok+none")
    one, same, other = (
        dataclasses.replace(plan[0], run_id=method, method=method)
        for method in ("ok(units=heads+ffn)+dfd", "ok(units=heads+ffn)+none", "ok(units=heads+hidden)+none")
    )
    bases = [guess.basis for run in (same, other) if (guess := Estimate([(one, 10.0)]).guess(run))]
    assert bases == ["runs of its task and pruner", "runs of its task"]


def test_other_tasks_are_compared_by_their_steps(plan_of: PlanOf) -> None:
    plan = plan_of("method=ok+none", "sparsity=0.8")
    short, long = plan[0], dataclasses.replace(plan[1], steps={"search": 30, "recovery": 70})
    assert sum(short.steps.values()) == 20
    assert Estimate([(short, 10.0)]).seconds(long) == 50.0
    assert Estimate([(short, 10.0)]).seconds(dataclasses.replace(long, steps={})) is None


@pytest.mark.parametrize(
    ("role", "change", "alike"),
    [
        ("student", {"training": {"epochs": 9}}, False),
        ("student", {"data": "other"}, False),
        ("student", {"precision": "bf16"}, False),
        ("student", {"threads": 7}, False),
        ("student", {"select": "best"}, False),
        ("student", {"model_content": "other"}, False),
        ("student", {"model": "/another/path"}, True),
        ("student", {"teacher": {"epochs": 9}}, True),
        ("teacher", {"teacher": {"epochs": 9}}, False),
        ("teacher", {"training": {"epochs": 9}}, True),
    ],
)
def test_only_runs_of_the_same_settings_say_something(
    plan_of: PlanOf, role: str, change: dict[str, object], alike: bool
) -> None:
    measured = one(plan_of("task=mrpc", "method=ok+dfd", "sparsity=0.8"), role=role)
    known = dataclasses.replace(measured, config={**measured.config, "model_content": "some"})
    other = dataclasses.replace(known, run_id="other", config={**known.config, **change})
    assert Estimate([(known, 10.0)]).seconds(other) == (10.0 if alike else None)


def test_a_total_is_the_sum_of_its_runs(plan_of: PlanOf) -> None:
    plan = plan_of()
    estimate = Estimate([(run, 10.0 + number) for number, run in enumerate(plan)])
    assert estimate.total(plan) == pytest.approx(sum(estimate.seconds(run) or 0.0 for run in plan))


def test_a_teacher_says_nothing_about_students(plan_of: PlanOf) -> None:
    teacher, student = plan_of("task=mrpc", "method=ok+dfd", "sparsity=0.8")
    assert Estimate([(teacher, 10.0)]).seconds(student) is None


def test_all_runs_of_the_store_count(store: Store, plan_of: PlanOf, launch: Callable[..., Display]) -> None:
    earlier = plan_of("task=mrpc", "method=ok+none", "sparsity=0.8")
    launch(earlier)
    wanted = plan_of("task=mrpc", "method=ok+none", "sparsity=0.95")
    guess = Estimate(measured_runs(store, wanted)).guess(wanted[0])
    assert guess is not None
    assert (guess.seconds, guess.basis) == (store.seconds(earlier[0].run_id), "runs of its task and method")
    for plan in (wanted, earlier):
        found = [(run.run_id, seconds) for run, seconds in measured_runs(store, plan)]
        assert found == [(earlier[0].run_id, store.seconds(earlier[0].run_id))], "each once"


def test_damaged_and_strange_folders_are_passed_over(
    store: Store, plan_of: PlanOf, launch: Callable[..., Display]
) -> None:
    plan = plan_of("task=mrpc", "method=ok+none")
    launch(plan)
    (store.folder(plan[0].run_id) / "record.json").write_text("{")
    (store.root / "strange").mkdir()
    (store.root / "strange" / "done").write_text("[]")
    assert [run.run_id for run, _ in measured_runs(store, [])] == [plan[1].run_id]


def test_the_end_is_that_of_the_last_worker(plan_of: PlanOf) -> None:
    plan = plan_of("task=mrpc", "method=ok+dfd,ok+none,dense")
    estimate = Estimate([(run, 30.0 if run.role == "teacher" else 10.0) for run in plan])
    found = forecast(plan, estimate, 2)
    assert found.work == 30 + 4 * 10
    # Both students that need the teacher wait for it on one worker each, or follow each other.
    assert found.end == 50.0
    assert found.bases == {"runs of its task and method": 5}


@given(seconds=st.lists(st.floats(0.1, 100), min_size=5, max_size=5), workers=st.integers(1, 3))
def test_the_end_is_near_that_of_the_best_schedule(seconds: list[float], workers: int) -> None:
    """Graham's bound for the longest first: 4/3 - 1/(3 workers) of the best of all ways to share the runs out."""
    runs = [PlannedRun(f"r{n}", f"t{n}", "a+b", "A", 0.8, 1, "student", 0) for n in range(len(seconds))]

    def end(places: Sequence[int]) -> float:
        return max(sum(s for s, place in zip(seconds, places, strict=True) if place == n) for n in range(workers))

    best = min(end(places) for places in itertools.product(range(workers), repeat=len(runs)))
    found = forecast(runs, Estimate(zip(runs, seconds, strict=True)), workers).end
    assert best - 1e-9 <= found <= (4 / 3 - 1 / (3 * workers)) * best + 1e-9


@given(seconds=st.lists(st.floats(0.1, 100), min_size=4, max_size=4), workers=st.integers(1, 6))
def test_the_end_lies_between_the_bounds_of_any_schedule(seconds: list[float], workers: int) -> None:
    runs = [PlannedRun(f"r{n}", f"t{n}", "a+b", "A", 0.8, 1, "student", 0) for n in range(len(seconds))]
    found = forecast(runs, Estimate(zip(runs, seconds, strict=True)), workers)
    assert found.work == pytest.approx(sum(seconds))
    assert max(seconds) - 1e-9 <= found.end <= sum(seconds) + 1e-9
    assert found.end >= sum(seconds) / workers - 1e-9
    if workers == 1:
        assert found.end == pytest.approx(sum(seconds))
