"""When a run saves its state, and how it is told to stop: the seam between a worker and the run that it does.

A run that is asked to stop finishes its step, saves its state and ends; outside its steps it ends at once. What a
checkpoint holds is the run's own business (execute.py). Imports nothing heavy.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from suites.store import storage_trouble

EVERY_SECONDS = 600.0
LAST_STEP_SECONDS = 60.0
"""After the last step a state is saved if this much work would be lost: what follows may be stopped too."""

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """This process is to end: a request, which no `except Exception` may hold up."""


class StopRequest:
    """The wish that this process ends, made by signals or by whoever calls it; the second one is obeyed at once."""

    def __init__(self) -> None:
        self.asked = False
        self._in_steps = False

    def __call__(self, *_: object) -> None:
        if self.asked or not self._in_steps:
            raise Stopped
        self.asked = True

    @contextmanager
    def steps(self) -> Iterator[None]:
        """While the block runs a first request waits for `obey`."""
        self._in_steps = True
        try:
            yield
            self.obey()
        finally:
            self._in_steps = False

    def obey(self) -> None:
        """End here if that was asked for."""
        if self.asked:
            raise Stopped


class Checkpoints:
    """The checkpoints of one run, which all its attempts share.

    Attributes:
        folder: where they lie.
        earlier: seconds that earlier attempts took until the state that this one started from.
    """

    def __init__(
        self,
        folder: Path,
        check: Callable[[], None] = lambda: None,
        every: float = EVERY_SECONDS,
        stop: StopRequest | None = None,
    ) -> None:
        """Watch over one attempt.

        Args:
            check: raises if this attempt may write no more.
            every: seconds between two checkpoints.
            stop: what the attempt is stopped by.
        """
        self.folder, self.earlier = folder, 0.0
        self._check, self._every, self._stop = check, every, stop or StopRequest()
        self._saved = time.monotonic()

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Around the steps of the run, each of which asks whether a checkpoint is `due`."""
        self._saved = time.monotonic()
        with self._stop.steps():
            yield

    def due(self, last: bool = False) -> bool:
        """Whether the state after this step, or after the last one, is to be saved."""
        waited = time.monotonic() - self._saved
        return self._stop.asked or waited >= (min(LAST_STEP_SECONDS, self._every) if last else self._every)

    def save(self, write: Callable[[Path], object]) -> None:
        """Let `write` save the state into a folder; a full disk costs the checkpoint, not the run.

        Raises:
            ClaimLostError: somebody else has the run; nothing is written.
            Stopped: that was asked for.
        """
        self._check()
        try:
            write(self.folder)
        except Exception as error:
            if storage_trouble(error) is None:
                raise
            logger.warning("no checkpoint can be written: %s", error)
        self._saved = time.monotonic()
        self._stop.obey()

    def forget(self) -> None:
        """Remove what is there: it is of no use to this attempt."""
        self._check()
        shutil.rmtree(self.folder, ignore_errors=True)
