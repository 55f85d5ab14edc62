"""`python -m suites.status SUITE`: how far a suite is, read from the files of its runs."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suites.store import State, Store

if TYPE_CHECKING:
    from suites.slurm.queue import Queued

Row = dict[str, Any]

MARKS = {State.RUNNING: "running", State.STALE: "stale", State.FAILED: "failed", State.BLOCKED: "blocked"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    store = Store(options.store)
    preset = options.preset or _only_preset(parser, store, options.suite)
    jobs = _queued(store)
    rows = [_with_state(store, row) for row in _plan(parser, store, options.suite, preset)]
    rows = [row | {"slurm": jobs[row["run_id"]].told} if row["run_id"] in jobs else row for row in rows]
    if options.json:
        print(json.dumps(_summary(options.suite, preset, store, rows), indent=2))
    else:
        _show(options.suite, preset, store, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.status", description=__doc__, allow_abbrev=False)
    parser.add_argument("suite", help="name of a suite that was launched")
    parser.add_argument("--preset", help="micro, mini, ... (default: the one that was launched)")
    parser.add_argument("--store", type=Path, default=Path("results/runs"), help="folder of the runs")
    parser.add_argument("--json", action="store_true", help="every run with its state, for programs")
    return parser


def _only_preset(parser: argparse.ArgumentParser, store: Store, suite: str) -> str:
    """The preset that needs no naming: `micro`, or the only one that was launched."""
    presets = sorted(path.stem.removeprefix(f"{suite}-") for path in store.plans(f"{suite}-*"))
    if not presets:
        parser.error(_nothing_launched(store, suite))
    if len(presets) > 1 and "micro" not in presets:
        parser.error(f"--preset: choose from {', '.join(presets)}")
    return "micro" if "micro" in presets else presets[0]


def _plan(parser: argparse.ArgumentParser, store: Store, suite: str, preset: str) -> list[Row]:
    try:
        return store.plan(suite, preset)
    except FileNotFoundError:
        parser.error(_nothing_launched(store, f"{suite} --preset {preset}"))


def _nothing_launched(store: Store, what: str) -> str:
    known = ", ".join(sorted(path.stem for path in store.plans("*"))) or "nothing"
    return f"{what} was never launched into {store.root}; launched were: {known}"


def _queued(store: Store) -> "Mapping[str, Queued]":
    """By run id, the job in Slurm's queue; most stores never saw a Slurm."""
    if not (store.root / "slurm").exists():
        return {}
    from suites.slurm.queue import queued_runs

    return queued_runs(store)


def _with_state(store: Store, row: Row) -> Row:
    """The plan's row with the state of the run and what belongs to that state."""
    run_id = row["run_id"]
    state = store.state(run_id)
    more: Row = {"state": str(state)}
    if state in (State.FAILED, State.BLOCKED):
        more |= {"failure": store.reason(run_id), "log": str(store.log(run_id))}
    if state is State.RUNNING and (progress := store.progress(run_id)):
        more |= vars(progress)
    if state is State.DONE:
        more["seconds"] = store.seconds(run_id)
    return row | more


def _summary(suite: str, preset: str, store: Store, rows: Sequence[Row]) -> Row:
    counts = Counter(row["state"] for row in rows)
    return {"suite": suite, "preset": preset, "store": str(store.root), "counts": dict(counts), "runs": rows}


def _show(suite: str, preset: str, store: Store, rows: Sequence[Row]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    counts = Counter(row["state"] for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    console.print(f"{suite}, preset {preset}: {told}; runs in {store.root}")
    if in_queue := Counter(row["slurm"] for row in rows if "slurm" in row):
        console.print(f"Slurm: {', '.join(f'{in_queue[told]} {told}' for told in sorted(in_queue))}")
    console.print(_table(rows))
    for row in rows:
        if line := _detail(row):
            console.print(line)


def _table(rows: Sequence[Row]) -> Any:
    """A row per method, a column per task."""
    from rich.table import Table

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table = Table("method", *tasks)
    for label in dict.fromkeys(row["label"] for row in sorted(rows, key=lambda row: row["order"])):
        own = [row for row in rows if row["label"] == label]
        table.add_row(label, *(_cell([row for row in own if row["task"] == task]) for task in tasks))
    return table


def _cell(rows: Sequence[Row]) -> str:
    """`1/2` done, and what the others are."""
    if not rows:
        return ""
    counts = Counter(row["state"] for row in rows)
    others = "".join(f", {counts[state]} {mark}" for state, mark in MARKS.items() if counts[state])
    return f"{counts[State.DONE]}/{len(rows)}{others}"


def _detail(row: Row) -> str | None:
    """A line about a run that is going on or failed."""
    sparsity = f" {row['sparsity']:g}" if row["sparsity"] else ""
    name = f"{row['state']:8} {row['task']} {row['label']}{sparsity} seed {row['seed']}"
    if row["state"] == State.FAILED:
        return f"{name}: {row['failure']}\n         log: {row['log']}"
    if row["state"] == State.RUNNING:
        return f"{name}: {row.get('phase', 'start')} {row.get('step', 0)}/{row.get('steps', 0)}"
    return (
        f"{name}: its holder gave no sign of life, the next launch takes it over"
        if row["state"] == State.STALE
        else None
    )


if __name__ == "__main__":
    sys.exit(main())
