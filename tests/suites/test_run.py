"""The command `suites.run` as a user meets it: exit codes, messages, relaunch, Ctrl-C."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from suites import run as command
from suites.plan import PlannedRun
from suites.run import main
from suites.sources import sources_hash
from suites.store import State, Store


class Told(NamedTuple):
    """Exit code and output of the command."""

    code: int
    out: str
    err: str


Run = Callable[..., Told]
FAKE = ["--execute", "fake_runs:execute", "--execute-probe", "fake_runs:execute_probe"]


@pytest.fixture(autouse=True)
def keep_signals() -> Iterator[None]:
    """The command changes what these signals do; put it back for the other tests."""
    kept = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for name, handler in kept.items():
        signal.signal(name, handler)


@pytest.fixture
def arguments(tmp_path: Path, suite_file: Path) -> list[str]:
    where = ["--store", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    return [str(suite_file), *where, *FAKE, "--no-report", "--jobs", "2"]


@pytest.fixture
def run_suite(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def run(*more: str) -> Told:
        return Told(main([*arguments, *more]), *capsys.readouterr())

    return run


def process(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    line = [sys.executable, "-m", "fake_runs", *arguments]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_all_signals
    )


def hear_all_signals() -> None:
    """As in a terminal, even where the tests run in the background and inherit ignored signals."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)


def rename_method(suite_file: Path, name: str) -> None:
    suite_file.write_text(suite_file.read_text().replace("ok+dfd", name))


def test_a_launch_does_all_and_a_relaunch_nothing(run_suite: Run, store: Store) -> None:
    first = run_suite()
    assert (first.code, first.err) == (0, "")
    assert "14 of 14 runs to do, 2 at a time" in first.out
    assert first.out.count("\ndone ") == 14
    assert "14 done; runs in" in first.out
    again = run_suite()
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("14 done; runs in")


def test_two_launches_at_once_keep_each_others_runs_in_the_plan(
    run_suite: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, others = command.with_earlier, iter(["task=stsb"])

    def slowly(*told: Any) -> list[PlannedRun]:
        for other in others:  # launched while this one works out its plan
            run_suite("--only", other, "method=alone")
        return make(*told)

    monkeypatch.setattr(command, "with_earlier", slowly)
    run_suite("--only", "task=mrpc", "method=alone")
    assert {row["task"] for row in store.plan("tiny", "micro")} == {"mrpc", "stsb"}
    assert [path.name for path in (store.root / "plans").iterdir()] == ["tiny-micro.parquet"]


def test_a_damaged_plan_is_written_anew(run_suite: Run, store: Store) -> None:
    (store.root / "plans").mkdir(parents=True)
    store.plan_path("tiny", "micro").write_text("no parquet")
    launched = run_suite("--only", "task=mrpc", "method=alone")
    assert launched.code == 0
    assert launched.err.splitlines()[0].endswith("tiny-micro.parquet was damaged")
    assert {row["label"] for row in store.plan("tiny", "micro")} == {"alone"}


def test_a_failed_run_gives_exit_code_1_and_waits_for_retry(run_suite: Run, suite_file: Path, store: Store) -> None:
    rename_method(suite_file, "fail+dfd")
    first = run_suite("--only", "task=mrpc")
    assert first.code == 1
    assert "failed: mrpc OK 0.8 seed 1: mrpc cannot be learnt\n  log: " in first.out
    assert "2 failed" in first.out
    assert "--retry failed" in first.out
    again = run_suite("--only", "task=mrpc")
    assert again.code == 1
    assert "start" not in again.out
    retried = run_suite("--only", "task=mrpc", "--retry", "failed")
    assert retried.code == 1
    assert retried.out.count("start ") == 2


def test_retry_of_one_run(run_suite: Run, arguments: list[str], suite_file: Path, store: Store) -> None:
    rename_method(suite_file, "fail+dfd")
    run_suite("--only", "task=mrpc")
    failed = sorted(path.parent.name for path in store.root.glob("*/failed.json"))
    retried = run_suite("--only", "task=mrpc", "--retry", failed[0])
    assert retried.out.count("start ") == 1
    wrong = run_suite("--only", "task=mrpc", "--retry", failed[0][:-1])
    assert wrong.code == 2
    assert f"Did you mean '{failed[0]}'" in wrong.err
    done = next(store.root.glob("*/done")).parent.name
    refused = run_suite("--only", "task=mrpc", "--retry", done)
    assert refused.code == 2
    assert "this run is done" in refused.err


def test_a_dry_run_starts_and_writes_nothing(run_suite: Run, store: Store) -> None:
    shown = run_suite("--dry-run")
    assert shown.code == 0
    assert shown.out.count("missing  ") == 14
    assert "14 missing\njobs: 2 worker processes on this machine (CPU), one run at a time each: 2 tea" in shown.out
    assert "no estimate for 14 runs (dense on mrpc, dense on stsb, ok+dfd on mrpc, " in shown.out
    assert not store.root.exists()
    run_suite("--only", "task=mrpc")
    again = run_suite("--dry-run").out
    assert "7 missing, 7 done\n" in again
    assert re.search(r"\nestimate: .* of work, done in .*, at \d{4}-\d\d-\d\d \d\d:\d\d if started now\n", again)
    assert "  7 of them from steps of its method on other tasks\n" in again
    run_suite()
    assert "14 done\nnothing to do\n" in run_suite("--dry-run").out


def test_a_dry_run_says_which_runs_have_no_estimate(run_suite: Run) -> None:
    run_suite("--only", "method=dense", "task=mrpc")
    shown = run_suite("--dry-run", "--only", "method=dense,alone")
    assert "5 missing, 1 done" in shown.out
    assert "\nestimate for 1 of 5 runs: " in shown.out
    assert "\nno estimate for 4 runs (ok+none on mrpc, ok+none on stsb): see --probe\n" in shown.out


def test_a_probe_measures_what_has_no_estimate(run_suite: Run, store: Store) -> None:
    probed = run_suite("--probe")
    assert probed.code == 0
    assert "8 probes, one at a time" in probed.out  # two tasks, three methods and dense
    assert "14 missing" in probed.out
    assert "estimate: 21 min of work, done in 11 min" in probed.out  # 2 x 40 s and 12 x 100 s, by two workers
    assert "14 of them from a probe of its task and method" in probed.out
    assert [path.name for path in store.root.iterdir()] == [".probes"]
    assert "probes" not in run_suite("--probe").out.replace("a probe of", "")
    assert "14 of them from a probe" in run_suite("--dry-run").out


def test_probes_of_other_sources_do_not_count(run_suite: Run, store: Store) -> None:
    run_suite("--probe", "--only", "task=mrpc")
    for path in store.root.glob(".probes/*/probe.json"):
        path.write_text('{"seconds": 1, "sources": "other"}')
    assert "no estimate for 7 runs" in run_suite("--dry-run", "--only", "task=mrpc").out
    assert "4 probes, one at a time" in run_suite("--probe", "--only", "task=mrpc").out


def test_a_failing_probe_leaves_its_runs_without_an_estimate(run_suite: Run, suite_file: Path) -> None:
    rename_method(suite_file, "fail+dfd")
    told = run_suite("--probe", "--only", "task=mrpc")
    assert "FAILED   mrpc OK 0.8 seed 1: mrpc cannot be learnt" in told.out
    assert "estimate for 5 of 7 runs: " in told.out
    assert "no estimate for 2 runs (fail+dfd on mrpc): see --probe" in told.out


def test_a_teacher_that_is_done_is_not_probed(run_suite: Run) -> None:
    run_suite("--only", "task=mrpc", "method=dense")
    assert "1 probes" in run_suite("--probe", "--only", "task=mrpc", "method=OK").out


def test_a_dry_run_with_retry_changes_nothing(run_suite: Run, suite_file: Path, store: Store) -> None:
    rename_method(suite_file, "fail+dfd")
    run_suite("--only", "task=mrpc")
    shown = run_suite("--only", "task=mrpc", "--retry", "failed", "--dry-run")
    assert "2 missing, 5 done" in shown.out
    assert len(list(store.root.glob("*/failed.json"))) == 2


def test_retry_of_results_that_other_sources_made(run_suite: Run, store: Store) -> None:
    run_suite("--only", "task=mrpc")
    again = run_suite("--only", "task=mrpc", "--retry", "stale")
    assert "start " not in again.out
    records = sorted(store.root.glob("*/record.json"))[:2]
    for path in records:
        path.write_text(json.dumps({**json.loads(path.read_text()), "sources": "other"}))
    assert "2 missing, 5 done" in run_suite("--only", "task=mrpc", "--retry", "stale", "--dry-run").out
    one = run_suite("--only", "task=mrpc", "--retry", records[0].parent.name)
    assert one.out.count("start ") == 1
    all_ = run_suite("--only", "task=mrpc", "--retry", "stale")
    assert all_.out.count("start ") == 1
    assert {json.loads(path.read_text())["sources"] for path in records} == {sources_hash()}
    assert not list(store.root.glob("*/.old-*"))


def test_a_launch_is_stopped_from_elsewhere(
    arguments: list[str], suite_file: Path, store: Store, run_suite: Run
) -> None:
    rename_method(suite_file, "slow+none")
    launcher = process(*arguments, "--only", "task=mrpc", "sparsity=0.8", "method=OK")
    slow = _wait_for_slow_run(store)
    told = run_suite("--stop")
    assert told.code == 0
    assert f"asked to stop: tiny, preset micro (local, process {launcher.pid} on " in told.out
    assert told.out.endswith("stopped; the same command without --stop goes on\n")
    _, errors = launcher.communicate(timeout=20)
    assert (launcher.returncode, errors) == (130, "stopped; the same command goes on where it was\n")
    assert store.state(slow) is State.MISSING
    assert run_suite("--stop").out == f"no launch of tiny in {store.root}\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "minii"], "Did you mean 'mini'"),
        (["--only", "task=mrcp"], "Did you mean 'mrpc'"),
        (["--set", "training.lrr=1"], "Did you mean 'lr'"),
        (["--retyr", "failed"], "unknown option '--retyr'. Did you mean '--retry'"),
        (["extra"], "unexpected argument 'extra'"),
        (["--data-dir", "no/such"], "--data-dir no/such: no such folder"),
        (["--retry", "x"], "unknown run in --retry 'x'"),
    ],
)
def test_wrong_usage_gives_one_message_and_exit_code_2(
    arguments: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *more]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize("option", ["--jobs", "--seeds", "--runs-per-gpu", "--checkpoint-every"])
@pytest.mark.parametrize("value", ["0", "x"])
def test_numbers_are_checked(arguments: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, option, value])
    assert exit_.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "method", "code", "message"),
    [
        ("tiny.yaml", "ok+dfd", 0, ""),
        ("tiny.yaml", "fail+dfd", 1, ""),
        ("glue_ablatoin", "", 2, "error: unknown suite 'glue_ablatoin'. Did you mean 'glue_ablation'"),
    ],
)
def test_the_process_ends_with_the_exit_code(
    arguments: list[str], suite_file: Path, name: str, method: str, code: int, message: str
) -> None:
    rename_method(suite_file, method or "ok+dfd")
    arguments[0] = str(suite_file) if name.endswith(".yaml") else name
    told = process(*arguments, "--only", "task=mrpc", "sparsity=0.8", "method=OK")
    _, errors = told.communicate(timeout=30)
    assert told.returncode == code
    assert errors.startswith(message)
    assert "Traceback" not in errors


def test_a_store_that_cannot_be_written_is_told(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file")
    assert main(arguments) == 1
    assert str(tmp_path / "runs") in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_launch_gives_its_runs_back(
    arguments: list[str], suite_file: Path, store: Store, stop: signal.Signals
) -> None:
    rename_method(suite_file, "slow+none")
    launcher = process(*arguments, "--only", "task=mrpc", "sparsity=0.8", "method=OK")
    slow = _wait_for_slow_run(store)
    launcher.send_signal(stop)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 130
    assert errors == "stopped; the same command goes on where it was\n"
    assert store.state(slow) is State.MISSING
    assert not list(store.root.glob("*/work-*"))
    assert not list(store.root.glob("*/claim.json"))


def test_runs_go_on_when_the_launcher_is_killed(arguments: list[str], suite_file: Path, store: Store) -> None:
    rename_method(suite_file, "brief+none")
    launcher = process(*arguments, "--only", "task=mrpc", "sparsity=0.8", "method=OK")
    brief = _wait_for_slow_run(store)
    holder = store.holder(brief)
    assert holder is not None
    launcher.kill()
    launcher.communicate()
    assert store.state(brief) is State.RUNNING
    _wait(lambda: store.state(brief) is State.DONE)
    _wait(lambda: holder.gone)


def _wait_for_slow_run(store: Store) -> str:
    _wait(lambda: any(store.root.glob("*/heartbeat")))
    return next(store.root.glob("*/heartbeat")).parent.name


def _wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_report_gets_what_the_launch_knows(
    arguments: list[str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    module = type(sys)("suites.report")
    module.write_report = lambda *told: calls.append(told)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "suites.report", module)
    arguments.remove("--no-report")
    assert main([*arguments, "--only", "task=mrpc", "method=dense"]) == 0
    plan = store.root / "plans" / "tiny-micro.parquet"
    assert calls == [("tiny", "micro", store.root, plan, tmp_path / "out")]
    assert plan.exists()


def test_all_options_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    told = capsys.readouterr().out
    for option in (
        "--preset",
        "--model",
        "--data-dir",
        "--only",
        "--set",
        "--seeds",
        "--store",
        "--out",
        "--jobs",
        "--runs-per-gpu",
        "--checkpoint-every",
    ):
        assert option in told
    assert "--execute" not in told
