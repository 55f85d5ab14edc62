"""Which runs the figures of single runs show: the finished students of one task, sparsity and seed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from gppdfd.errors import UsageError
from suites.cells import score_columns
from suites.records import PlannedRun, Results

Wanted = Mapping[str, str | float | int]
NOTHING: Wanted = MappingProxyType({})


class Place(NamedTuple):
    """What runs have in common that differ in their method alone."""

    task: str
    sparsity: float
    seed: int

    def __str__(self) -> str:
        return f"task={self.task} sparsity={self.sparsity:g} seed={self.seed}"

    @property
    def title(self) -> str:
        """As a figure's title has it."""
        return f"{score_columns([self.task])[0].title}, sparsity {self.sparsity:g}, seed {self.seed}"


def place_of(run: PlannedRun) -> Place:
    return Place(run.task, run.sparsity, run.seed)


def shown_runs(
    results: Results, wanted: Wanted = NOTHING, shows: Callable[[PlannedRun], bool] = lambda run: True
) -> list[PlannedRun]:
    """Finished students of the place where most methods have what a figure shows; empty if there is none.

    Args:
        wanted: task, sparsity and seed to look at; what it does not name is free.
        shows: whether a run has what the figure shows.
    """
    places: dict[Place, list[PlannedRun]] = defaultdict(list)
    for run in _students(results):
        if _is(place_of(run), wanted) and shows(run):
            places[place_of(run)].append(run)
    return max(places.values(), key=len, default=[])


def check_wanted(results: Results, wanted: Wanted) -> None:
    """Refuse to show what no finished run has.

    Raises:
        UsageError: naming what there is.
    """
    places = list(dict.fromkeys(map(place_of, _students(results))))
    if wanted and not any(_is(place, wanted) for place in places):
        given = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise UsageError(f"no finished run for {given}. There is: {'; '.join(map(str, places)) or 'none'}")


def first_of_each(runs: Iterable[PlannedRun], kind: Callable[[PlannedRun], object]) -> list[PlannedRun]:
    """The first run of each kind, in the order of the runs."""
    first: dict[object, PlannedRun] = {}
    for run in runs:
        first.setdefault(kind(run), run)
    return list(first.values())


def _students(results: Results) -> Sequence[PlannedRun]:
    return [run for run in results.planned if run.role == "student" and run.state == "done"]


def _is(place: Place, wanted: Wanted) -> bool:
    return all(getattr(place, name) == value for name, value in wanted.items())
