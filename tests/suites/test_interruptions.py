"""Launches that are killed, frozen, stopped, short of disk space: nothing is lost, and each run has one result."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gppdfd.errors import DataError
from suites import store as store_module
from suites.claims import Heartbeat, claim, open_store
from suites.formats import write_table
from suites.plan import PlannedRun
from suites.records import read_results
from suites.run import main
from suites.status import main as status
from suites.store import CLAIM, HEARTBEAT, State, Store
from suites.tables import main_table
from tests.suites.test_run import hear_all_signals, keep_signals  # noqa: F401 (a fixture)

ONE_RUN = ("--only", "task=mrpc", "sparsity=0.8", "method=alone")
"""The only run of the small suite without a teacher."""

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def command(suite_file: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Starts the launch of a suite of walks, one worker, in a process of its own."""
    suite_file.write_text(suite_file.read_text().replace("ok", "walk"))

    def start(*more: str, root: Path = store.root, **environment: str) -> subprocess.Popen[str]:
        options = ["--store", str(root), "--execute", "fake_runs:execute", "--no-report", "--jobs", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "fake_runs", str(suite_file), *options, *more],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_all_signals,
        )

    return start


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def the_run(store: Store) -> str:
    """The run that somebody works on."""
    wait_for(lambda: any(store.root.glob(f"*/{HEARTBEAT}")))
    return next(store.root.glob(f"*/{HEARTBEAT}")).parent.name


def walks(store: Store, run_id: str) -> bool:
    """Whether the run has begun its steps."""
    log = store.log(run_id)
    return log.exists() and "begins" in log.read_text()


def record(store: Store, run_id: str) -> dict[str, Any]:
    found = store.record(run_id)
    assert found is not None
    return found


# --- stopped ---


def test_ctrl_c_finishes_the_step_and_saves_it(command: Command, store: Store) -> None:
    launcher = command(*ONE_RUN, WALK_STEPS="1000")
    run_id = the_run(store)
    wait_for(lambda: walks(store, run_id))
    launcher.send_signal(signal.SIGINT)
    told, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 130
    assert errors == "stopped; the same command goes on where it was\n"
    assert "stopping after the steps under way, with checkpoints; Ctrl-C again: at once" in told
    assert store.state(run_id) is State.MISSING
    step = json.loads((store.folder(run_id) / "checkpoint" / "state.json").read_text())["step"]
    again = command(*ONE_RUN, WALK_STEPS=str(step + 1))
    again.communicate(timeout=30)
    assert again.returncode == 0
    assert record(store, run_id)["resumed"] == 1


def test_ctrl_c_twice_does_not_wait_for_the_step(command: Command, store: Store) -> None:
    launcher = command(*ONE_RUN, WALK_SECONDS="60")
    run_id = the_run(store)
    wait_for(lambda: walks(store, run_id))
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=10)
    assert launcher.returncode == 130
    assert store.state(run_id) is State.MISSING
    assert not list(store.root.glob("*/work-*"))


def test_a_run_whose_worker_was_asked_to_stop_is_given_to_another(command: Command, store: Store) -> None:
    launcher = command(*ONE_RUN, WALK_STEPS="40")
    run_id = the_run(store)
    wait_for(lambda: walks(store, run_id))
    holder = store.holder(run_id)
    assert holder is not None
    os.kill(holder.pid, signal.SIGUSR1)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    found = record(store, run_id)
    assert found["resumed"] == 1
    assert found["process"] != holder.pid


# --- frozen ---


def test_a_frozen_holder_loses_the_run_and_commits_nothing(command: Command, store: Store) -> None:
    options = (*ONE_RUN, "--stale-after", "1.2", "--checkpoint-every", "0.00001")
    first = command(*options, WALK_STEPS="60")
    run_id = the_run(store)
    wait_for(lambda: (store.folder(run_id) / "checkpoint" / "state.json").exists())
    frozen = store.holder(run_id)
    assert frozen is not None
    os.kill(frozen.pid, signal.SIGSTOP)
    second = command(*options, WALK_STEPS="60")
    second.communicate(timeout=30)
    assert second.returncode == 0
    done = (store.folder(run_id) / "done").read_bytes()
    os.kill(frozen.pid, signal.SIGCONT)
    first.communicate(timeout=30)
    assert first.returncode == 0
    assert (store.folder(run_id) / "done").read_bytes() == done
    found = record(store, run_id)
    assert found["process"] != frozen.pid
    assert found["resumed"] == 1
    names = {path.name for path in store.folder(run_id).iterdir()}
    assert names == {"config.json", "log.txt", "record.json", "committed", "done"}


# --- killed ---


@pytest.mark.parametrize(
    ("seed", "most"), [(7, 50), *(pytest.param(seed, 100, marks=pytest.mark.full) for seed in range(3))]
)
def test_kills_at_random_moments_lose_nothing(
    command: Command, store: Store, tmp_path: Path, seed: int, most: int
) -> None:
    """kill -9 of workers and launchers; the table made in the end is the undisturbed one, byte for byte."""
    _finish(command(root=tmp_path / "whole", WALK_SECONDS="0"))
    expected = tables(Store(tmp_path / "whole"), tmp_path)
    moment, kills = random.Random(seed), 0
    while kills < most:
        disturbed = Store(store.root / f"after{kills}")
        kills += _disturb(command, disturbed, moment, most - kills)
        assert tables(disturbed, tmp_path) == expected
        assert_one_result_each(disturbed)


def _disturb(command: Command, store: Store, moment: random.Random, most: int) -> int:
    """Launch until all runs are done, while somebody kills; returns how often."""
    options = ("--jobs", "2", "--retry", "failed", "--checkpoint-every", "0.00001")
    kills, launcher = 0, command(*options, root=store.root)
    while launcher.poll() != 0:
        if launcher.poll() is not None:
            launcher.communicate()
            launcher = command(*options, root=store.root)
        elif kills < most and (holders := _holders(store)):
            time.sleep(moment.uniform(0, 0.3))
            kills += _kill(moment.choice([launcher.pid, *holders]))
        time.sleep(0.02)
    launcher.communicate()
    return kills


def _holders(store: Store) -> list[int]:
    """Living processes that work on runs, whoever started them."""
    holders = map(store.holder, [path.parent.name for path in store.root.glob(f"*/{CLAIM}")])
    return sorted({holder.pid for holder in holders if holder and not holder.gone})


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _finish(launcher: "subprocess.Popen[str]") -> None:
    told = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, told


def tables(store: Store, tmp_path: Path) -> list[bytes]:
    results = read_results(store.plan_path("tiny", "micro"), store.root)
    assert set(results.runs["state"]) == {"done"}
    return [path.read_bytes() for path in write_table(main_table(results, "Scores"), tmp_path / "tables")]


def assert_one_result_each(store: Store) -> None:
    for row in store.plan("tiny", "micro"):
        folder = store.folder(row["run_id"])
        assert json.loads((folder / "done").read_text()) == json.loads(
            (folder / "committed" / "commit.json").read_text()
        )
        left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert left == {"config.json", "log.txt", "record.json", "committed", "done"}


# --- the disk ---

CAN_MOUNT = shutil.which("unshare") and not subprocess.run(["unshare", "-rm", "true"], check=False).returncode
needs_mount = pytest.mark.skipif(not CAN_MOUNT, reason="no private mounts here (unshare -rm)")


def mounted(script: str, *arguments: str) -> str:
    """Output of a shell script that may mount what it likes."""
    line = ["unshare", "-rm", "bash", "-c", script, "script", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout


@needs_mount
def test_a_disk_that_fills_up_stops_the_launch_and_loses_nothing(suite_file: Path, store: Store) -> None:
    store.root.mkdir()
    script = """
        mount -t tmpfs tmpfs "$1" || exit
        for size in 120k 10m; do
            mount -o remount,size=$size "$1"
            "$3" -m fake_runs "$2" --store "$1" --execute fake_runs:execute --no-report --jobs 2 2>&1
            echo "exit code $?"
        done
    """
    first, second = mounted(script, str(store.root), str(suite_file), sys.executable).split("exit code 1\n")
    message = f"error: {store.root} cannot be written (No space left on device): make room or mend its permissions"
    assert first.splitlines()[-1].startswith(message)
    assert first.count("error") == 1
    assert "\ndone " in first
    assert "FAILED" not in first
    assert "14 done; runs in" in second
    assert second.endswith("exit code 0\n")


@needs_mount
def test_a_read_only_store_is_told_at_once(suite_file: Path, store: Store) -> None:
    store.root.mkdir()
    script = """
        mount -t tmpfs tmpfs "$1" && mount -o remount,ro "$1" || exit
        "$3" -m fake_runs "$2" --store "$1" --execute fake_runs:execute 2>&1
        echo "exit code $?"
    """
    told = mounted(script, str(store.root), str(suite_file), sys.executable)
    assert told.startswith(f"error: {store.root} cannot be written (Read-only file system): ")
    assert told.endswith("exit code 1\n")
    assert told.count("\n") == 2


def test_a_full_disk_is_no_fault_of_the_run(
    store: Store, plan_of: Callable[..., list[PlannedRun]], launch: Callable[..., object]
) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8", "method=OK", method="full+none")
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\): make room .* same command"):
        launch(plan)
    assert store.state(plan[0].run_id) is State.MISSING
    assert not list(store.root.glob("*/work-*"))


# --- files of other times ---


@pytest.fixture
def arguments(suite_file: Path, store: Store) -> list[str]:
    where = ["--store", str(store.root), "--execute", "fake_runs:execute", "--no-report", "--jobs", "1"]
    return [str(suite_file), *where, *ONE_RUN]


@pytest.mark.parametrize("content", ["", '{"run_id": "mrpc', "[]", '{"schema": 1}'])
def test_a_truncated_record_is_told_and_made_again(
    arguments: list[str], store: Store, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments)
    path = next(store.root.glob("*/record.json"))
    (path.parent / "model").mkdir()
    (path.parent / "model" / "config.json").write_text("of the damaged result")
    path.write_text(content)
    capsys.readouterr()
    assert status(["tiny", "--store", str(store.root)]) == 0
    assert "1 of the missing runs have a damaged record" in capsys.readouterr().out
    assert main([*arguments, "--dry-run"]) == 0
    assert f"missing  {path.parent.name}" in capsys.readouterr().out
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert told.err == "mrpc alone 0.8 seed 1: its record was damaged, the run is done again\n"
    assert record(store, path.parent.name)["run_id"] == path.parent.name
    assert not (path.parent / "model").exists()
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""


def test_a_store_of_a_later_version_is_refused(
    arguments: list[str], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.root.mkdir()
    (store.root / "store.json").write_text('{"layout": 3}')
    assert main(arguments) == 1
    assert "has layout 3, made by a later version; this one reads up to 2: update it, or" in capsys.readouterr().err
    assert [path.name for path in store.root.iterdir()] == ["store.json"]


def test_a_store_of_the_first_version_is_taken_over(arguments: list[str], store: Store) -> None:
    main(arguments)
    (store.root / "store.json").unlink()
    done = next(store.root.glob("*/done"))
    before = done.stat().st_mtime_ns
    assert main(arguments) == 0
    assert done.stat().st_mtime_ns == before
    assert json.loads((store.root / "store.json").read_text()) == {"layout": 2}


# --- clocks ---


@pytest.fixture
def quick_store(tmp_path: Path) -> Store:
    """A store in which silence of 1.2 s is death, with a sign of life every 0.05 s."""
    return Store(tmp_path / "quick", stale_after=1.2)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_costs_no_living_holder_its_run(
    quick_store: Store, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(quick_store)
    made = claim(quick_store, "run")
    assert made is not None
    now = time.time
    with Heartbeat(made):
        monkeypatch.setattr(store_module.time, "time", lambda: now() + jump)
        assert quick_store.state("run") is State.STALE
        assert claim(quick_store, "run") is None
        assert made.held


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumped_does_not_keep_a_dead_holder_alive(quick_store: Store, jump: float) -> None:
    first = claim(quick_store, "run")
    assert first is not None
    path = first.folder / CLAIM
    os.utime(path, (time.time() + jump, time.time() + jump))
    second = claim(quick_store, "run")
    assert second is not None
    assert second.held
    assert not first.held
