"""`python -m suites.run SUITE`: do what is missing of a suite, then write its tables and figures."""

import argparse
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gppdfd.cli import at_least_one, parse, run_command
from gppdfd.errors import DataError, UsageError
from suites.checkpoints import EVERY_SECONDS
from suites.claims import forget_result, open_store
from suites.display import make_display
from suites.estimate import Estimate, measured_runs
from suites.launches import announced, launches
from suites.local import LocalLauncher, LocalSettings, default_jobs, usable_gpus
from suites.locks import lock
from suites.plan import PlannedRun, make_plan, with_earlier, write_plan
from suites.preview import counts, estimate_lines, local_jobs, run_lines
from suites.probe import PROBE, probe, probe_store, probed_runs
from suites.retry import forget, runs_to_retry
from suites.store import STALE_SECONDS, State, Store, read_plan
from suites.suite import Request, Suite, load_suite
from suites.worker import EXECUTE

if TYPE_CHECKING:
    from suites.slurm import Profile

SHOWN_FAILURES = 20
STOP_SECONDS, STOP_POLL_SECONDS = 60.0, 0.2
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
    if options.stop:
        return _stop(load_suite(options.suite).name, Store(options.store))
    launch, profile = _prepare(options), _profile(options)
    redone = runs_to_retry(launch.store, launch.states(), options.retry)
    damaged = _damaged(launch)
    if options.dry_run or options.probe:
        _preview(launch, redone | damaged, options, profile)
        return 0
    open_store(launch.store)
    for run_id in damaged:
        forget_result(launch.store, run_id, partial(launch.store.damaged, run_id))
    for run_id in redone:
        forget(launch.store, run_id)
    _store_plan(launch)
    with announced(launch.store, launch.suite.name, launch.preset, options.launcher):
        if profile:
            _submit(launch, options, profile)
        else:
            _launch(launch, options)
    if options.detach:
        return 0
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
        help="worker processes on this machine (default: one per GPU, else per core)",
    )
    add("--runs-per-gpu", type=at_least_one, default=1, metavar="K", help="worker processes per GPU (default: 1)")
    add("--checkpoint-every", type=_minutes, default=EVERY_SECONDS / 60, metavar="MINUTES",
        help="how often a run saves its state (default: %(default)g)")  # fmt: skip
    add("--launcher", choices=["local", "slurm"], default="local", help="where the runs go (default: %(default)s)")
    add("--profile", metavar="FILE", help="with --launcher slurm: what jobs ask for (slurm/README.md)")
    add("--pack", type=at_least_one, metavar="K", help="with --launcher slurm: runs per job, in place of the profile's")
    add("--detach", action="store_true", help="with --launcher slurm: submit and return")
    add("--retry", action="append", default=[], metavar="failed|stale|RUN_ID",
        help="do failed runs once more, or finished ones that other sources have made")  # fmt: skip
    add("--dry-run", action="store_true", help="show runs, states, jobs and an estimate; train nothing")
    add("--probe", action="store_true",
        help="measure a short run per task and method that has no estimate, then do as --dry-run")  # fmt: skip
    add("--stop", action="store_true",
        help="stop the launches of this suite in this store, from any terminal; again: stop at once")  # fmt: skip
    add("--no-report", action="store_true", help="write no tables and figures")
    add("--execute", default=EXECUTE, help=argparse.SUPPRESS)
    add("--execute-probe", default=PROBE, help=argparse.SUPPRESS)
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
    """Write the plan that tables are made from; what other launches do with the same settings stays in it."""
    stored = False
    while not stored:
        rows = _plan_rows(launch)
        plan = _with_earlier(launch, rows)
        # That took its time; another launch may have written its plan since, whose runs must stay too.
        with lock(launch.plan_path.with_suffix(".lock")):
            if stored := _plan_rows(launch) == rows:
                write_plan(plan, launch.plan_path, launch.suite.name)


def _plan_rows(launch: Launch) -> list[dict[str, Any]] | None:
    """The plan in the store; empty before the first launch, None if it is damaged."""
    return read_plan(launch.plan_path) if launch.plan_path.exists() else []


def _with_earlier(launch: Launch, rows: Sequence[Mapping[str, Any]] | None) -> list[PlannedRun]:
    if rows is None:
        print(f"tables will show the runs of this launch alone: {launch.plan_path} was damaged", file=sys.stderr)
        return launch.plan
    try:
        return with_earlier(launch.plan, launch.suite, launch.request, rows)
    except DataError as error:
        print(f"tables will show the runs of this launch alone: {error}", file=sys.stderr)
        return launch.plan


def _damaged(launch: Launch) -> set[str]:
    """Done runs whose record cannot be read, which a launch turns into missing ones."""
    damaged = [run for run in launch.plan if launch.store.damaged(run.run_id)]
    for run in damaged:
        print(f"{run.title}: its record was damaged, the run is done again", file=sys.stderr)
    return {run.run_id for run in damaged}


def _launch(launch: Launch, options: argparse.Namespace) -> None:
    """Do what is missing; nothing is started when all runs are done."""
    states, gpus = launch.states(), usable_gpus()
    done = {run_id for run_id, state in states.items() if state is State.DONE}
    missing = [run for run in launch.possible if states[run.run_id] in UNFINISHED]
    if not missing:
        return
    jobs = _workers(missing, options, gpus)
    every = 60 * options.checkpoint_every
    settings = LocalSettings(launch.store, options.data_dir, jobs, gpus, options.execute, every)
    with make_display(launch.possible, done, jobs, _estimate(launch)) as display:
        display.message(f"{launch.suite.title}: {len(missing)} of {len(launch.possible)} runs to do, {jobs} at a time")
        LocalLauncher(launch.possible, settings, display).run()


def _estimate(launch: Launch) -> Estimate:
    """Durations of all runs of the store, and what probes found."""
    return Estimate(measured_runs(launch.store, launch.plan), probed_runs(launch.store))


def _profile(options: argparse.Namespace) -> "Profile | None":
    """The cluster profile of a launch on SLURM, None for a local one."""
    if options.launcher != "slurm":
        given = [name for name in ("profile", "pack", "detach") if getattr(options, name)]
        if given:
            raise UsageError(f"--{given[0]} needs --launcher slurm")
        return None
    if options.jobs or options.runs_per_gpu > 1:
        name = "jobs" if options.jobs else "runs-per-gpu"
        raise UsageError(f"--{name} needs --launcher local; a cluster profile says gpus, pack and throttle")
    if options.profile is None:
        raise UsageError("--launcher slurm needs --profile: the name or file of a cluster profile, see slurm/README.md")
    from suites.slurm import load_profile

    profile: Profile = load_profile(options.profile, {"pack": options.pack} if options.pack else {})
    return profile


def _submit(launch: Launch, options: argparse.Namespace, profile: "Profile") -> None:
    """Submit what is missing and follow it, unless detached."""
    from suites.slurm import SlurmLauncher, SlurmSettings

    done = {run_id for run_id, state in launch.states().items() if state is State.DONE}
    jobs = profile.throttle or len(launch.plan)
    every = 60 * options.checkpoint_every
    settings = SlurmSettings(
        launch.store, profile, launch.suite.name, options.data_dir, options.execute, every, options.detach
    )
    with make_display(launch.possible, done, jobs, _estimate(launch)) as display:
        SlurmLauncher(launch.possible, settings, display).run()


def _preview(
    launch: Launch, redone: Collection[str], options: argparse.Namespace, profile: "Profile | None" = None
) -> None:
    """Say what a launch would do, and start none of it but probes."""
    states = launch.states() | dict.fromkeys(redone, State.MISSING)
    left = [run for run in launch.possible if states[run.run_id] in UNFINISHED]
    for line in run_lines(launch.plan, states):
        print(line)
    if not left:
        print("nothing to do")
        return
    gpus, estimate = usable_gpus(), _estimate(launch)
    if options.probe:
        probe(left, _probe_settings(launch, options, gpus), estimate)
    workers, lines = _cluster_jobs(left, profile) if profile else _local_jobs(left, options, gpus)
    on_gpus = profile.gpus > 0 if profile else bool(gpus)
    for line in [*lines, *estimate_lines(left, estimate, workers, on_gpus)]:
        print(line)


def _local_jobs(
    left: Sequence[PlannedRun], options: argparse.Namespace, gpus: Sequence[str]
) -> tuple[int, Sequence[str]]:
    """How many runs go on at a time, and the processes of this machine that the runs become."""
    workers = _workers(left, options, gpus)
    return workers, [local_jobs(left, workers, gpus)]


def _cluster_jobs(left: Sequence[PlannedRun], profile: "Profile") -> tuple[int, Sequence[str]]:
    """How many runs go on at a time where no job waits, and the batch scripts that the runs become."""
    from suites.slurm import runs_at_once, sbatch_preview

    return runs_at_once(left, profile), sbatch_preview(left, profile)


def _probe_settings(launch: Launch, options: argparse.Namespace, gpus: tuple[str, ...]) -> LocalSettings:
    return LocalSettings(probe_store(launch.store), options.data_dir, 1, gpus[:1], options.execute_probe)


def _workers(left: Sequence[PlannedRun], options: argparse.Namespace, gpus: Sequence[str]) -> int:
    return min(options.jobs or default_jobs(left, gpus, options.runs_per_gpu), len(left))


def _stop(suite: str, store: Store) -> int:
    """Ask the launches of a suite to stop, and wait until they have."""
    asked = launches(store, suite)
    for launch in asked:
        launch.ask_to_stop()
        print(f"asked to stop: {launch.title}", flush=True)
    end = time.monotonic() + STOP_SECONDS
    while any(not launch.over for launch in asked) and time.monotonic() < end:
        time.sleep(STOP_POLL_SECONDS)
    if any(not launch.over for launch in asked):
        print("still finishing their steps; the same line again stops them at once")
        return 1
    cancelled = _cancel(suite, store)
    something = asked or cancelled
    print("stopped; the same command without --stop goes on" if something else f"no launch of {suite} in {store.root}")
    return 0


def _cancel(suite: str, store: Store) -> bool:
    """Cancel what SLURM launches of a suite have in the queue."""
    if not (store.root / "slurm").exists():
        return False
    from suites.slurm.queue import cancel_suite

    jobs = cancel_suite(store, suite)
    if jobs:
        print(f"cancelled jobs: {', '.join(jobs)}")
    return bool(jobs)


def _show_result(launch: Launch) -> int:
    """Say how the runs ended; returns how many have no result."""
    states = launch.states()
    failed = [run for run in launch.possible if states[run.run_id] is State.FAILED]
    for run in failed[:SHOWN_FAILURES]:
        print(f"failed: {run.title}: {launch.store.reason(run.run_id)}\n  log: {launch.store.log(run.run_id)}")
    if len(failed) > SHOWN_FAILURES:
        print(f"... and {len(failed) - SHOWN_FAILURES} more: python -m suites.status {launch.suite.name}")
    print(f"{counts(states.values())}; runs in {launch.store.root}")
    if failed:
        print("failed runs are not tried again, unless you add: --retry failed")
    return sum(states[run.run_id] is not State.DONE for run in launch.possible)


def _report(launch: Launch, out: Path | None) -> None:
    # Late, so that drawing libraries do not slow down the start.
    from suites.report import write_report

    folder = out or Path("results") / launch.suite.name / launch.preset
    write_report(launch.suite.name, launch.preset, launch.store.root, launch.plan_path, folder)
    print(f"tables and figures in {folder}")


if __name__ == "__main__":
    sys.exit(main())
