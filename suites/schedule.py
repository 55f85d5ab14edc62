"""Which run comes next: teachers before their students, near what a worker has in memory, long ones first."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from suites.plan import PlannedRun


@dataclass
class Warm:
    """What a worker process has in memory.

    Attributes:
        threads: number of threads it was started with; None before the start.
        teacher: id of the teacher of its last run.
        tasks: tasks whose data it has read.
    """

    threads: int | None = None
    teacher: str | None = None
    tasks: set[str] = field(default_factory=set)

    def add(self, run: PlannedRun) -> None:
        self.threads, self.teacher = run.threads, _teacher_of(run)
        self.tasks.add(run.task)


class Schedule:
    """Runs that wait for a worker. Knows nothing of processes and files."""

    def __init__(self, runs: Iterable[PlannedRun], done: Iterable[str] = ()) -> None:
        """Take the runs to be done; `done` are ids of teachers that are there already."""
        self.waiting = {run.run_id: run for run in runs}
        self._done = set(done)

    def take(self, warm: Warm, elsewhere: Container[str | None] = ()) -> PlannedRun | None:
        """Take out the run that suits a worker best; None if no run can start now.

        Args:
            warm: what the worker has in memory.
            elsewhere: teachers that other workers have in memory, whose students are better left to them.
        """
        ready = [run for run in self.waiting.values() if self._can_start(run)]
        if not ready:
            return None
        best = min(ready, key=lambda run: _distance(run, warm, elsewhere))  # the first one of equals
        return self.waiting.pop(best.run_id)

    def put_back(self, run: PlannedRun) -> None:
        self.waiting[run.run_id] = run

    def longest_first(self, seconds: Callable[[PlannedRun], float | None]) -> None:
        """Order the runs, of which equally suitable ones are taken in this order, by their expected durations.

        A teacher counts with its longest student, which cannot start before; runs of unknown duration come last.
        """
        known = {run.run_id: seconds(run) or 0.0 for run in self.waiting.values()}
        behind: dict[str, float] = {}
        for run in self.waiting.values():
            if run.teacher:
                behind[run.teacher] = max(behind.get(run.teacher, 0.0), known[run.run_id])
        ordered = sorted(self.waiting, key=lambda run_id: -known[run_id] - behind.get(run_id, 0.0))
        self.waiting = {run_id: self.waiting[run_id] for run_id in ordered}

    def finish(self, run: PlannedRun) -> None:
        """Note that a run is done: its students may start."""
        self._done.add(run.run_id)

    def block(self, teacher: str) -> list[PlannedRun]:
        """Take out the students of a teacher that failed."""
        students = [run for run in self.waiting.values() if run.teacher == teacher]
        for run in students:
            del self.waiting[run.run_id]
        return students

    def _can_start(self, run: PlannedRun) -> bool:
        return run.teacher is None or run.teacher in self._done


def _teacher_of(run: PlannedRun) -> str:
    return run.teacher or run.run_id


def _distance(run: PlannedRun, warm: Warm, elsewhere: Container[str | None]) -> tuple[bool, ...]:
    teacher = _teacher_of(run)
    return (
        run.role != "teacher",
        run.threads != warm.threads,
        teacher != warm.teacher,
        teacher in elsewhere,
        run.task not in warm.tasks,
    )
