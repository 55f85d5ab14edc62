"""A warm worker process: `python -m suites.worker`, started by the launcher, does one run after the other.

Orders come in on the standard input and events go out on the standard output, one JSON object a line. All
that a run prints goes to its log. The worker claims each run itself, so that a claim names the process
that works on it; when the input ends, because the launcher did, the worker ends after its run.

SIGTERM, SIGUSR1 and SIGUSR2 mean: finish the step, save a checkpoint, give the run back and end. The second one
means: end now. One that was ignored when the worker started stays so, as with nohup.
"""

import argparse
import faulthandler
import importlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from gppdfd.errors import DataError, UsageError
from suites.checkpoints import EVERY_SECONDS, Checkpoints, Stopped, StopRequest
from suites.claims import Claim, ClaimLostError, Heartbeat, claim
from suites.store import STALE_SECONDS, Progress, Store, storage_trouble

EXECUTE = "suites.execute:execute"
REPORT_SECONDS = 0.2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

Execute = Callable[[Any, Path, Path, Path | None, Callable[[Progress], None], Checkpoints], None]


@dataclass
class Channel:
    """Events to the launcher. A launcher that is gone is no reason to give up a run."""

    stream: TextIO
    _last: float = field(default=0.0, init=False)
    _phase: str = field(default="", init=False)

    def send(self, event: str, **content: Any) -> None:
        with suppress(OSError):
            print(json.dumps({"event": event, **content}), file=self.stream, flush=True)

    def progress(self, progress: Progress) -> None:
        """Send the progress, a few times a second at most, but every new phase."""
        if progress.phase == self._phase and time.monotonic() - self._last < REPORT_SECONDS:
            return
        self._last, self._phase = time.monotonic(), progress.phase
        self.send("progress", **asdict(progress))


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the event to tell, and what belongs to it."""

    event: str
    content: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Worker:
    """What all runs of this process have in common."""

    store: Store
    data_dir: Path | None
    execute: Execute
    config_type: Any
    channel: Channel
    checkpoint_every: float = EVERY_SECONDS
    stop: StopRequest = field(default_factory=StopRequest)

    def do(self, run_id: str, config: dict[str, Any]) -> bool:
        """Do one run and tell how it ended: `done`, `failed`, `stopped`, `busy` if somebody else has it, or
        `unwritable` if the store cannot be written, which is no fault of the run. What is told last says
        `leaving`, so that the launcher gives no other run to a process that is about to end.

        Returns:
            False if this process must end: an error on a GPU can leave it unusable.

        Raises:
            Stopped: as asked for; the run is given back with a checkpoint.
        """
        self.channel.send("started")
        try:
            outcome = self._outcome(run_id, config)
        except Stopped:
            self.channel.send("stopped", leaving=True)
            raise
        leaving = outcome.event == "failed" and _uses_gpu()
        self.channel.send(outcome.event, leaving=leaving, **outcome.content)
        return not leaving

    def _outcome(self, run_id: str, config: dict[str, Any]) -> Outcome:
        try:
            made = claim(self.store, run_id)
            return self._hold(made, config) if made else Outcome("busy")
        except OSError as error:
            return Outcome("unwritable", {"reason": error.strerror or str(error)})

    def _hold(self, made: Claim, config: dict[str, Any]) -> Outcome:
        """Do a run that is ours now, and give it back whatever happens."""
        try:
            with _log_to(self.store.log(made.run_id)):
                return self._attempt(made, config)
        except ClaimLostError:
            return Outcome("busy")
        finally:
            made.release()

    def _attempt(self, made: Claim, config: dict[str, Any]) -> Outcome:
        started = time.monotonic()
        try:
            made.start(config)
            with Heartbeat(made) as heartbeat:
                earlier = self._execute(made, config, heartbeat)
            seconds = earlier + time.monotonic() - started
            made.commit(seconds)
        except ClaimLostError:
            raise
        except (Exception, SystemExit) as error:
            return _failed(made, error)
        return Outcome("done", {"seconds": seconds})

    def _execute(self, made: Claim, config: dict[str, Any], heartbeat: Heartbeat) -> float:
        """Do the run; returns the seconds that earlier attempts gave to it."""

        def report(progress: Progress) -> None:
            heartbeat.report(Progress(progress.phase, progress.step, progress.steps))
            self.channel.progress(heartbeat.progress)

        settings = self.config_type.model_validate(config)
        checkpoints = Checkpoints(made.checkpoints, made.check, self.checkpoint_every, self.stop)
        self.execute(settings, made.work, self.store.root, self.data_dir, report, checkpoints)
        return checkpoints.earlier


def _failed(made: Claim, error: BaseException) -> Outcome:
    """Mark a run as failed, unless the disk is to blame."""
    logging.error("the run failed", exc_info=error)
    if (why := storage_trouble(error)) is not None:
        return Outcome("unwritable", {"reason": why})
    made.fail("error", describe(error), "".join(traceback.format_exception(error)))
    return Outcome("failed", {"reason": describe(error)})


def describe(error: BaseException) -> str:
    """An error in one line; the project's own messages are for users and need no type in front."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UsageError | DataError) else f"{type(error).__name__}: {text}"


def load(name: str) -> Execute:
    """Function named `module:function`."""
    module, _, function = name.partition(":")
    found: Execute = getattr(importlib.import_module(module), function)
    return found


def main() -> None:
    """Do the runs that come in on the standard input."""
    options = _options()
    channel = _take_stdout()
    faulthandler.enable()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    execute = load(options.execute)
    config_type = importlib.import_module("suites.config").RunConfig
    store = Store(options.store, options.stale_after)
    worker = Worker(store, options.data_dir, execute, config_type, channel, options.checkpoint_every)
    channel.send("ready")
    for name in STOP_SIGNALS:
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, worker.stop)
    with suppress(Stopped):
        _serve(worker)


def _serve(worker: Worker) -> None:
    for line in iter(sys.stdin.readline, ""):
        if not worker.do(**json.loads(line)):
            return


def _uses_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m suites.worker", description="Started by suites.run.")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--execute", default=EXECUTE)
    parser.add_argument("--checkpoint-every", type=float, default=EVERY_SECONDS, help="seconds")
    parser.add_argument("--stale-after", type=float, default=STALE_SECONDS, help="seconds")
    return parser.parse_args()


def _take_stdout() -> Channel:
    """Keep the standard output for events; what libraries print there goes to the standard error output."""
    stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return Channel(stream)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send all output of this process, of C libraries too, to the end of a file."""
    kept = os.dup(2)
    with path.open("ab") as log:
        _point_output_to(log.fileno())
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}", file=sys.stderr)
    try:
        yield
    finally:
        _point_output_to(kept)
        os.close(kept)


def _point_output_to(descriptor: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


if __name__ == "__main__":
    main()
