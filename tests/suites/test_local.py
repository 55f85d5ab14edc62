"""The local launcher with real worker processes and runs that do not train."""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gppdfd.errors import DataError, UsageError
from suites import local
from suites.claims import claim
from suites.display import Display, Estimate
from suites.local import Event, LocalLauncher, LocalSettings, Worker, default_jobs, usable_gpus
from suites.plan import PlannedRun
from suites.store import State, Store

PlanOf = Callable[..., list[PlannedRun]]
Launch = Callable[..., Display]


def states(store: Store, plan: Sequence[PlannedRun]) -> list[State]:
    return [store.state(run.run_id) for run in plan]


def test_all_runs_are_done_by_warm_processes(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    plan = plan_of()
    shown = launch(plan, jobs=2)
    assert set(states(store, plan)) == {State.DONE}
    assert (shown.finished, shown.failures, shown.left) == (14, 0, {})
    records = list(store.records(run.run_id for run in plan))
    assert len({record["process"] for record in records}) == 2
    assert {record["threads"] for record in records} == {"1"}


def test_each_run_has_its_own_log_and_settings(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    plan = plan_of("task=mrpc")
    launch(plan, jobs=1)
    for run in plan:
        lines = store.log(run.run_id).read_text().splitlines()
        assert [line for line in lines if "printed" in line] == [f"printed by {run.run_id}"]
        assert json.loads((store.folder(run.run_id) / "config.json").read_text()) == run.config


def test_a_second_launch_starts_nothing(
    store: Store, plan_of: PlanOf, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("task=mrpc")
    launch(plan)
    times = [(store.folder(run.run_id) / "done").stat().st_mtime_ns for run in plan]
    monkeypatch.setattr(local, "Worker", None)
    launch(plan)
    assert [(store.folder(run.run_id) / "done").stat().st_mtime_ns for run in plan] == times


def test_a_failing_run_leaves_the_others_running(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    plan = plan_of("task=mrpc", method="fail+dfd")
    shown = launch(plan)
    failed = [run for run in plan if store.state(run.run_id) is State.FAILED]
    assert [run.method for run in failed] == ["fail+dfd", "fail+dfd"]
    assert (shown.finished, shown.failures) == (5, 2)
    assert store.reason(failed[0].run_id) == "mrpc cannot be learnt"
    assert "Traceback" in store.failure(failed[0].run_id)["traceback"]
    assert "mrpc cannot be learnt" in store.log(failed[0].run_id).read_text()


def test_a_failed_run_is_not_tried_again(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    plan = plan_of("task=mrpc", method="fail+dfd")
    launch(plan)
    failure = [store.failure(run.run_id) for run in plan]
    launch(plan)
    assert [store.failure(run.run_id) for run in plan] == failure


def test_a_run_whose_worker_dies_twice_has_failed(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    plan = plan_of("task=mrpc", method="die+dfd")
    shown = launch(plan, jobs=1)
    dead = [run for run in plan if store.state(run.run_id) is State.FAILED]
    assert [run.method for run in dead] == ["die+dfd", "die+dfd"]
    assert "exit code 7" in store.reason(dead[0].run_id)
    assert (shown.finished, shown.failures) == (5, 2)


def test_a_worker_that_leaves_after_a_failure_on_a_gpu_gets_no_other_run(
    store: Store, plan_of: PlanOf, launch: Launch
) -> None:
    released: list[PlannedRun] = []

    class Watched(Display):
        def released(self, run: PlannedRun) -> None:
            released.append(run)

    plan = plan_of("task=mrpc", method="spoil+none")
    shown = launch(plan, jobs=1, display=Watched)
    assert released == []
    assert [store.failure(run.run_id)["kind"] for run in plan if run.method == "spoil+none"] == ["error", "error"]
    assert (shown.finished, shown.failures) == (5, 2)


def test_a_worker_that_ends_before_it_starts_a_run_is_no_death_of_the_run(store: Store, plan_of: PlanOf) -> None:
    (run,) = plan_of("task=mrpc", "method=ok+none", "sparsity=0.8")
    launcher = LocalLauncher([], LocalSettings(store), Display([run], (), 1, Estimate()))
    (slot,) = launcher._slots
    for _ in range(local.DEATHS):
        worker = Worker(LocalSettings(store, execute="fake_runs:execute"), 1, None, launcher._events)
        slot.worker, slot.run = worker, run
        worker.kill()
        worker.wait()
        worker.ready = True
        launcher._handle(slot, Event(worker, "exit"))
    assert store.state(run.run_id) is State.MISSING
    assert list(launcher._schedule.waiting) == [run.run_id]


def test_a_run_whose_worker_was_killed_goes_on_from_its_checkpoint(
    store: Store, plan_of: PlanOf, launch: Launch
) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8", method="walk+dfd")
    walk = next(run for run in plan if run.method == "walk+dfd")
    killer = threading.Thread(target=_kill_when_running, args=(store, walk.run_id))
    killer.start()
    launch(plan, jobs=1, every=0.001)
    killer.join()
    assert set(states(store, plan)) == {State.DONE}
    record = store.record(walk.run_id)
    assert record is not None
    assert record["resumed"] == 1
    assert not (store.folder(walk.run_id) / "checkpoint").exists()


def _kill_when_running(store: Store, run_id: str) -> None:
    while not list(store.folder(run_id).glob("checkpoint/state.json")):
        time.sleep(0.02)
    holder = store.holder(run_id)
    assert holder is not None
    os.kill(holder.pid, 9)


def test_students_of_a_failed_teacher_are_blocked_until_it_is_done(
    store: Store, plan_of: PlanOf, launch: Launch
) -> None:
    plan = plan_of("task=mrpc")
    store.root.mkdir()
    (store.root / "fail-mrpc").touch()
    shown = launch(plan)
    assert states(store, plan) == [State.FAILED] + [State.BLOCKED] * 4 + [State.DONE] * 2
    assert shown.failures == 5
    assert store.reason(plan[1].run_id) == "its teacher failed (mrpc Dense seed 1): mrpc cannot be learnt"
    (store.root / "fail-mrpc").unlink()
    (store.folder(plan[0].run_id) / "failed.json").unlink()
    launch(plan)
    assert set(states(store, plan)) == {State.DONE}


def test_a_done_student_is_not_blocked_by_a_teacher_that_failed_since(
    store: Store, plan_of: PlanOf, launch: Launch
) -> None:
    plan = plan_of("task=mrpc", "method=ok+dfd")
    launch(plan)
    (store.folder(plan[0].run_id) / "done").rename(store.folder(plan[0].run_id) / "failed.json")
    shown = launch(plan)
    assert states(store, plan) == [State.FAILED, State.DONE, State.DONE]
    assert (shown.finished, shown.failures) == (2, 1)


def test_a_stale_run_is_done_again(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    plan = plan_of("task=mrpc", "method=ok+none")
    made = claim(store, plan[0].run_id)
    assert made is not None
    path = made.folder / "claim.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ticks": "1"}))
    assert store.state(plan[0].run_id) is State.STALE
    launch(plan)
    assert set(states(store, plan)) == {State.DONE}


def test_a_run_of_another_launcher_is_awaited(
    store: Store, plan_of: PlanOf, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "POLL_SECONDS", 0.1)
    plan = plan_of("task=mrpc", "method=ok+dfd")
    made = claim(store, plan[0].run_id)
    assert made is not None
    made.start({})

    def finish() -> None:
        time.sleep(0.5)
        (made.work / "record.json").write_text('{"by": "other"}')
        made.commit(0.5)

    other = threading.Thread(target=finish)
    other.start()
    shown = launch(plan)
    other.join()
    assert store.record(plan[0].run_id) == {"by": "other"}
    assert shown.finished == 3


def test_two_launchers_share_a_store(
    store: Store, plan_of: PlanOf, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "POLL_SECONDS", 0.1)
    plan = plan_of()
    shown: list[Display] = []
    launchers = [threading.Thread(target=lambda: shown.append(launch(plan, jobs=1))) for _ in range(2)]
    for launcher in launchers:
        launcher.start()
    for launcher in launchers:
        launcher.join()
    assert set(states(store, plan)) == {State.DONE}
    assert [display.finished for display in shown] == [14, 14]
    assert len({record["process"] for record in store.records(run.run_id for run in plan)}) == 2


def test_runs_with_other_threads_get_another_process(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    one, two = plan_of("task=mrpc", "method=ok+none")
    launch([one, dataclasses.replace(two, threads=2)], jobs=1)
    assert [record["threads"] for record in store.records([one.run_id, two.run_id])] == ["1", "2"]


def test_workers_that_cannot_start_are_told_once(store: Store, plan_of: PlanOf) -> None:
    plan = plan_of("task=mrpc")
    launcher = LocalLauncher(plan, LocalSettings(store, execute="no_such_module:x"), Display(plan, (), 1, Estimate()))
    with pytest.raises(DataError, match="No module named 'no_such_module'"):
        launcher.run()
    assert set(states(store, plan)) == {State.MISSING}


def test_a_student_without_its_teacher_in_the_plan_is_an_error(plan_of: PlanOf, launch: Launch) -> None:
    student = plan_of("task=mrpc", "method=ok+dfd", "sparsity=0.8")[1]
    with pytest.raises(DataError, match="not in the plan"):
        launch([student])


def test_an_interrupt_gives_the_runs_back(store: Store, plan_of: PlanOf) -> None:
    class Interrupting(Display):
        def progressed(self, *told: object) -> None:
            raise KeyboardInterrupt

    plan = plan_of("task=mrpc", "sparsity=0.8", "method=OK", method="slow+none")
    shown = Interrupting(plan, (), 1, Estimate())
    with pytest.raises(KeyboardInterrupt):
        LocalLauncher(plan, LocalSettings(store, execute="fake_runs:execute"), shown).run()
    assert set(states(store, plan)) == {State.MISSING}
    assert not list(store.root.glob("*/work-*"))


def test_runs_that_took_long_before_start_first(store: Store, plan_of: PlanOf, launch: Launch) -> None:
    started: list[str] = []

    class Measured(Display):
        def expected(self, run: PlannedRun) -> float:
            return run.sparsity

        def started(self, run: PlannedRun) -> None:
            started.append(f"{run.label} {run.sparsity:g}")

    launch(plan_of("task=mrpc", "method=alone"), jobs=1, display=Measured)
    assert started == ["alone 0.95", "alone 0.8"]


def test_jobs_default_to_gpus_then_cores(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    plan = [dataclasses.replace(run, threads=2) for run in plan_of()]
    assert default_jobs(plan, ()) == 4
    assert default_jobs(plan, ("0", "1")) == 2
    assert default_jobs(plan, ("0", "1"), runs_per_gpu=3) == 6
    with pytest.raises(UsageError, match="no GPU is visible here; --jobs says"):
        default_jobs(plan, (), runs_per_gpu=2)
    monkeypatch.setattr(local, "usable_cores", lambda: 1)
    assert default_jobs(plan, ()) == 1


@pytest.mark.parametrize(("visible", "gpus"), [("", ()), ("-1", ()), ("0,2", ("0", "2")), ("GPU-ab", ("GPU-ab",))])
def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch, visible: str, gpus: tuple[str, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert usable_gpus() == gpus


def test_each_worker_sees_one_gpu(tmp_path: Path) -> None:
    assert local._environment(3, "2")["CUDA_VISIBLE_DEVICES"] == "2"
    assert local._environment(3, None)["OMP_NUM_THREADS"] == "3"
    assert [local._nth(("0", "2"), number) for number in range(3)] == ["0", "2", "0"]
