"""How long runs will take, from those that were measured; without one that is alike there is no estimate."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gppdfd.files import canonical_json
from suites.plan import PlannedRun
from suites.records import split_outside
from suites.store import CONFIG, DONE, RECORD, Store, read_json

PROBED = "a probe of its task and method"

Group = tuple[str, ...]


@dataclass(frozen=True)
class Guess:
    """An expected duration in seconds, and what it rests on."""

    seconds: float
    basis: str


class Estimate:
    """Expected durations, from the measured ones of the runs that are most alike.

    Only runs with the same model, data settings, training settings and precision count, and of these: runs of the same
    task and method (any sparsity, any seed); else a probe; else of the same task and pruner; else of the same task and
    role; else, by their time per step, of other tasks with the same method; else with the same role.
    """

    def __init__(
        self,
        measured: Iterable[tuple[PlannedRun, float]] = (),
        probed: Iterable[tuple[PlannedRun, float]] = (),
    ) -> None:
        self._seconds: dict[Group, list[float]] = defaultdict(list)
        self._groups: dict[str, list[Group]] = {}
        for run, seconds in measured:
            self.add(run, seconds)
        for run, seconds in probed:
            self.add_probe(run, seconds)

    def add(self, run: PlannedRun, seconds: float) -> None:
        """Note a measured duration."""
        for group in self._groups_of(run):
            if group[0] != PROBED and (value := _amount(run, seconds, group)) is not None:
                self._seconds[group].append(value)

    def add_probe(self, run: PlannedRun, seconds: float) -> None:
        """Note what a short run of the same task and method lets expect."""
        self._seconds[next(group for group in self._groups_of(run) if group[0] == PROBED)].append(seconds)

    def guess(self, run: PlannedRun) -> Guess | None:
        """Expected duration of a run with its basis; None if no run that is alike was measured."""
        for group in self._groups_of(run):
            if group in self._seconds and (steps := _steps(run, group)):
                return Guess(fmean(self._seconds[group]) * steps, group[0])
        return None

    def seconds(self, run: PlannedRun) -> float | None:
        """Expected duration of a run, None if unknown."""
        guess = self.guess(run)
        return guess.seconds if guess else None

    def measured(self, run: PlannedRun) -> bool:
        """Whether a run of the same task and method was measured or probed."""
        return any(group in self._seconds for group in self._groups_of(run)[:2])

    def total(self, runs: Iterable[PlannedRun]) -> float | None:
        """Expected duration of several runs, one after the other; None if one of them is unknown."""
        total = 0.0
        # Runs of one task and method are expected to take equally long.
        for same in _alike_in(runs, lambda run: self._groups_of(run)[0]):
            if (seconds := self.seconds(same[0])) is None:
                return None
            total += seconds * len(same)
        return total

    def _groups_of(self, run: PlannedRun) -> list[Group]:
        if run.run_id not in self._groups:
            self._groups[run.run_id] = _groups(run)
        return self._groups[run.run_id]


@dataclass(frozen=True)
class Forecast:
    """What is expected of a number of runs.

    Attributes:
        work: seconds of all runs that have an estimate, one after the other.
        end: seconds until these are done by the workers there are.
        bases: on what how many estimates rest.
        unknown: runs without an estimate.
    """

    work: float
    end: float
    bases: Counter[str]
    unknown: list[PlannedRun]


def forecast(runs: Sequence[PlannedRun], estimate: Estimate, workers: int) -> Forecast:
    """Expect the end of runs that several workers share."""
    guesses = {run.run_id: estimate.guess(run) for run in runs}
    known = {run_id: guess for run_id, guess in guesses.items() if guess}
    seconds = {run_id: guess.seconds for run_id, guess in known.items()}
    bases = Counter(guess.basis for guess in known.values())
    unknown = [run for run in runs if run.run_id not in known]
    return Forecast(sum(seconds.values()), _end(runs, seconds, workers), bases, unknown)


def measured_runs(store: Store, plan: Iterable[PlannedRun]) -> Iterator[tuple[PlannedRun, float]]:
    """All finished runs of a store with their durations in seconds: those of a plan, and those of other grids."""
    planned = {run.run_id: run for run in plan}
    for run in planned.values():
        if (seconds := store.seconds(run.run_id)) is not None:
            yield run, seconds
    for folder in sorted(store.root.glob(f"*/{DONE}")):
        run_id = folder.parent.name
        seconds = None if run_id in planned else store.seconds(run_id)
        if seconds is not None and (other := finished_run(store, run_id)):
            yield other, seconds


def finished_run(store: Store, run_id: str) -> PlannedRun | None:
    """A finished run from its own files; None if they are of another kind or damaged."""
    config, record = (read_json(store.folder(run_id) / name) for name in (CONFIG, RECORD))
    if not config or not record or "role" not in record:
        return None
    task, method = config["task"], config["method"]
    return PlannedRun(
        run_id, task, method, method, config["sparsity"], config["seed"], record["role"], 0,
        config=config, steps=record.get("steps", {}),
    )  # fmt: skip


def _groups(run: PlannedRun) -> list[Group]:
    """From the narrowest group of runs alike to the widest; the first entry says what it has in common."""
    same, pruner = (run.role, _settings(run)), split_outside(run.method, "+")[0]
    return [
        ("runs of its task and method", *same, run.task, run.method),
        (PROBED, *same, run.task, run.method),
        ("runs of its task and pruner", *same, run.task, pruner),
        ("runs of its task", *same, run.task),
        ("steps of its method on other tasks", *same, run.method),
        ("steps of other methods and tasks", *same),
    ]


def _settings(run: PlannedRun) -> str:
    """All settings that the duration depends on, as one text; not the path of a model whose content is known."""
    config: dict[str, Any] = run.config
    training = config.get("teacher" if run.role == "teacher" else "training")
    model = config.get("model_content") or config.get("model")
    return canonical_json([model, training, *map(config.get, ("data", "precision", "threads", "select"))])


def _amount(run: PlannedRun, seconds: float, group: Group) -> float | None:
    steps = _steps(run, group)
    return seconds / steps if steps else None


def _steps(run: PlannedRun, group: Group) -> int:
    """What a group counts a run by: its steps where other tasks are compared, else the run as one."""
    return sum(run.steps.values()) if group[0].startswith("steps") else 1


def _alike_in(runs: Iterable[PlannedRun], key: Any) -> Iterable[list[PlannedRun]]:
    groups: dict[Group, list[PlannedRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return groups.values()


def _end(runs: Sequence[PlannedRun], seconds: dict[str, float], workers: int) -> float:
    """When the last run ends: the longest first, a student after its teacher."""
    free, ends = [0.0] * max(workers, 1), dict[str | None, float]()
    known = [run for run in runs if run.run_id in seconds]
    for run in sorted(known, key=lambda run: (run.role != "teacher", -seconds[run.run_id])):
        start = max(heapq.heappop(free), ends.get(run.teacher, 0.0))
        ends[run.run_id] = start + seconds[run.run_id]
        heapq.heappush(free, ends[run.run_id])
    return max(free)
