"""`python -m suites.run SUITE`: do what is missing of a suite, then write its tables and figures."""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gppdfd.cli import at_least_one, parse, run_command
from gppdfd.errors import DataError, UsageError, unknown
from gppdfd.progress import duration
from suites.checkpoints import EVERY_SECONDS
from suites.claims import forget_failure, forget_result, open_store
from suites.display import Estimate, make_display
from suites.grid import Request, Suite, load_suite
from suites.local import LocalLauncher, LocalSettings, default_jobs, usable_gpus
from suites.plan import PlannedRun, make_plan, with_earlier, write_plan
from suites.store import STALE_SECONDS, State, Store
from suites.worker import EXECUTE

SHOWN_FAILURES = 20
UNFINISHED = (State.MISSING, State.STALE, State.RUNNING, State.BLOCKED)


@dataclass(frozen=True)
class Launch:
    """A suite with everything that the command line says about it."""

    suite: Suite
    request: Request
    plan: list[PlannedRun]
    store: Store

    @property
    def preset(self) -> str:
        return self.request.preset

    @property
    def plan_path(self) -> Path:
        return self.store.plan_path(self.suite.name, self.preset)

    def states(self) -> dict[str, State]:
        return {run.run_id: self.store.state(run.run_id) for run in self.plan}

    @property
    def possible(self) -> list[PlannedRun]:
        """The plan without the points that their methods cannot reach."""
        return [run for run in self.plan if run.reachable]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        # Stopped by the system or with the terminal: runs are given back as with Ctrl-C; nohup stays nohup.
        if signal.getsignal(name) is signal.SIG_DFL:
            signal.signal(name, signal.default_int_handler)
    return run_command(_run, arguments, "stopped; the same command goes on where it was")


def _run(arguments: Sequence[str] | None) -> int:
    options = parse(_parser(), arguments)
    launch = _prepare(options)
    _retry(launch, options.retry)
    if options.dry_run:
        _show_plan(launch)
        return 0
    open_store(launch.store)
    _forget_damaged(launch)
    _store_plan(launch)
    _launch(launch, options)
    failed = _show_result(launch)
    if not options.no_report:
        _report(launch, options.out)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.run", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("suite", help="name of a suite (python -m suites.list suites) or path of a suite file")
    add("--preset", default="micro", help="settings to use: micro (default), mini, base")
    add("--model", help="hub name or folder of the encoder, in place of the preset's")
    add(
        "--data-dir",
        type=Path,
        help="folder with the tasks' data (default: environment variable GPPDFD_DATA)",
    )
    add("--only", nargs="+", action="extend", default=[], metavar="AXIS=VALUES",
        help="do a part of the grid: task=mrpc,stsb method=gpp+dfd,dense sparsity=0.8 seed=1")  # fmt: skip
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change settings of the preset: training.learning_rate=1e-4 threads=2")  # fmt: skip
    add("--seeds", type=at_least_one, metavar="N", help="do the seeds 1 to N")
    add("--store", type=Path, default=Path("results/runs"), help="folder of the runs (default: %(default)s)")
    add("--out", type=Path, help="folder of tables and figures (default: results/SUITE/PRESET)")
    add(
        "--jobs",
        type=at_least_one,
        metavar="N",
        help="worker processes (default: one per GPU, else per core)",
    )
    add("--runs-per-gpu", type=at_least_one, default=1, metavar="K", help="worker processes per GPU (default: 1)")
    add("--checkpoint-every", type=_minutes, default=EVERY_SECONDS / 60, metavar="MINUTES",
        help="how often a run saves its state (default: %(default)g)")  # fmt: skip
    add("--retry", action="append", default=[], metavar="failed|RUN_ID", help="do failed runs once more")
    add("--dry-run", action="store_true", help="show the runs and their states, start nothing")
    add("--no-report", action="store_true", help="write no tables and figures")
    add("--execute", default=EXECUTE, help=argparse.SUPPRESS)
    add("--stale-after", type=float, default=STALE_SECONDS, help=argparse.SUPPRESS)
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


_minutes.__name__ = "number"  # how argparse calls the type in its message


def _prepare(options: argparse.Namespace) -> Launch:
    request = Request(
        preset=options.preset,
        only=options.only,
        settings=options.set,
        seeds=options.seeds,
        model=options.model,
        data_dir=options.data_dir,
    )
    if options.data_dir and not options.data_dir.is_dir():
        raise UsageError(f"--data-dir {options.data_dir}: no such folder")
    suite = load_suite(options.suite, request)
    return Launch(suite, request, make_plan(suite, request), Store(options.store, options.stale_after))


def _store_plan(launch: Launch) -> None:
    """Write the plan that tables are made from; what earlier launches did with the same settings stays in it."""
    plan = launch.plan
    if launch.plan_path.exists():
        rows = launch.store.plan(launch.suite.name, launch.preset)
        try:
            plan = with_earlier(plan, launch.suite, launch.request, rows)
        except DataError as error:
            print(f"tables will show the runs of this launch alone: {error}", file=sys.stderr)
    write_plan(plan, launch.plan_path)


def _retry(launch: Launch, wanted: Sequence[str]) -> None:
    """Turn failed runs into missing ones."""
    states = launch.states()
    failed = [run_id for run_id, state in states.items() if state is State.FAILED]
    for name in wanted:
        if name != "failed" and name not in failed:
            raise _no_failed_run(name, states)
        for run_id in failed if name == "failed" else [name]:
            forget_failure(launch.store, run_id)


def _forget_damaged(launch: Launch) -> None:
    """Turn done runs whose record cannot be read into missing ones."""
    for run in launch.plan:
        if launch.store.damaged(run.run_id):
            print(f"{run.title}: its record was damaged, the run is done again", file=sys.stderr)
            forget_result(launch.store, run.run_id)


def _no_failed_run(name: str, states: dict[str, State]) -> UsageError:
    if name in states:
        return UsageError(f"--retry {name}: this run is {states[name]}, only failed ones are done again")
    failed = [run_id for run_id, state in states.items() if state is State.FAILED]
    return unknown("run in --retry", name, ["failed", *failed])


def _launch(launch: Launch, options: argparse.Namespace) -> None:
    """Do what is missing; nothing is started when all runs are done."""
    states, gpus = launch.states(), usable_gpus()
    done = {run_id for run_id, state in states.items() if state is State.DONE}
    missing = [run for run in launch.possible if states[run.run_id] in UNFINISHED]
    if not missing:
        return
    jobs = min(options.jobs or default_jobs(missing, gpus, options.runs_per_gpu), len(missing))
    every = 60 * options.checkpoint_every
    settings = LocalSettings(launch.store, options.data_dir, jobs, gpus, options.execute, every)
    with make_display(launch.possible, done, jobs, _measured(launch)) as display:
        display.message(f"{launch.suite.title}: {len(missing)} of {len(launch.possible)} runs to do, {jobs} at a time")
        LocalLauncher(launch.possible, settings, display).run()


def _measured(launch: Launch) -> Estimate:
    """Durations of the runs of this plan that are done."""
    seconds = ((run, launch.store.seconds(run.run_id)) for run in launch.plan)
    return Estimate((run, taken) for run, taken in seconds if taken is not None)


def _show_plan(launch: Launch) -> None:
    states = launch.states()
    for run in launch.plan:
        state = states[run.run_id] if run.reachable else f"not reachable: {run.reason}"
        print(f"{state:8} {run.run_id}  {run.title}")
    left = [run for run in launch.possible if states[run.run_id] in UNFINISHED]
    expected = _measured(launch).total(left)
    print(_counts(states.values()))
    print("no estimate" if expected is None else f"estimate: {duration(expected)} with one worker")


def _show_result(launch: Launch) -> int:
    """Say how the runs ended; returns how many have no result."""
    states = launch.states()
    failed = [run for run in launch.possible if states[run.run_id] is State.FAILED]
    for run in failed[:SHOWN_FAILURES]:
        print(f"failed: {run.title}: {launch.store.reason(run.run_id)}\n  log: {launch.store.log(run.run_id)}")
    if len(failed) > SHOWN_FAILURES:
        print(f"... and {len(failed) - SHOWN_FAILURES} more: python -m suites.status {launch.suite.name}")
    print(f"{_counts(states.values())}; runs in {launch.store.root}")
    if failed:
        print("failed runs are not tried again, unless you add: --retry failed")
    return sum(states[run.run_id] is not State.DONE for run in launch.possible)


def _counts(states: Iterable[State]) -> str:
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])


def _report(launch: Launch, out: Path | None) -> None:
    # Late, so that drawing libraries do not slow down the start.
    from suites.report import write_report

    folder = out or Path("results") / launch.suite.name / launch.preset
    write_report(launch.suite.name, launch.preset, launch.store.root, launch.plan_path, folder)
    print(f"tables and figures in {folder}")


if __name__ == "__main__":
    sys.exit(main())
