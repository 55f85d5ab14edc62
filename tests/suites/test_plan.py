"""Plans: teachers that students need, order, the columns of the parquet file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gppdfd.errors import UsageError
from suites.plan import COLUMNS, PlannedRun, make_plan, with_earlier, write_plan
from suites.store import Store
from suites.suite import Request, load_suite

PlanOf = Callable[..., list[PlannedRun]]


def test_teachers_come_first_and_once(plan_of: PlanOf) -> None:
    plan = plan_of()
    assert [run.role for run in plan] == ["teacher"] * 2 + ["student"] * 12
    assert len({run.run_id for run in plan}) == len(plan)


def test_teachers_that_the_filter_left_out_are_added(plan_of: PlanOf) -> None:
    teacher, student = plan_of("task=mrpc", "method=ok+dfd", "sparsity=0.8")
    assert (teacher.role, teacher.label, teacher.order) == ("teacher", "Dense", 3)
    assert student.teacher == teacher.run_id


def test_a_student_that_needs_no_teacher_gets_none(plan_of: PlanOf) -> None:
    (student,) = plan_of("task=mrpc", "method=ok+none", "sparsity=0.8")
    assert student.teacher is None


def test_the_file_has_the_columns_that_reports_read(plan_of: PlanOf, store: Store) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8")
    write_plan(plan, store.plan_path("tiny", "micro"))
    rows = store.plan("tiny", "micro")
    assert tuple(rows[0]) == COLUMNS
    assert rows[1] == {
        "run_id": plan[1].run_id,
        "task": "mrpc",
        "method": "ok+dfd",
        "label": "OK",
        "sparsity": 0.8,
        "seed": 1,
        "role": "student",
        "order": 0,
        "paper": "Somebody 2024",
        "pair": "ok+dfd",
        "reference": True,
        "reachable": True,
        "reason": "",
    }


def test_presets_are_those_of_the_suite_alone(plan_of: PlanOf, store: Store) -> None:
    for suite, preset in (("cross", "micro"), ("cross-big", "base"), ("cross", "long-base")):
        write_plan(plan_of(), store.plan_path(suite, preset), suite)
    write_plan(plan_of(), store.plan_path("cross-old", "mini"))
    assert store.presets("cross") == ["long-base", "micro"]
    assert store.presets("cross-big") == ["base"]
    assert store.presets("cross-old") == ["mini"]


def test_plans_are_found_by_suite(plan_of: PlanOf, store: Store) -> None:
    write_plan(plan_of(), store.plan_path("tiny", "micro"))
    assert store.plans("tiny-*") == [Path(store.root / "plans" / "tiny-micro.parquet")]
    assert store.plans("other-*") == []


def test_unreachable_points_are_shown_with_their_reason(plan_of) -> None:
    plan = plan_of(method="far+dfd")
    assert {run.reason for run in plan if not run.reachable} == {"too far"}
    assert {run.method for run in plan if not run.reachable} == {"far+dfd"}


@pytest.mark.parametrize("only", ["method=far+dfd", "sparsity=0.8"])
def test_unreachable_points_asked_for_by_name_are_refused(plan_of, only: str) -> None:
    with pytest.raises(UsageError, match=r"far\+dfd at sparsity 0\.8 is not reachable: too far"):
        plan_of(only, method="far+dfd")


def test_a_narrower_launch_keeps_the_earlier_runs_of_the_same_settings(suite_file: Path, plan_of: PlanOf) -> None:
    earlier = [{"run_id": run.run_id, "task": run.task, "seed": run.seed} for run in plan_of()]
    request = Request(only=["task=mrpc", "method=ok+none"])
    suite = load_suite(str(suite_file), request)
    plan = with_earlier(make_plan(suite, request), suite, request, earlier)
    assert sorted(run.run_id for run in plan) == sorted(row["run_id"] for row in earlier)


def test_a_launch_of_fewer_seeds_keeps_the_earlier_ones(suite_file: Path) -> None:
    three = Request(seeds=3)
    earlier = make_plan(load_suite(str(suite_file), three), three)
    suite = load_suite(str(suite_file), Request())
    rows = [{"run_id": run.run_id, "task": run.task, "seed": run.seed} for run in earlier]
    plan = with_earlier(make_plan(suite, Request()), suite, Request(), rows)
    assert sorted(run.run_id for run in plan) == sorted(run.run_id for run in earlier)


def test_runs_of_other_settings_leave_the_plan(suite_file: Path, plan_of: PlanOf) -> None:
    earlier = [{"run_id": run.run_id, "task": run.task, "seed": run.seed} for run in plan_of()]
    request = Request(only=["task=mrpc"], settings=["training.epochs=9", "teacher.epochs=9"])
    suite = load_suite(str(suite_file), request)
    own = make_plan(suite, request)
    assert with_earlier(own, suite, request, earlier) == own
