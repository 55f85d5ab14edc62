"""The local launcher: warm worker processes on this machine, each at one run at a time."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gppdfd.errors import DataError, UsageError
from suites.checkpoints import EVERY_SECONDS
from suites.claims import give_back, mark_failed, unwritable
from suites.display import Display
from suites.plan import PlannedRun
from suites.schedule import Schedule, Warm
from suites.store import Progress, State, Store
from suites.worker import EXECUTE

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
POLL_SECONDS = 2.0
STOP_SECONDS, KILL_SECONDS = 900.0, 10.0
"""Patience with workers that finish a step and save a checkpoint, and with such as were killed."""

DEATHS = 2
"""So often may the worker of one run die (out of memory, killed by somebody) until the run counts as failed."""

LAST_WORDS = 4000


@dataclass(frozen=True)
class LocalSettings:
    """How to launch.

    Attributes:
        store: where the runs go.
        data_dir: folder with the tasks' data.
        jobs: number of worker processes.
        gpus: devices as CUDA_VISIBLE_DEVICES names them, dealt out to the workers in turn.
        execute: `module:function` that does a run.
        checkpoint_every: seconds between two checkpoints of a run.
        interpreter: command line of the workers' Python.
        stop_signal: what asks a worker to stop.
    """

    store: Store
    data_dir: Path | None = None
    jobs: int = 1
    gpus: tuple[str, ...] = ()
    execute: str = EXECUTE
    checkpoint_every: float = EVERY_SECONDS
    interpreter: tuple[str, ...] = (sys.executable,)
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Event:
    """What a worker told; the kind `exit` says that its process has ended."""

    worker: "Worker"
    kind: str
    content: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A worker process with its input for orders, and a thread that reads its events."""

    def __init__(
        self, settings: LocalSettings, threads: int, gpu: str | None, events: queue.SimpleQueue[Event]
    ) -> None:
        self.ready = False
        self._events, self._stop_signal = events, settings.stop_signal
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        # A session of its own: Ctrl-C on the terminal is for the launcher, which asks its workers to stop.
        self._process = subprocess.Popen(
            _command(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(threads, gpu),
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._read_events, daemon=True).start()

    def order(self, run: PlannedRun) -> None:
        """Send a run; that the process has ended is told by its event `exit`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            print(json.dumps({"run_id": run.run_id, "config": run.config}), file=self._process.stdin, flush=True)

    def stop(self) -> None:
        """Ask the process to finish its step, save a checkpoint, give its run back and end."""
        self._process.send_signal(self._stop_signal)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float | None = None) -> int:
        """Exit code of the process; raises `subprocess.TimeoutExpired`."""
        return self._process.wait(seconds)

    @property
    def last_words(self) -> str:
        """The end of what the process printed outside runs."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS))
        return self._errors.read().decode(errors="replace").strip()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # half a line: the process died while it wrote
                content = json.loads(line)
                self._events.put(Event(self, content.pop("event"), content))
        self._process.wait()
        self._events.put(Event(self, "exit"))


@dataclass
class Slot:
    """The place of one worker: its device, its process, what that has in memory and what it is doing.

    `started` says that the process has told that it works on the run.
    """

    gpu: str | None
    worker: Worker | None = None
    run: PlannedRun | None = None
    started: bool = False
    warm: Warm = field(default_factory=Warm)


class LocalLauncher:
    """Does all runs of a plan that are neither done nor failed, whoever else works on the same store."""

    def __init__(self, plan: Sequence[PlannedRun], settings: LocalSettings, display: Display) -> None:
        self._settings, self._store, self._display = settings, settings.store, display
        self._schedule = Schedule(plan)
        self._elsewhere: dict[str, PlannedRun] = {}
        self._slots = [Slot(_nth(settings.gpus, number)) for number in range(settings.jobs)]
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._retired: list[Worker] = []
        self._deaths: Counter[str] = Counter()
        self._timed: set[tuple[str, str]] = set()
        self._polled = time.monotonic()

    def run(self) -> None:
        """Work until every run is done, failed or blocked.

        Raises:
            DataError: worker processes cannot start, or the store cannot be written.
            KeyboardInterrupt: as asked for; the runs that were under way are given back with their checkpoints.
        """
        try:
            self._sort_out()
            self._schedule.longest_first(self._display.expected)
            while self._unfinished:
                self._assign()
                self._listen()
                self._look_elsewhere()
        except KeyboardInterrupt:
            self._display.message("stopping after the steps under way, with checkpoints; Ctrl-C again: at once")
            raise
        except OSError as error:
            raise unwritable(self._store, error.strerror or str(error)) from error
        finally:
            self._stop()

    @property
    def _unfinished(self) -> bool:
        return bool(self._schedule.waiting or self._elsewhere or self._busy)

    @property
    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.run]

    def _sort_out(self) -> None:
        """Take out of the schedule what needs no work here."""
        # Students before teachers: a failed teacher blocks only those that have no result of their own.
        for run in reversed(list(self._schedule.waiting.values())):
            state = self._store.state(run.run_id)
            if state in (State.DONE, State.FAILED, State.RUNNING):
                del self._schedule.waiting[run.run_id]
                self._settle(run, state)

    def _settle(self, run: PlannedRun, state: State) -> None:
        """Act on the state that somebody else has brought a run to."""
        if state is State.DONE:
            self._finish(run, None)
        elif state is State.FAILED:
            self._fail(run, self._store.reason(run.run_id))
        elif state is State.BLOCKED:
            self._display.blocked(run, self._store.reason(run.run_id))
        elif state is State.RUNNING:
            self._elsewhere[run.run_id] = run
        else:
            self._schedule.put_back(run)

    def _assign(self) -> None:
        """Give every idle worker a run; start workers only for runs that can start."""
        for slot in self._slots:
            if slot.run is None and (run := self._next_run(slot)):
                self._start(slot, run)
        if self._schedule.waiting and not self._busy and not self._elsewhere:
            raise DataError("runs wait for teachers that are not in the plan")

    def _next_run(self, slot: Slot) -> PlannedRun | None:
        """The best run for a worker that is still to be done: another launcher may have been quicker."""
        others = {other.warm.teacher for other in self._slots if other is not slot}
        while run := self._schedule.take(slot.warm, others):
            state = self._store.state(run.run_id)
            if state not in (State.DONE, State.FAILED, State.RUNNING):
                return run
            self._settle(run, state)
        return None

    def _start(self, slot: Slot, run: PlannedRun) -> None:
        if slot.worker and slot.warm.threads != run.threads:
            self._retire(slot)
        if slot.worker is None:
            slot.worker = Worker(self._settings, run.threads, slot.gpu, self._events)
        slot.run, slot.started = run, False
        slot.warm.add(run)
        slot.worker.order(run)

    def _retire(self, slot: Slot) -> None:
        """Stop an idle worker: libraries take the number of threads only when they are loaded."""
        if slot.worker:
            slot.worker.stop()
        self._let_go(slot)

    def _let_go(self, slot: Slot) -> None:
        """Leave a worker to its end; the next run in its place starts another one."""
        if slot.worker:
            self._retired.append(slot.worker)
        slot.worker, slot.warm = None, Warm()

    def _listen(self) -> None:
        """Act on the next event of a worker, if there is one soon."""
        try:
            event = self._events.get(timeout=POLL_SECONDS / 2)
        except queue.Empty:
            return
        slot = next((slot for slot in self._slots if slot.worker is event.worker), None)
        if slot is not None:
            self._handle(slot, event)

    def _handle(self, slot: Slot, event: Event) -> None:
        if event.kind == "exit":
            self._replace(slot, event.worker)
        elif event.kind == "ready":
            event.worker.ready = True
        elif slot.run is None:
            return
        elif event.kind == "started":
            slot.started = True
            self._display.started(slot.run)
        elif event.kind == "progress":
            self._display.progressed(slot.run, Progress(**event.content))
        else:
            run, slot.run = slot.run, None
            if event.content.get("leaving"):
                self._let_go(slot)
            self._conclude(run, event)

    def _conclude(self, run: PlannedRun, event: Event) -> None:
        if event.kind == "done":
            self._finish(run, event.content["seconds"])
        elif event.kind == "failed":
            self._fail(run, event.content["reason"])
        elif event.kind == "unwritable":
            raise unwritable(self._store, event.content["reason"])
        else:  # busy or stopped: somebody else has it, or nobody
            self._display.released(run)
            self._elsewhere[run.run_id] = run

    def _replace(self, slot: Slot, worker: Worker) -> None:
        """Forget a worker that ended; the next run in its place starts another one."""
        if not worker.ready:
            raise DataError(f"a worker process cannot start:\n{worker.last_words}")
        run, slot.run, slot.worker, slot.warm = slot.run, None, None, Warm()
        if run and slot.started:
            self._bury(run, _end_in_words(worker.wait()))
        elif run:  # it ended before it read the order: no death of this run
            self._settle(run, self._store.state(run.run_id))

    def _bury(self, run: PlannedRun, reason: str) -> None:
        """Do a run once more whose worker died, and mark it as failed if that was not the first."""
        self._deaths[run.run_id] += 1
        if self._deaths[run.run_id] == DEATHS and mark_failed(self._store, run.run_id, "died", reason):
            self._fail(run, reason)
            return
        self._display.released(run)
        self._settle(run, self._store.state(run.run_id))

    def _finish(self, run: PlannedRun, seconds: float | None) -> None:
        self._schedule.finish(run)
        if run.run_id in self._display.left:
            self._display.done(run, seconds)
        if seconds is not None and (run.method, run.task) not in self._timed:
            self._timed.add((run.method, run.task))
            self._schedule.longest_first(self._display.expected)

    def _fail(self, run: PlannedRun, reason: str) -> None:
        self._display.failed(run, reason, self._store.log(run.run_id))
        for student in self._schedule.block(run.run_id):
            why = f"its teacher failed ({run.title}): {reason}"
            mark_failed(self._store, student.run_id, "blocked", why, teacher=run.run_id)
            self._display.blocked(student, why)

    def _look_elsewhere(self) -> None:
        """Follow the runs that other launchers have; take those over whose holder is gone."""
        if time.monotonic() - self._polled < POLL_SECONDS:
            return
        self._polled = time.monotonic()
        runs, self._elsewhere = self._elsewhere, {}
        for run in runs.values():
            self._settle(run, self._store.state(run.run_id))

    def _stop(self) -> None:
        """End all workers after their steps, at once on a second Ctrl-C, and give back what they had."""
        workers = [*self._retired, *(slot.worker for slot in self._slots if slot.worker)]
        for worker in workers:
            worker.stop()
        try:
            self._wait(workers, STOP_SECONDS)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            for worker in workers:
                worker.kill()
            self._wait(workers, KILL_SECONDS)
        for slot in self._busy:
            if slot.run:
                give_back(self._store, slot.run.run_id)

    @staticmethod
    def _wait(workers: Sequence[Worker], seconds: float) -> None:
        end = time.monotonic() + seconds
        for worker in workers:
            worker.wait(max(end - time.monotonic(), 0.1))


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_gpus() -> tuple[str, ...]:
    """CUDA devices by the names that CUDA_VISIBLE_DEVICES takes, asked without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles"))
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()


def default_jobs(plan: Sequence[PlannedRun], gpus: Sequence[str], runs_per_gpu: int = 1) -> int:
    """So many workers per GPU; without one, as many as the cores have room for.

    Raises:
        UsageError: several workers per GPU are asked for and there is no GPU.
    """
    if runs_per_gpu > 1 and not gpus:
        raise UsageError("--runs-per-gpu: no GPU is visible here; --jobs says how many runs a CPU does at a time")
    threads = max((run.threads for run in plan), default=1)
    return len(gpus) * runs_per_gpu or max(1, usable_cores() // threads)


def _command(settings: LocalSettings) -> list[str]:
    command = [*settings.interpreter, "-m", "suites.worker", "--store", str(settings.store.root.resolve())]
    if settings.data_dir:
        command += ["--data-dir", str(settings.data_dir.resolve())]
    command += ["--checkpoint-every", str(settings.checkpoint_every), "--stale-after", str(settings.store.stale_after)]
    return [*command, "--execute", settings.execute]


def _environment(threads: int, gpu: str | None) -> dict[str, str]:
    own = {name: str(threads) for name in THREAD_VARIABLES} | {"TOKENIZERS_PARALLELISM": "false"}
    if gpu is not None:
        own["CUDA_VISIBLE_DEVICES"] = gpu
    return os.environ | own


def _nth(gpus: Sequence[str], number: int) -> str | None:
    return gpus[number % len(gpus)] if gpus else None


def _end_in_words(code: int) -> str:
    if code >= 0:
        return f"the worker process ended with exit code {code} in the middle of the run"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"the worker process was killed by {name}{hint}"
