"""What happens inside a job: its runs are done by warm workers, as the local launcher does them.

submitit calls a `Job`, and asks it for a checkpoint when Slurm announces the end (time limit, preemption). The state of
a run is in its own checkpoint files in the store, so that a job is nothing but the names of its runs, before and after.
"""

import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from gppdfd.errors import DataError
from suites.claims import mark_failed
from suites.display import Display, Estimate, PlainDisplay
from suites.local import LocalLauncher, LocalSettings, usable_gpus
from suites.plan import PlannedRun
from suites.slurm.arrays import room
from suites.slurm.order import Order
from suites.store import State

ANNOUNCED, CANCELLED = signal.SIGUSR2, signal.SIGTERM
STOP_WORKER = signal.SIGUSR1
# Slurm announces the end of a job up to a minute before it was asked to.
EARLY_SECONDS = 60.0
# After a bare SIGTERM the job waits for its end, which Slurm brings within KillWait or the partition's GraceTime.
END_SECONDS = 600.0


@dataclass(frozen=True)
class Job:
    """Runs to be done by one job, and the file that says what they are."""

    order: Path
    run_ids: tuple[str, ...]

    def __call__(self) -> None:
        """Do the runs that have no result yet; stop in an orderly way when Slurm asks for it."""
        order, signals, began = Order.read(self.order), Signals(), time.monotonic()
        display = PlainDisplay([order.runs[run_id] for run_id in self.run_ids], (), 1, Estimate())
        try:
            with signals:
                do_runs(order, self.run_ids, display)
        except KeyboardInterrupt:
            signals.await_end()
            if time.monotonic() - began >= order.minutes * 60 - order.grace - EARLY_SECONDS:
                charge_time_limit(order, list(display.running))
            signals.requeue()

    def checkpoint(self) -> Any:
        """What is to be done when the job starts again: the same; `DelayedSubmission` of submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def do_runs(order: Order, run_ids: Sequence[str], display: Display) -> None:
    """Do runs with the workers that this job has room for.

    Raises:
        KeyboardInterrupt: as a signal asked for; the runs under way were given back with their checkpoints.
        DataError: workers cannot start, or the store cannot be written.
    """
    runs, gpus = list(ready(order, run_ids)), usable_gpus()
    settings = LocalSettings(
        order.runs_store,
        order.data_dir,
        min(room(len(gpus), order.cpus, runs), len(run_ids)),
        gpus,
        order.execute,
        order.checkpoint_every,
        order.interpreter,
        STOP_WORKER,
    )
    LocalLauncher(runs, settings, display).run()


def ready(order: Order, run_ids: Sequence[str]) -> Iterator[PlannedRun]:
    """Runs whose teacher has ended, and those teachers: one that failed blocks its students.

    A teacher that has neither a result nor a failure was cancelled: its students stay missing for the next launch.
    """
    store, teachers = order.runs_store, dict[str, PlannedRun]()
    for run in (order.runs[run_id] for run_id in run_ids):
        if run.teacher and store.state(run.teacher) in (State.MISSING, State.STALE):
            print(f"left out: {run.title}: its teacher {run.teacher} has no result", flush=True)
            continue
        if run.teacher:
            teachers[run.teacher] = order.runs[run.teacher]
        yield run
    yield from teachers.values()


def charge_time_limit(order: Order, run_ids: Sequence[str]) -> None:
    """Count a time limit for runs that met it; those that met too many have failed."""
    for run_id in run_ids:
        met = order.count_time_limit(run_id)
        if met > order.time_limits:
            reason = f"met the time limit of {order.minutes} min {met} times; raise time or time_limits in the profile"
            mark_failed(order.runs_store, run_id, "died", reason)


@dataclass
class Signals:
    """Turns the first of Slurm's signals into a KeyboardInterrupt, and remembers the others.

    A preempted job may hear two of them at once, and a second interrupt would stop workers before they have written
    their checkpoints.
    """

    heard: set[int] = field(default_factory=set)
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "Signals":
        for number in (ANNOUNCED, CANCELLED):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        """Signals are still only remembered afterwards: they must not disturb what follows."""

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first = not self.heard
        self.heard.add(number)
        print(f"heard {signal.Signals(number).name}: stopping", flush=True)
        if first:
            raise KeyboardInterrupt

    def await_end(self) -> None:
        """After a bare SIGTERM: Slurm ends a cancelled job, and ends and requeues a preempted one."""
        end = time.monotonic() + END_SECONDS
        while ANNOUNCED not in self.heard and time.monotonic() < end:
            time.sleep(0.1)
        if ANNOUNCED not in self.heard:
            raise DataError("the job was stopped by SIGTERM, and nothing followed")

    def requeue(self) -> None:
        """Let submitit store the checkpoint and put this job back into the queue; it ends the process."""
        self._before[ANNOUNCED](ANNOUNCED, None)


def worker_command(container: str | None, python: str) -> tuple[str, ...]:
    """Command line of a worker's Python, which must not hear the signals that Slurm sends to every process of a job.

    The job hears them, and asks its workers once: two requests would stop them before they have saved a checkpoint. An
    ignored signal stays ignored in programs that are started.
    """
    return ("sh", "-c", 'trap "" TERM USR2; exec "$@"', "worker", *shlex.split(container or ""), python)
