"""Runs into jobs, jobs into arrays: pure functions, which know nothing of Slurm but its limits.

Runs with equal resources share an array. Students wait for the arrays of their teachers: give a task that takes long
its own `overrides` in the profile, and the students of the others do not wait for it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from suites.plan import PlannedRun
from suites.slurm.profile import Profile, Resources


@dataclass(frozen=True)
class Array:
    """Jobs that are submitted together.

    Attributes:
        name: unique in the launch.
        jobs: the runs of each job, done one after the other on each of its GPUs.
        after: names of the arrays of this launch that must have ended before, however they ended.
        after_jobs: numbers of jobs of earlier launches, likewise.
        throttle: how many of the jobs may run at the same time.
    """

    name: str
    resources: Resources
    jobs: tuple[tuple[PlannedRun, ...], ...]
    after: tuple[str, ...] = ()
    after_jobs: tuple[str, ...] = ()
    throttle: int | None = None

    @property
    def runs(self) -> list[PlannedRun]:
        return [run for job in self.jobs for run in job]


Item = TypeVar("Item")
Waits = tuple[tuple[str, ...], tuple[str, ...]]


def make_arrays(
    runs: Iterable[PlannedRun], profile: Profile, largest: int, queued: Mapping[str, str] | None = None
) -> list[Array]:
    """Arrays for the runs of a launch, teachers first.

    Args:
        runs: what is to be submitted.
        largest: number of jobs that the cluster takes in one array.
        queued: by run id, the job in which an earlier launch has the run already.
    """
    runs, queued = list(runs), queued or {}
    numbers = count(1)

    def group(role: str, holders: Mapping[str, str]) -> list[Array]:
        groups: dict[tuple[Resources, Waits], list[PlannedRun]] = defaultdict(list)
        for run in runs:
            if run.role == role:
                groups[profile.resources(run), _waits(run, holders, queued)].append(run)
        return [
            Array(f"{role}s-{next(numbers)}", resources, jobs, *waits)
            for (resources, waits), members in groups.items()
            for jobs in chunks(pack(members, resources.pack), largest)
        ]

    teachers = group("teacher", {})
    students = group("student", {run.run_id: array.name for array in teachers for run in array.runs})
    return _throttled([*teachers, *students], profile.throttle)


def at_once(arrays: Iterable[Array]) -> int:
    """How many runs of a launch may go on at the same time, as far as its arrays say.

    Teachers and the students that wait for them never run together.
    """
    lanes: dict[str, Counter[bool]] = defaultdict(Counter)
    for array in arrays:
        gpus, cpus = array.resources.gpus, array.resources.cpus
        jobs = sorted((min(room(gpus, cpus, job), len(job)) for job in array.jobs), reverse=True)
        lanes[_lane(array)][bool(array.after)] += sum(jobs[: array.throttle])
    return sum(max(lane.values()) for lane in lanes.values())


def room(gpus: int, cpus: int, runs: Iterable[PlannedRun]) -> int:
    """How many runs a job has room for at a time: one per GPU, else as many as there are CPUs for their threads."""
    return gpus or max(1, cpus // max((run.threads for run in runs), default=1))


def pack(runs: Sequence[PlannedRun], size: int) -> list[tuple[PlannedRun, ...]]:
    """Runs in groups of `size`; those of one teacher stay together, because it stays in memory."""
    return chunks(sorted(runs, key=lambda run: run.teacher or run.run_id), size)


def chunks(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    """Items in groups of `size`, the last one maybe smaller."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _waits(run: PlannedRun, holders: Mapping[str, str], queued: Mapping[str, str]) -> Waits:
    """Names of arrays and numbers of jobs that a run must wait for."""
    teacher = run.teacher or ""
    if teacher in holders:
        return (holders[teacher],), ()
    return (), ((queued[teacher],) if teacher in queued else ())


def _throttled(arrays: Sequence[Array], throttle: int | None) -> list[Array]:
    """Share out the throttle among arrays that may run at the same time; each has at least one job running.

    Slurm knows a throttle per array only. Teachers and the students that wait for them never run together: they are
    a lane, whose share is that of its jobs.
    """
    if throttle is None:
        return list(arrays)
    lanes = Counter[str]()
    for array in arrays:
        lanes[_lane(array)] += len(array.jobs)
    return [replace(array, throttle=_share(array, arrays, lanes, throttle)) for array in arrays]


def _share(array: Array, arrays: Sequence[Array], lanes: Counter[str], throttle: int) -> int:
    lane = throttle * lanes[_lane(array)] // lanes.total()
    together = sum(len(other.jobs) for other in arrays if (_lane(other), other.after) == (_lane(array), array.after))
    return max(1, lane * len(array.jobs) // together)


def _lane(array: Array) -> str:
    return array.after[0] if array.after else array.name
