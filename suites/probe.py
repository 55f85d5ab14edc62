"""Probes: a short run per task and method, from which the duration of the whole ones follows.

A probe is the run itself with a few steps per phase (`suites.probe_run`), done by a worker process of this machine into
a store of its own inside the real one. It leaves no result there, only its time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from suites.claims import forget_failure, forget_result
from suites.display import make_display
from suites.estimate import Estimate, finished_run
from suites.local import LocalLauncher, LocalSettings
from suites.plan import PlannedRun
from suites.sources import sources_hash
from suites.store import DONE, State, Store, read_json

PROBE = "suites.probe_run:execute"
FOLDER, RESULT = ".probes", "probe.json"


def probe_store(store: Store) -> Store:
    """Where the probes of a store lie."""
    return replace(store, root=store.root / FOLDER)


def probed_runs(store: Store) -> Iterator[tuple[PlannedRun, float]]:
    """Probes of a store, with the seconds that a whole run is expected to take; only those of today's sources."""
    probes = probe_store(store)
    for marker in sorted(probes.root.glob(f"*/{DONE}")):
        run, seconds = finished_run(probes, marker.parent.name), _expected(probes, marker.parent.name)
        if run and seconds is not None:
            yield run, seconds


def probe(left: Sequence[PlannedRun], settings: LocalSettings, estimate: Estimate) -> None:
    """Measure one short run per task and method of `left` that none was measured of, and add them to an estimate.

    Args:
        left: runs to be done.
        settings: how to launch, into the probes' store.
        estimate: what is known already.
    """
    plan = _plan(left, estimate)
    for run in plan:
        _forget(settings.store, run.run_id)
    if not plan:
        return
    with make_display(plan, (), settings.jobs, Estimate()) as display:
        display.message(f"{len(plan)} probes, one at a time")
        LocalLauncher(plan, settings, display).run()
    for run in plan:
        if (seconds := _expected(settings.store, run.run_id)) is not None:
            estimate.add_probe(run, seconds)


def _plan(left: Sequence[PlannedRun], estimate: Estimate) -> list[PlannedRun]:
    """The first run of each task and method that is unknown, and the teachers that those need."""
    by_id = {run.run_id: run for run in left}
    first = {_kind(run): run for run in reversed(left) if not estimate.measured(run)}
    teachers = {by_id[run.teacher] for run in first.values() if run.teacher in by_id}
    # A teacher that somebody needs stands for those of other seeds.
    others = [run for kind, run in first.items() if kind not in set(map(_kind, teachers))]
    # One that is done lies in the real store: nothing to wait for.
    plan = [run if run.teacher in by_id else replace(run, teacher=None) for run in [*teachers, *others]]
    return sorted(plan, key=lambda run: (run.role == "student", run.order, run.task))


def _kind(run: PlannedRun) -> tuple[str, str, str]:
    return run.role, run.task, run.method


def _forget(store: Store, run_id: str) -> None:
    """Let a probe that failed or that other sources made be done again."""
    state = store.state(run_id)
    if state in (State.FAILED, State.BLOCKED):
        forget_failure(store, run_id)
    elif state is State.DONE:
        forget_result(store, run_id, lambda: _expected(store, run_id) is None)


def _expected(probes: Store, run_id: str) -> float | None:
    """What a probe lets expect, in seconds; None without one of today's sources."""
    told = read_json(probes.folder(run_id) / RESULT) or {}
    return told["seconds"] if told.get("sources") == sources_hash() else None
