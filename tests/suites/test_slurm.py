"""The SLURM launcher without a Slurm: profiles, arrays, batch scripts, the queue's answers, jobs and their signals."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gppdfd.errors import DataError, UsageError
from suites.commit import git_state
from suites.plan import PlannedRun, write_plan
from suites.run import main
from suites.slurm import launcher as launching
from suites.slurm import queue
from suites.slurm.arrays import at_once, make_arrays
from suites.slurm.job import Job, worker_command
from suites.slurm.launcher import sbatch_preview
from suites.slurm.order import Order
from suites.slurm.profile import SHIPPED, Profile, load_profile, minutes
from suites.slurm.queue import Queued
from suites.slurm.snapshot import take_snapshot
from suites.slurm.submitted import Submitted, note_submitted, submitted
from suites.sources import PACKAGES
from suites.status import main as status
from suites.store import State, Store
from tests.suites.slurm_cluster import until

PlanOf = Callable[..., list[PlannedRun]]

SOON = 2.4
"""Signs of life every tenth of a second, so that tests see how far a run is."""


def planned(name: str, task: str = "mrpc", teacher: str | None = None) -> PlannedRun:
    return PlannedRun(name, task, "ok+dfd", "OK", 0.8, 1, "student" if teacher else "teacher", 0, teacher=teacher)


def grid(tasks: dict[str, int]) -> list[PlannedRun]:
    """A teacher per task and so many students."""
    teachers = [planned(f"{task}-t", task) for task in tasks]
    students = [planned(f"{task}-{n}", task, f"{task}-t") for task, number in tasks.items() for n in range(number)]
    return [*teachers, *students]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90min", 90),
        ("4h", 240),
        ("1.5h", 90),
        ("1d", 1440),
        ("90", 90),
        ("4:00:00", 240),
        ("30:00", 30),
        ("30:01", 31),
        ("1-12:00:00", 2160),
        ("1-12:00", 2160),
        ("0:00:30", 1),
        ("20s", 1),
    ],
)
def test_times_are_read_as_people_and_sbatch_write_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@given(st.integers(0, 6), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_are_rounded_up_to_minutes(days: int, hours: int, mins: int, seconds: int) -> None:
    exact = days * 1440 + hours * 60 + mins + seconds / 60
    found = minutes(f"{days}-{hours}:{mins:02}:{seconds:02}")
    assert exact <= max(found, 1) < exact + 1 or exact == 0


def test_shipped_profiles_are_valid() -> None:
    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    assert len(names) >= 3
    for name in names:
        assert load_profile(name) == load_profile(SHIPPED / f"{name}.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("partitoin: gpu", "unknown key 'partitoin'. Did you mean 'partition'"),
        ("time: soon", "time: 'soon' is no time: write 90min"),
        ("time: 2\ngrace: 120", "grace of 120 s leaves nothing of a time of 2 min"),
        ("container: apptainer exec x.sif", "container needs python"),
        ("overrides: [{tasks: [mnli], tiem: 1d}]", "Did you mean 'time'"),
        ("overrides: [{tasks: [mnil], time: 1d}]", "unknown task in overrides 'mnil'. Did you mean 'mnli'"),
        ("- gpu", "a profile is a list of keys"),
        ("a: [", "is no valid YAML"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_way_out(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        load_profile(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("4:00:00", 240), ("30:00", 30), ("1:30.5", None), ("90", 90), ('"4:00:00"', 240)]
)
def test_times_need_no_quotes(tmp_path: Path, text: str, expected: int | None) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"time: {text}\ncpus: 3\n")
    if expected:
        assert (load_profile(path).time, load_profile(path).cpus) == (expected, 3)
        return
    with pytest.raises(UsageError, match="is no time"):
        load_profile(path)


def test_an_unknown_profile_names_the_near_ones() -> None:
    with pytest.raises(UsageError, match="Did you mean 'a100'"):
        load_profile("a10")


def test_the_last_override_that_fits_a_run_wins() -> None:
    overrides = [
        {"tasks": ["mnli"], "time": "1d"},
        {"role": "teacher", "gpus": 2},
        {"tasks": ["mnli", "qqp"], "pack": 1},
    ]
    profile = Profile.model_validate({"time": "1h", "pack": 4, "overrides": overrides})
    teacher, student = profile.resources(planned("a", "mnli")), profile.resources(planned("b", "rte", "t"))
    assert (teacher.time, teacher.gpus, teacher.pack) == (1440, 2, 1)
    assert (student.time, student.gpus, student.pack) == (60, 1, 4)


def test_the_command_line_wins_over_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("pack: 2\noverrides: [{tasks: [mrpc], pack: 4, time: 1h}]")
    profile = load_profile(path, {"pack": 7, "throttle": 3})
    asked = profile.resources(planned("a"))
    assert (asked.pack, asked.time, profile.throttle) == (7, 60, 3)
    assert profile.resources(planned("a", "rte")).pack == 7
    assert load_profile(path).resources(planned("a")).pack == 4


def test_a_profile_is_frozen_and_complete_before_anything_starts() -> None:
    with pytest.raises(ValidationError):
        Profile(gpus=-1)


@given(
    tasks=st.dictionaries(st.sampled_from(["cola", "mrpc", "mnli", "qqp", "rte"]), st.integers(0, 12), min_size=1),
    pack=st.integers(1, 5),
    largest=st.integers(1, 7),
    throttle=st.none() | st.integers(1, 20),
    own=st.booleans(),
)
def test_arrays_hold_every_run_once_within_all_limits(
    tasks: dict[str, int], pack: int, largest: int, throttle: int | None, own: bool
) -> None:
    overrides = [{"tasks": ["mnli"], "time": "1d"}] if own else []
    profile = Profile.model_validate({"pack": pack, "throttle": throttle, "overrides": overrides})
    runs = grid(tasks)
    arrays = make_arrays(runs, profile, largest)
    assert Counter(run.run_id for array in arrays for run in array.runs) == Counter(run.run_id for run in runs)
    holder = {run.run_id: array.name for array in arrays for run in array.runs}
    names = [array.name for array in arrays]
    for number, array in enumerate(arrays):
        assert len(array.jobs) <= largest
        assert all(1 <= len(job) <= pack for job in array.jobs)
        assert {profile.resources(run) for run in array.runs} == {array.resources}
        # What an array waits for is submitted before it, and holds the teachers of all its runs.
        assert set(array.after) <= set(names[:number])
        assert {(holder[run.teacher],) if run.teacher else () for run in array.runs} == {array.after}


@given(
    tasks=st.dictionaries(st.sampled_from(["cola", "mrpc", "mnli", "qqp", "rte"]), st.integers(0, 40), min_size=1),
    largest=st.integers(5, 50),
    throttle=st.integers(1, 40),
)
def test_arrays_that_run_together_keep_to_the_throttle(tasks: dict[str, int], largest: int, throttle: int) -> None:
    overrides = [{"tasks": ["mnli"], "time": "1d"}, {"tasks": ["rte"], "time": "1h"}]
    arrays = make_arrays(grid(tasks), Profile.model_validate({"throttle": throttle, "overrides": overrides}), largest)
    teachers = [array for array in arrays if not array.after]
    for mask in range(2 ** len(teachers)):
        ended = {array.name for bit, array in enumerate(teachers) if mask >> bit & 1}
        # Of each lane either the teachers run or, once these have ended, their students.
        running = [array for array in arrays if (array.after[0] in ended if array.after else array.name not in ended)]
        assert all(array.throttle for array in arrays)
        assert sum(array.throttle or 0 for array in running) <= max(throttle, 0) + len(running) - 1


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 12),  # students wait for their teacher
        ({"pack": 4}, 3),  # the runs of a job one after the other
        ({"pack": 4, "gpus": 4}, 12),
        ({"pack": 4, "gpus": 2, "throttle": 2}, 4),
        ({"pack": 50}, 1),
        ({"gpus": 0, "cpus": 3, "pack": 6}, 6),
    ],
)
def test_as_many_runs_go_on_at_a_time_as_jobs_have_room_for(keys: dict[str, Any], expected: int) -> None:
    assert at_once(make_arrays(grid({"mrpc": 12}), Profile.model_validate(keys), 1000)) == expected


def test_the_estimate_of_a_dry_run_is_the_clusters(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("pack: 50")
    where = [str(suite_file), "--store", str(tmp_path / "runs"), "--execute-probe", "fake_runs:execute_probe"]
    cluster = ["--launcher", "slurm", "--profile", str(tmp_path / "mine.yaml")]
    assert main([*where, *cluster, "--only", "task=mrpc", "--probe"]) == 0
    # Two jobs at a time: 40 s for the teacher and 4 students of 100 s in its lane, 2 students without a teacher.
    assert "estimate: 0.18 GPU-hours, done in 6 min" in capsys.readouterr().out


def test_without_a_throttle_slurm_decides() -> None:
    assert {array.throttle for array in make_arrays(grid({"mrpc": 3}), Profile(), 10)} == {None}


def test_students_wait_for_a_teacher_that_an_earlier_launch_has_in_the_queue() -> None:
    students = [run for run in grid({"mrpc": 2, "rte": 1}) if run.teacher]
    waiting, free = make_arrays(students, Profile(), 10, {"mrpc-t": "17_3"})
    assert (waiting.after_jobs, len(waiting.jobs)) == (("17_3",), 2)
    assert (free.after_jobs, free.after) == ((), ())


def test_batch_scripts_say_what_the_profile_asks_for() -> None:
    profile = load_profile("a100", {"throttle": 2})
    teachers, *_, last = sbatch_preview(grid({"mrpc": 3, "mnli": 1}), profile)
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=a100:1",
        "#SBATCH --mem=64G",
        "#SBATCH --time=480",
        "#SBATCH --signal=USR2@180",
        "#SBATCH --requeue",
        "module load cuda/12.4",
        "export HF_HUB_OFFLINE=1",
    ):
        assert line in teachers.splitlines()
    assert "--dependency='afterany:<teachers-2>'" in last
    assert "#SBATCH --time=1440" in last


def test_further_options_reach_sbatch() -> None:
    profile = Profile.model_validate({"gpus": 0, "sbatch": {"nice": 100, "exclusive": True}})
    (script,) = sbatch_preview([planned("a")], profile)
    assert "#SBATCH --nice=100" in script
    assert "#SBATCH --exclusive\n" in script
    assert "gpus" not in script


def test_jobs_find_the_data_from_their_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPPDFD_DATA", "data")
    (script,) = sbatch_preview([planned("a")], Profile())
    assert f"export GPPDFD_DATA={tmp_path / 'data'}" in script
    (script,) = sbatch_preview([planned("a")], Profile(environment={"GPPDFD_DATA": "/scratch"}))
    assert "export GPPDFD_DATA=/scratch\n" in script


def test_a_dry_run_shows_the_batch_scripts_and_needs_no_slurm(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = [str(suite_file), "--store", str(tmp_path / "runs"), "--launcher", "slurm", "--profile", "one_machine"]
    assert main([*line, "--pack", "5", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("#!/bin/bash") == 3
    assert "#SBATCH --partition=main" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "a100"], "--profile needs --launcher slurm"),
        (["--detach"], "--detach needs --launcher slurm"),
        (["--launcher", "slurm"], "--launcher slurm needs --profile"),
        (["--launcher", "slurm", "--profile", "a100", "--jobs", "2"], "--jobs needs --launcher local"),
        (["--launcher", "slurm", "--profile", "a100", "--runs-per-gpu", "2"], "--runs-per-gpu needs --launcher local"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    suite_file: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([str(suite_file), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script in the place of one of Slurm's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return make


def test_the_queue_is_read(programs: Callable[[str, str], None]) -> None:
    programs("squeue", "echo '7_0|RUNNING|None|mine'; echo '7_1|PENDING|Resources|mine'; echo '8|PENDING|None|a|b'")
    found = queue.queue()
    assert [(job, entry.told) for job, entry in found.items()] == [
        ("7_0", "running"),
        ("7_1", "pending (Resources)"),
        ("8", "pending"),
    ]
    assert found["8"].name == "a|b"


def test_a_silent_controller_is_an_error_and_no_empty_queue(programs: Callable[[str, str], None]) -> None:
    programs("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(DataError, match="Unable to contact slurm controller"):
        queue.queue()


def test_a_machine_without_slurm_is_an_error(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="squeue: not found"):
        queue.queue()


def test_how_jobs_ended_is_asked_in_parts_and_is_unknown_without_accounting(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "BATCH", 2)
    programs(
        "sacct",
        "for a in $*; do case $a in --jobs=*) echo ${a#--jobs=} | tr , '\\n' | sed 's/$/|CANCELLED by 7/';; esac; done",
    )
    assert queue.endings(["1", "2_0", "3"]) == {"1": "CANCELLED by 7", "2_0": "CANCELLED by 7", "3": "CANCELLED by 7"}
    programs("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert queue.endings(["1"]) == {}


def test_what_is_in_the_queue_is_cancelled_and_nothing_else(
    store: Store, programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    note_submitted(
        store.root / "slurm/launch/students-1.json", "tiny-a1", {"7_0": ["a"], "7_1": ["b"], "8": ["c", "d"]}
    )
    programs("squeue", "printf '%s|RUNNING|None|tiny-a1\\n' 7_1 8 9")
    programs("scancel", f'echo "$@" >> {tmp_path}/cancelled')
    assert {run_id: entry.told for run_id, entry in queue.queued_runs(store).items()} == dict.fromkeys("bcd", "running")
    assert queue.cancel_suite(store, "tin") == []
    assert queue.cancel_suite(store, "tiny") == ["7_1", "8"]
    assert (tmp_path / "cancelled").read_text() == "7_1 8\n"


def test_status_says_what_waits_in_the_queue(
    store: Store, plan_of: PlanOf, programs: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of("task=mrpc", "method=OK")
    write_plan(plan, store.plan_path("tiny", "micro"))
    jobs = {f"7_{number}": [run.run_id] for number, run in enumerate(plan)}
    note_submitted(store.root / "slurm/launch/students-1.json", "tiny", jobs)
    programs("squeue", "echo '7_0|RUNNING|None|tiny'; echo '7_1|PENDING|Resources|tiny'")
    assert status(["tiny", "--store", str(store.root)]) == 0
    assert "Slurm: 1 pending (Resources), 1 running" in capsys.readouterr().out
    assert status(["tiny", "--store", str(store.root), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row.get("slurm") for row in rows] == ["running", "pending (Resources)", None]


def test_the_limit_of_arrays_is_the_clusters(programs: Callable[[str, str], None]) -> None:
    programs("scontrol", "echo 'MaxArraySize            = 1001'")
    assert queue.largest_array() == 1001


def test_a_job_of_the_same_number_on_a_new_cluster_is_not_ours(tmp_path: Path) -> None:
    ours = {"run": Submitted("1_0", "tiny-a", 0.0, tmp_path)}
    assert queue.alive({"1_0": Queued("RUNNING", "None", "tiny-a")}, ours).keys() == {"run"}
    assert queue.alive({"1_0": Queued("RUNNING", "None", "other")}, ours) == {}
    assert queue.alive({}, ours) == {}


def test_the_last_job_of_a_run_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, now in ((5, 200.0), (4, 100.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        folder = store.root / "slurm" / f"launch{number}"
        note_submitted(folder / "students-1.json", "tiny", {f"{number}_0": ["a", "b"], f"{number}_1": [f"c{number}"]})
    found = submitted(store)
    assert {run_id: job.job for run_id, job in found.items()} == {"a": "5_0", "b": "5_0", "c4": "4_1", "c5": "5_1"}
    assert found["a"].log == store.root / "slurm/launch5/log/5_0_0_log.out"


def test_a_copy_of_the_sources_does_not_change_with_them(tmp_path: Path) -> None:
    module = tmp_path / "installed" / "methods_of_a_user.py"
    info = tmp_path / "installed" / "user-1.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: user\nVersion: 1\n")
    info.joinpath("entry_points.txt").write_text("[gppdfd.methods]\nmine = methods_of_a_user\n")
    module.write_text("VERSION = 1\n")
    sources = "from suites.sources import sources_hash; print(sources_hash())"
    line = "from suites.slurm.snapshot import take_snapshot; from pathlib import Path; import sys; "
    line += "print(take_snapshot(Path(sys.argv[1])))"
    path = os.pathsep.join([str(module.parent), str(Path(__file__).parents[2])])
    copy = Path(_python(path, line, str(tmp_path / "code")))
    assert copy == Path(_python(path, line, str(tmp_path / "code")))
    before = _python(path, sources)
    module.write_text("VERSION = 2\n")
    assert _python(f"{copy}:{path}", sources) == before != _python(path, sources)
    shown = "import methods_of_a_user as m, suites; print(m.VERSION, suites.__file__)"
    assert _python(f"{copy}:{path}", shown) == f"1 {copy}/suites/__init__.py"
    assert copy != Path(_python(path, line, str(tmp_path / "code")))
    methods = (
        "from importlib.metadata import entry_points as e; print(sorted(p.name for p in e(group='gppdfd.methods')))"
    )
    assert _python(f"{copy}:{path}", methods) == _python(path, methods)


def _python(path: str, *arguments: str) -> str:
    code, *more = arguments
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code, *more], env=environment, capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_changes_of_every_package_are_told_beside_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments], cwd=tmp_path, check=True)

    for name in (*PACKAGES, "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    (tmp_path / "notes" / "new.md").touch()
    monkeypatch.setattr("gppdfd.__file__", str(tmp_path / "gppdfd" / "__init__.py"))
    state = git_state.__wrapped__
    assert state().dirty is False
    (tmp_path / package / "new.py").touch()
    assert state().dirty is True


def test_copies_of_other_sources_have_other_names(tmp_path: Path) -> None:
    assert take_snapshot(tmp_path) == take_snapshot(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def order(store: Store, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> Order:
    """An order for one run of two seconds."""
    monkeypatch.setenv("WALK_STEPS", "40")
    monkeypatch.setenv("WALK_SECONDS", "0.05")
    return order_of(store, plan_of("task=mrpc", "sparsity=0.8", "method=OK", method="walk+none"))


def order_of(store: Store, plan: list[PlannedRun], **keys: Any) -> Order:
    values: dict[str, Any] = {"minutes": 60, "grace": 10, "time_limits": 1, "cpus": 1, "checkpoint_every": 600.0}
    made = Order(
        path=store.root / "slurm" / "launch" / "students-1.json",
        store=store.root,
        stale_after=SOON,
        data_dir=None,
        execute="fake_runs:execute",
        interpreter=worker_command(None, sys.executable),
        runs={run.run_id: run for run in plan},
        **values | keys,
    )
    made.write()
    return made


def test_an_order_is_read_as_it_was_written(order: Order) -> None:
    assert Order.read(order.path) == order
    with pytest.raises(DataError, match="missing or damaged"):
        Order.read(order.path.with_name("other.json"))


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that reach what stands for submitit's handler."""
    heard: list[int] = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    yield heard
    for number, handler in kept.items():
        signal.signal(number, handler)


def send_when_walking(store: Store, run_id: str, *signals: int) -> threading.Thread:
    def send() -> None:
        until(lambda: (progress := store.progress(run_id)) and progress.phase == "search" and progress.step >= 5, 30)
        for number in signals:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "signals", [[signal.SIGUSR2], [signal.SIGTERM, signal.SIGUSR2], [signal.SIGUSR2, signal.SIGTERM]]
)
def test_a_job_that_is_told_to_end_saves_its_run_and_asks_to_be_requeued(
    store: Store, order: Order, requeued: list[int], signals: list[int]
) -> None:
    (run_id,) = order.runs
    thread = send_when_walking(store, run_id, *signals)
    job = Job(order.path, (run_id,))
    job()
    thread.join()
    assert requeued == [signal.SIGUSR2]
    assert store.state(run_id) is State.MISSING
    assert (store.folder(run_id) / "checkpoint" / "state.json").exists()
    assert job.checkpoint().function == job
    job()
    record = store.record(run_id)
    assert record is not None
    assert record["resumed"] == 1


def test_a_run_that_meets_more_time_limits_than_it_may_has_failed(
    store: Store, order: Order, requeued: list[int]
) -> None:
    (run_id,) = order.runs
    short = order_of(store, list(order.runs.values()), minutes=1, grace=5)
    for _ in range(2):
        thread = send_when_walking(store, run_id, signal.SIGUSR2)
        Job(short.path, (run_id,))()
        thread.join()
    assert store.state(run_id) is State.FAILED
    assert "met the time limit of 1 min 2 times; raise time or time_limits" in store.reason(run_id)


def test_students_of_a_cancelled_teacher_are_left_for_the_next_launch(store: Store, plan_of: PlanOf) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8", "method=OK")
    order = order_of(store, plan)
    Job(order.path, (plan[1].run_id,))()
    assert store.state(plan[1].run_id) is State.MISSING


def test_workers_do_not_hear_the_signals_of_slurm(tmp_path: Path) -> None:
    script = (
        "import signal; print([signal.getsignal(s).name for s in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1)])"
    )
    command = [*worker_command("env A=1", sys.executable), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['SIG_IGN', 'SIG_IGN', 'SIG_DFL']"


def test_sbatch_is_called_outside_of_the_job_that_a_launch_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    with launching.outside_of_jobs():
        assert [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))] == ["SLURM_CONF"]
    assert os.environ["SLURM_MEM_PER_CPU"] == "1"


def test_the_cluster_script_says_what_is_missing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "slurm" / "cluster.py"
    line = [sys.executable, str(script), "--root", str(tmp_path / ("x" * 90)), "start"]
    answer = subprocess.run(line, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "apt-get install" in answer.stderr or "too long for a Unix socket" in answer.stderr


def test_the_cluster_script_says_what_it_needs() -> None:
    script = Path(__file__).parents[2] / "slurm" / "cluster.py"
    told = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True).stdout
    assert "\nIt needs Debian's packages `slurmctld " in told


def test_plans_survive_as_json(order: Order) -> None:
    (run,) = Order.read(order.path).runs.values()
    assert dataclasses.asdict(run) == dataclasses.asdict(next(iter(order.runs.values())))
