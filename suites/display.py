"""What a launch shows: bars on a terminal, one line per event elsewhere."""

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gppdfd.progress import duration
from suites.estimate import Estimate
from suites.plan import PlannedRun
from suites.store import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


@dataclass
class Running:
    """A run that a worker is at."""

    run: PlannedRun
    started: float
    progress: Progress = field(default_factory=lambda: Progress("start", 0, 0))


class Display:
    """Counts what happened; the subclasses show it.

    The launcher calls `started`, `progressed` and one of `done`, `failed`, `released` for each run, and
    `blocked` for runs that cannot start.
    """

    def __init__(self, plan: Sequence[PlannedRun], done: Collection[str], jobs: int, estimate: Estimate) -> None:
        """Begin with a plan.

        Args:
            plan: all runs of the launch.
            done: ids of those that were done before.
            jobs: number of workers.
            estimate: measured durations of earlier runs.
        """
        self.left = {run.run_id: run for run in plan if run.run_id not in done}
        self.running: dict[str, Running] = {}
        self.total, self.finished, self.failures = len(plan), len(plan) - len(self.left), 0
        self._jobs, self._estimate = max(jobs, 1), estimate

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing."""

    def started(self, run: PlannedRun) -> None:
        self.running[run.run_id] = Running(run, time.monotonic())

    def progressed(self, run: PlannedRun, progress: Progress) -> None:
        if run.run_id in self.running:
            self.running[run.run_id].progress = progress

    def done(self, run: PlannedRun, seconds: float | None) -> None:
        """Note a finished run; `seconds` is None if another launcher did it."""
        self._settle(run)
        self.finished += 1
        if seconds is not None:
            self._estimate.add(run, seconds)

    def failed(self, run: PlannedRun, reason: str, log: Path) -> None:
        self._settle(run)
        self.failures += 1

    def blocked(self, run: PlannedRun, reason: str) -> None:
        self._settle(run)
        self.failures += 1

    def released(self, run: PlannedRun) -> None:
        """Note a run that its worker gave back: it is waiting again, or somebody else does it."""
        self.running.pop(run.run_id, None)

    def message(self, text: str) -> None:
        """Show a line of text."""

    @property
    def remaining(self) -> float | None:
        """Expected seconds to the end, None while nothing is known."""
        total = self._estimate.total(self.left.values())
        if total is None:
            return None
        spent = sum(time.monotonic() - running.started for running in self.running.values())
        return max(total - spent, 0.0) / self._jobs

    def expected(self, run: PlannedRun) -> float | None:
        """Expected duration of a run, None while nothing is known."""
        return self._estimate.seconds(run)

    def _settle(self, run: PlannedRun) -> None:
        self.running.pop(run.run_id, None)
        self.left.pop(run.run_id, None)

    @property
    def summary(self) -> str:
        """Counts and the time left: `12/136 done, 1 failed, 3 min left`."""
        failed = f", {self.failures} failed" if self.failures else ""
        left = f", {duration(self.remaining)} left" if self.left and self.remaining is not None else ""
        return f"{self.finished}/{self.total} done{failed}{left}"


class PlainDisplay(Display):
    """One line per event, for files and pipes."""

    def __init__(self, *args: Any, stream: TextIO | None = None) -> None:
        super().__init__(*args)
        self._stream = stream or sys.stdout

    def started(self, run: PlannedRun) -> None:
        super().started(run)
        self.message(f"start    {run.title}")

    def done(self, run: PlannedRun, seconds: float | None) -> None:
        super().done(run, seconds)
        took = "elsewhere" if seconds is None else f"in {duration(seconds)}"
        self.message(f"done     {run.title} {took}  [{self.summary}]")

    def failed(self, run: PlannedRun, reason: str, log: Path) -> None:
        super().failed(run, reason, log)
        self.message(f"FAILED   {run.title}: {reason}  (log: {log})")

    def blocked(self, run: PlannedRun, reason: str) -> None:
        super().blocked(run, reason)
        self.message(f"BLOCKED  {run.title}: {reason}")

    def message(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class RichDisplay(Display):
    """A bar for all runs and a line per worker, kept at the foot of the terminal; failures scroll above."""

    def __init__(self, *args: Any, console: "Console | None" = None) -> None:
        super().__init__(*args)
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(highlight=False)
        self._live = Live(get_renderable=self._page, console=self._console, refresh_per_second=4)

    def __enter__(self) -> "RichDisplay":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def failed(self, run: PlannedRun, reason: str, log: Path) -> None:
        super().failed(run, reason, log)
        self._failure("failed", run, f"{reason}\n        log: {log}")

    def blocked(self, run: PlannedRun, reason: str) -> None:
        super().blocked(run, reason)
        self._failure("blocked", run, reason)

    def message(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _failure(self, word: str, run: PlannedRun, text: str) -> None:
        from rich.text import Text

        self._console.print(Text.assemble((f"{word:8}", "bold red"), f"{run.title}: {text}"))

    def _page(self) -> "RenderableType":
        from rich.table import Table

        table = Table.grid(padding=(0, 1))
        table.add_row(_bar(self.finished, self.total), self.summary)
        for running in list(self.running.values()):
            self._add_worker(table, running)
        return table

    def _add_worker(self, table: "Table", running: Running) -> None:
        progress = running.progress
        where = f"{progress.phase} {progress.step}/{progress.steps}" if progress.steps else progress.phase
        since = duration(time.monotonic() - running.started)
        table.add_row(_bar(progress.step, progress.steps), f"{running.run.title}  {where}  {since}")


def _bar(done: int, total: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=max(total, 1), completed=done, width=24)


def make_display(plan: Sequence[PlannedRun], done: Collection[str], jobs: int, estimate: Estimate) -> Display:
    """The display that suits the standard output."""
    kind = RichDisplay if sys.stdout.isatty() else PlainDisplay
    return kind(plan, done, jobs, estimate)
