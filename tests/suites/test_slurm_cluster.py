"""The SLURM launcher on a real Slurm with two nodes of two pretended GPUs: what users' clusters do to jobs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gppdfd.errors import DataError
from suites.display import Display, Estimate
from suites.plan import PlannedRun
from suites.slurm import launcher, queue
from suites.slurm.launcher import SlurmLauncher, SlurmSettings, sbatch_preview
from suites.slurm.profile import Profile
from suites.slurm.submitted import submitted
from suites.store import State, Store
from tests.suites.slurm_cluster import need_slurm, node, slurm, until, usable_nodes

pytestmark = pytest.mark.slurm

PlanOf = Callable[..., list[PlannedRun]]

SMALL: dict[str, Any] = {"partition": "main", "cpus": 1, "memory": "200M", "time": 10, "grace": 10}


class Noting(Display):
    """Keeps the messages."""

    def __init__(self, plan: Sequence[PlannedRun]) -> None:
        super().__init__(plan, (), 4, Estimate())
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An idle cluster with all its nodes, and a launcher that does not wait long."""
    need_slurm()
    for name, seconds in (("POLL_SECONDS", 0.2), ("QUEUE_SECONDS", 1.0), ("GONE_SECONDS", 3.0)):
        monkeypatch.setattr(launcher, name, seconds)
    until(lambda: usable_nodes() == 2)
    yield
    slurm("scancel", f"--user={os.getuid()}")
    until(lambda: not slurm("squeue", "-h"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def start(store: Store) -> Callable[..., Noting]:
    """Do a plan on the cluster; keys change the profile."""

    def do(plan: Sequence[PlannedRun], detach: bool = False, **keys: Any) -> Noting:
        shown = Noting(plan)
        profile = Profile.model_validate(SMALL | keys)
        settings = SlurmSettings(store, profile, "tiny", execute="fake_runs:execute", detach=detach)
        SlurmLauncher(plan, settings, shown).run()
        return shown

    return do


@pytest.fixture
def begin(start: Callable[..., Noting]) -> Callable[..., Callable[[], Noting]]:
    """Start a launch in a thread; returns what waits for its end."""

    def do(plan: Sequence[PlannedRun], **keys: Any) -> Callable[[], Noting]:
        shown: list[Noting] = []
        thread = threading.Thread(target=lambda: shown.append(start(plan, **keys)), daemon=True)
        thread.start()

        def finish() -> Noting:
            thread.join(120)
            return shown[0]

        return finish

    return do


def states(store: Store, plan: Sequence[PlannedRun]) -> list[State]:
    return [store.state(run.run_id) for run in plan]


def walking(store: Store, run: PlannedRun) -> None:
    """Wait until a run is in the middle of its steps."""
    until(lambda: "begins" in (store.log(run.run_id).read_text() if store.log(run.run_id).exists() else ""))
    time.sleep(1.0)


def one_walk(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, steps: int = 40) -> list[PlannedRun]:
    """A plan of one run of `steps` steps of a tenth of a second."""
    monkeypatch.setenv("WALK_STEPS", str(steps))
    monkeypatch.setenv("WALK_SECONDS", "0.1")
    return plan_of("task=mrpc", "sparsity=0.8", "method=OK", method="walk+none")


def resumed(store: Store, run: PlannedRun) -> int:
    record = store.record(run.run_id)
    assert record is not None
    return int(record["resumed"])


def test_all_runs_are_done_teachers_first_and_a_relaunch_submits_nothing(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting]
) -> None:
    plan = plan_of()
    shown = start(plan, pack=3)
    assert set(states(store, plan)) == {State.DONE}
    assert (shown.finished, shown.failures, shown.left) == (14, 0, {})
    assert shown.messages[0].startswith("submitted teachers-1: 2 runs in job ")
    again = start(plan, pack=3)
    assert again.messages == []


def test_arrays_are_split_by_the_limit_of_the_cluster(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queue.largest_array() > 1
    monkeypatch.setattr(queue, "largest_array", lambda: 2)
    plan = plan_of("method=alone", "task=mrpc,stsb")
    shown = start(plan)
    assert [message[:28] for message in shown.messages] == [
        "submitted students-1: 2 runs",
        "submitted students-2: 2 runs",
    ]
    assert set(states(store, plan)) == {State.DONE}


def test_a_failing_run_fails_alone(store: Store, plan_of: PlanOf, start: Callable[..., Noting]) -> None:
    plan = plan_of("task=mrpc", method="fail+none")
    shown = start(plan, pack=2)
    failed = [run.method for run in plan if store.state(run.run_id) is State.FAILED]
    assert failed == ["fail+none"] * 2
    assert (shown.finished, shown.failures) == (len(plan) - 2, 2)


def test_students_of_a_failed_teacher_are_blocked_even_if_nobody_watches(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting]
) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8")
    store.root.mkdir()
    (store.root / "fail-mrpc").touch()
    start(plan, detach=True, pack=8)
    until(lambda: not slurm("squeue", "-h"))
    assert states(store, plan) == [State.FAILED, State.BLOCKED, State.BLOCKED, State.DONE]
    assert store.reason(plan[1].run_id) == "its teacher failed (mrpc Dense seed 1): mrpc cannot be learnt"


def test_a_detached_launch_is_followed_by_the_next(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = one_walk(plan_of, monkeypatch)
    start(plan, detach=True)
    first = submitted(store)
    assert [entry.told for entry in queue.queued_runs(store).values()] in (["running"], ["pending"], ["configuring"])
    shown = start(plan)
    assert shown.messages == [f"1 runs are in the queue already: {first[plan[0].run_id].job}"]
    assert submitted(store) == first
    assert states(store, plan) == [State.DONE]


def test_a_preempted_run_goes_on_where_it_was(
    store: Store, plan_of: PlanOf, begin: Callable[..., Callable[[], Noting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = one_walk(plan_of, monkeypatch)
    finish = begin(plan)
    walking(store, plan[0])
    for _ in range(2):
        slurm("sbatch", "-p", "high", "--exclusive", "-t1", "-o", "/dev/null", "--wrap", "sleep 2")
    shown = finish()
    assert states(store, plan) == [State.DONE]
    assert resumed(store, plan[0]) == 1
    assert shown.finished == 1


def test_a_run_out_of_time_goes_on_in_the_requeued_job(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real time limit of one minute; Slurm announces its end on a grid of half a minute."""
    plan = one_walk(plan_of, monkeypatch, steps=650)
    start(plan, time=1, grace=10)
    assert states(store, plan) == [State.DONE]
    assert resumed(store, plan[0]) >= 1


def test_a_run_that_meets_too_many_time_limits_has_failed(
    store: Store, plan_of: PlanOf, begin: Callable[..., Callable[[], Noting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = one_walk(plan_of, monkeypatch, steps=600)
    finish = begin(plan, time=1, grace=10, time_limits=0)
    walking(store, plan[0])
    slurm("scancel", "--signal=USR2", submitted(store)[plan[0].run_id].job)
    finish()
    assert states(store, plan) == [State.FAILED]
    assert "met the time limit of 1 min 1 times" in store.reason(plan[0].run_id)


def test_a_run_survives_its_node(
    store: Store, plan_of: PlanOf, begin: Callable[..., Callable[[], Noting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = one_walk(plan_of, monkeypatch)
    finish = begin(plan)
    walking(store, plan[0])
    name = slurm("squeue", "-h", "-o", "%N")
    node("down", name)
    try:
        finish()
    finally:
        node("up", name)
    assert states(store, plan) == [State.DONE]


def test_a_run_whose_whole_job_is_killed_has_failed(
    store: Store, plan_of: PlanOf, begin: Callable[..., Callable[[], Noting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the kernel, when a node is out of memory."""
    plan = one_walk(plan_of, monkeypatch, steps=600)
    finish = begin(plan)
    walking(store, plan[0])
    holder = store.holder(plan[0].run_id)
    assert holder is not None
    parent = int(Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (parent, holder.pid):
        os.kill(pid, signal.SIGKILL)
    finish()
    assert states(store, plan) == [State.FAILED]
    assert store.reason(plan[0].run_id) == f"job {submitted(store)[plan[0].run_id].job}: FAILED"


def test_cancelled_jobs_are_told_and_their_runs_done_by_the_next_launch(
    store: Store, plan_of: PlanOf, begin: Callable[..., Callable[[], Noting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One element of the array while it runs, one before it started."""
    monkeypatch.setenv("WALK_STEPS", "60")
    monkeypatch.setenv("WALK_SECONDS", "0.1")
    plan = plan_of("task=mrpc,stsb", "method=OK", method="walk+none")
    finish = begin(plan, throttle=1)
    until(lambda: len(submitted(store)) == 4)
    jobs = sorted(job.job for job in submitted(store).values())
    until(lambda: slurm("squeue", "-h", "-t", "running", "-o", "%i") == jobs[0])
    running = next(run for run in plan if submitted(store)[run.run_id].job == jobs[0])
    walking(store, running)
    slurm("scancel", jobs[3])
    slurm("scancel", jobs[0])
    shown = finish()
    assert sorted(states(store, plan)) == [State.DONE, State.DONE, State.MISSING, State.MISSING]
    lost = [message for message in shown.messages if message.startswith("no result")]
    assert len(lost) == 2
    assert all("CANCELLED" in message for message in lost)
    begin(plan)()
    assert set(states(store, plan)) == {State.DONE}
    assert resumed(store, running) == 1


def test_a_job_that_cannot_start_is_told_with_its_log(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting]
) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8", "method=alone")
    shown = start(plan, setup=["echo no such module >&2", "exit 3"])
    assert states(store, plan) == [State.MISSING]
    (told,) = [message for message in shown.messages if message.startswith("no result")]
    assert ": FAILED; log: " in told
    assert "no such module" in Path(told.rpartition("log: ")[2]).read_text()


def test_what_slurm_refuses_is_an_error_with_its_reason(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting]
) -> None:
    with pytest.raises(DataError, match="invalid partition specified: nowhere"):
        start(plan_of("task=mrpc", "method=alone"), partition="nowhere")


def test_workers_run_in_the_container_with_the_copy_of_the_sources(
    store: Store, plan_of: PlanOf, start: Callable[..., Noting], tmp_path: Path
) -> None:
    """A script takes the place of a container's runtime: it is given the command to be run inside."""
    runtime, seen = tmp_path / "runtime.sh", tmp_path / "seen"
    runtime.write_text(f'echo "$GIVEN, $PYTHONPATH, $1" > {seen}; exec "$@"\n')
    plan = plan_of("task=mrpc", "sparsity=0.8", "method=alone")
    keys = {"container": f"sh {runtime}", "python": sys.executable, "environment": {"GIVEN": "a b"}}
    start(plan, **keys)
    assert states(store, plan) == [State.DONE]
    assert seen.read_text().startswith(f"a b, {store.root}/slurm/code/")
    assert seen.read_text().endswith(f", {sys.executable}\n")
    (sent,) = store.root.glob("slurm/*/log/*_submission.sh")
    (previewed,) = sbatch_preview(plan, Profile.model_validate(SMALL | keys))
    assert options(sent.read_text()) == options(previewed)


def options(script: str) -> set[str]:
    """Options of a batch script, without those that name a launch."""
    named = ("--chdir", "--job-name", "--output")
    return {
        line for line in script.splitlines() if line.startswith("#SBATCH") and not line.split()[1].startswith(named)
    }


def test_a_launch_from_inside_a_job(store: Store, suite_file: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "fake_runs", str(suite_file), "--only", "task=mrpc", "sparsity=0.8", "--no-report"]
    profile = tmp_path / "profile.yaml"
    profile.write_text("partition: main\ncpus: 1\nmemory: 200M\n")
    line += ["--store", str(store.root), "--execute", "fake_runs:execute"]
    line += ["--launcher", "slurm", "--profile", str(profile)]
    answer = subprocess.run(
        ["srun", "-p", "main", "--mem-per-cpu=100", "-t5", *line],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "4 done; runs in" in answer.stdout
