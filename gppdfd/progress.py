"""How far a training is: a bar on a terminal or in a notebook, a few lines elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

LINES = 10
"""Lines per phase where there is no bar."""


class Progress:
    """Shows nothing; the subclasses do."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing."""

    def step(self, training: str, phase: str, step: int, steps: int) -> None:
        """Note a finished optimiser step.

        Args:
            training: what is trained, such as `student`.
            phase: part of it, such as `search`.
            step, steps: steps done and steps in all of this training.
        """

    def message(self, text: str) -> None:
        """Show a line of text."""


class PlainProgress(Progress):
    """A line whenever the phase changes, and about ten in all per training."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._training = self._phase = ""
        self._first, self._start = 0, 0.0

    def step(self, training: str, phase: str, step: int, steps: int) -> None:
        if training != self._training:
            self._training, self._first, self._start = training, step, time.monotonic()
        if phase == self._phase and step % max(1, steps // LINES) and step < steps:
            return
        self._phase = phase
        self.message(f"{training}: {phase} {step}/{steps}{self._left(step, steps)}")

    def _left(self, step: int, steps: int) -> str:
        if step in (self._first, steps):
            return ""
        per_step = (time.monotonic() - self._start) / (step - self._first)
        return f", {duration(per_step * (steps - step))} left"

    def message(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class RichProgress(Progress):
    """A bar per training with its phase and the time left."""

    def __init__(self, console: "Console") -> None:
        from rich import progress

        columns: tuple[Any, ...] = (
            progress.TextColumn("{task.description:20}", markup=False),
            progress.BarColumn(24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        self._console = console
        self._bars = progress.Progress(*columns, console=console, refresh_per_second=4)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "RichProgress":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def step(self, training: str, phase: str, step: int, steps: int) -> None:
        if training not in self._tasks:
            self._tasks[training] = self._bars.add_task(training)
        self._bars.update(self._tasks[training], description=f"{training}: {phase}", completed=step, total=steps)

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


def make_progress(shown: bool) -> Progress:
    """The display that suits the standard error stream."""
    if not shown:
        return Progress()
    from rich.console import Console

    console = Console(stderr=True)
    return RichProgress(console) if console.is_terminal or console.is_jupyter else PlainProgress(sys.stderr)


def duration(seconds: float | None) -> str:
    """`8.1 s`, `12 min`, `3 h 05 min`."""
    if seconds is None:
        return "?"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
