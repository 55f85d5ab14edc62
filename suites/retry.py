"""`--retry`: which runs are done again."""

from collections.abc import Mapping, Sequence

from gppdfd.errors import UsageError, unknown
from suites.claims import forget_failure, forget_result
from suites.sources import sources_hash
from suites.store import State, Store

FAILED, STALE = "failed", "stale"


def runs_to_retry(store: Store, states: Mapping[str, State], wanted: Sequence[str]) -> set[str]:
    """Ids of the runs that the values of `--retry` name.

    Args:
        states: of all runs of the plan.
        wanted: `failed`, `stale` (done by other sources than today's), or ids of such runs.

    Raises:
        UsageError: no such run, or one that neither failed nor is stale.
    """
    if not wanted:
        return set()
    groups = {
        FAILED: {run_id for run_id, state in states.items() if state is State.FAILED},
        STALE: {run_id for run_id, state in states.items() if state is State.DONE and is_stale(store, run_id)},
    }
    chosen: set[str] = set()
    for name in wanted:
        if name not in groups and name not in groups[FAILED] | groups[STALE]:
            raise _not_retried(name, states, sorted(groups[FAILED]))
        chosen |= groups.get(name, {name})
    return chosen


def is_stale(store: Store, run_id: str) -> bool:
    """Whether a finished run was made by other sources than those that a run would have now."""
    return store.sources(run_id) != sources_hash()


def forget(store: Store, run_id: str) -> None:
    """Turn a failed or stale run into one that is missing, unless it is done again by now."""
    if store.state(run_id) is State.FAILED:
        forget_failure(store, run_id)
    else:
        forget_result(store, run_id, lambda: is_stale(store, run_id))


def _not_retried(name: str, states: Mapping[str, State], failed: Sequence[str]) -> UsageError:
    if name in states:
        again = "only failed runs, and finished ones of other sources, are done again"
        return UsageError(f"--retry {name}: this run is {states[name]}; {again}")
    return unknown("run in --retry", name, [FAILED, STALE, *failed])
