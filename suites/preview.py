"""What a launch would do: the runs by state, the jobs they become, and what these are expected to take."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gppdfd.progress import duration
from suites.estimate import Estimate, Forecast, forecast
from suites.plan import PlannedRun
from suites.store import State

NAMED = 5


def counts(states: Iterable[State]) -> str:
    """`3 missing, 1 failed`."""
    found = Counter(states)
    return ", ".join(f"{found[state]} {state}" for state in State if found[state])


def run_lines(plan: Sequence[PlannedRun], states: Mapping[str, State]) -> Iterator[str]:
    """A line per run, by state; the points that their methods cannot reach come last, with the reasons."""
    order = list(State)
    for run in sorted(plan, key=lambda run: (not run.reachable, order.index(states[run.run_id]))):
        state = states[run.run_id] if run.reachable else f"not reachable: {run.reason}:"
        yield f"{state:8} {run.run_id}  {run.title}"
    yield counts(states[run.run_id] for run in plan if run.reachable)


def local_jobs(left: Sequence[PlannedRun], workers: int, gpus: Sequence[str]) -> str:
    """The processes that the runs become on this machine."""
    teachers = sum(run.role == "teacher" for run in left)
    device = f"GPU{'s' if len(gpus) > 1 else ''} {', '.join(gpus)}" if gpus else "CPU"
    return (
        f"jobs: {_number(workers, 'worker process', 'worker processes')} on this machine ({device}), one run at a time "
        f"each: {_number(teachers, 'teacher')}, {_number(len(left) - teachers, 'student')}"
    )


def estimate_lines(left: Sequence[PlannedRun], estimate: Estimate, workers: int, on_gpus: bool) -> Iterator[str]:
    """Expected work and end, with what they rest on; `no estimate` where nothing that is alike was measured."""
    expected = forecast(left, estimate, workers)
    if len(expected.unknown) < len(left):
        yield _expected(expected, len(left), on_gpus)
        yield from (f"  {number} of them from {basis}" for basis, number in expected.bases.items())
    if expected.unknown:
        yield f"no estimate for {_number(len(expected.unknown), 'run')} ({_names(expected.unknown)}): see --probe"


def _expected(expected: Forecast, runs: int, on_gpus: bool) -> str:
    known = runs - len(expected.unknown)
    work = f"{expected.work / 3600:.2f} GPU-hours" if on_gpus else f"{duration(expected.work)} of work"
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + expected.end))
    part = "" if known == runs else f" for {known} of {runs} runs"
    return f"estimate{part}: {work}, done in {duration(expected.end)}, at {end} if started now"


def _names(runs: Sequence[PlannedRun]) -> str:
    names = list(dict.fromkeys(f"{run.method} on {run.task}" for run in runs))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"
