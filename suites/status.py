"""`python -m suites.status SUITE`: how far a suite is, read from the files of its runs."""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gppdfd.cli import parse, run_command
from gppdfd.progress import duration
from suites.launched import nothing_launched, only_preset, suite_name
from suites.launches import launches
from suites.sources import sources_hash
from suites.store import State, Store, is_whole

if TYPE_CHECKING:
    from suites.slurm.queue import Queued

Row = dict[str, Any]

MARKS = {State.RUNNING: "running", State.STALE: "lost", State.FAILED: "failed", State.BLOCKED: "blocked"}
UNREACHABLE = "not reachable"
SHOWN = 20
WATCH_SECONDS = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_status, arguments)


def _status(arguments: Sequence[str] | None) -> int:
    options = parse(_parser(), arguments)
    store = Store(options.store)
    suite = suite_name(options.suite)
    preset = options.preset or only_preset(store, suite)
    if options.json:
        print(json.dumps(_summary(read_status(store, suite, preset)), indent=2))
    elif options.watch:
        _watch(store, suite, preset)
    else:
        _print(read_status(store, suite, preset))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.status", description=__doc__, allow_abbrev=False)
    parser.add_argument("suite", help="name or file of a suite that was launched")
    parser.add_argument("--preset", help="micro, mini, ... (default: the one that was launched)")
    parser.add_argument("--store", type=Path, default=Path("results/runs"), help="folder of the runs")
    parser.add_argument("--watch", action="store_true", help="show it anew every few seconds until all runs have ended")
    parser.add_argument("--json", action="store_true", help="every run with its state, for programs")
    return parser


@dataclass(frozen=True)
class Status:
    """All runs of a suite with their states.

    Attributes:
        rows: the plan's columns and `state`; of failed runs `failure` and `log`, of running ones their progress, of
            finished ones `seconds` and `other_sources`, of missing ones whether a result is `damaged`, of those in
            Slurm's queue what it says of them as `slurm`.
        launches: what is under way, in words.
    """

    suite: str
    preset: str
    store: Store
    rows: list[Row]
    launches: list[str]

    @property
    def counts(self) -> Counter[str]:
        return Counter(row["state"] for row in self.rows)

    @property
    def over(self) -> bool:
        """Whether no run is left that a launch would do."""
        return not {State.MISSING, State.RUNNING, State.STALE} & set(self.counts)

    @property
    def of_other_sources(self) -> int:
        """Number of finished runs made by other sources than today's."""
        return sum(row.get("other_sources", False) for row in self.rows)


def read_status(store: Store, suite: str, preset: str) -> Status:
    """Status of a suite's last launch.

    Raises:
        UsageError: it was never launched into this store.
    """
    try:
        plan = store.plan(suite, preset)
    except FileNotFoundError:
        raise nothing_launched(store, f"{suite}-{preset}") from None
    told = [launch.title for launch in launches(store, suite) if launch.preset == preset]
    rows, jobs = [_with_state(store, row) for row in plan], _queued(store)
    rows = [row | {"slurm": jobs[row["run_id"]].told} if row["run_id"] in jobs else row for row in rows]
    return Status(suite, preset, store, rows, told)


def _queued(store: Store) -> "Mapping[str, Queued]":
    """By run id, the job in Slurm's queue; most stores never saw a Slurm."""
    if not (store.root / "slurm").exists():
        return {}
    from suites.slurm.queue import queued_runs

    return queued_runs(store)


def _with_state(store: Store, row: Row) -> Row:
    """The plan's row with the state of the run and what belongs to that state."""
    run_id = row["run_id"]
    if not row.get("reachable", True):
        return row | {"state": UNREACHABLE}
    state = store.state(run_id)
    if state is State.DONE:
        return row | _finished(store, run_id)
    return row | {"state": str(state), **_details(store, run_id, state)}


def _finished(store: Store, run_id: str) -> Row:
    """A finished run; one whose record is damaged is missing, for a launch would do it again."""
    record = store.record(run_id)
    if is_whole(record):
        other = record.get("sources") != sources_hash()
        return {"state": str(State.DONE), "seconds": store.seconds(run_id), "other_sources": other}
    return {"state": str(State.MISSING), "damaged": True}


def _details(store: Store, run_id: str, state: State) -> Row:
    if state in (State.FAILED, State.BLOCKED):
        return {"failure": store.reason(run_id), "log": str(store.log(run_id))}
    if state is State.RUNNING and (progress := store.progress(run_id)):
        return {**asdict(progress), "left": progress.left}
    return {}


def _summary(status: Status) -> Row:
    return {
        "suite": status.suite,
        "preset": status.preset,
        "store": str(status.store.root),
        "counts": dict(status.counts),
        "other_sources": status.of_other_sources,
        "launches": status.launches,
        "runs": status.rows,
    }


def _watch(store: Store, suite: str, preset: str) -> None:
    """Show the status anew until no run is left to do."""
    from rich.live import Live

    console = _console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            started = time.monotonic()
            status = read_status(store, suite, preset)
            live.update(_page(status), refresh=True)
            if status.over:
                break
            # A store of many runs is not read without a pause.
            time.sleep(max(WATCH_SECONDS, 2 * (time.monotonic() - started)))
    if console.is_terminal:  # the page went with the screen it was on
        _print(status)


def _print(status: Status) -> None:
    _console().print(_page(status))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def _page(status: Status) -> Any:
    from rich.console import Group
    from rich.text import Text

    head, details = "\n".join(_head(status)), list(_shown_details(status.rows))
    return Group(Text(head), _table(status.rows), *([Text("\n".join(details))] if details else []))


def _head(status: Status) -> Iterator[str]:
    counts, order = status.counts, [*State, UNREACHABLE]
    told = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    yield f"{status.suite}, preset {status.preset}: {told}; runs in {status.store.root}"
    if number := sum(row.get("damaged", False) for row in status.rows):
        yield f"{number} of the missing runs have a damaged record, the next launch does them again"
    yield from (f"under way: {launch}" for launch in status.launches)
    if in_queue := Counter(row["slurm"] for row in status.rows if "slurm" in row):
        yield f"Slurm: {', '.join(f'{in_queue[told]} {told}' for told in sorted(in_queue))}"
    if number := status.of_other_sources:
        yield f"{number} of the finished runs were made by other sources than today's (suites.run --retry stale)"


def _table(rows: Sequence[Row]) -> Any:
    """A row per method, a column per task."""
    from rich.table import Table

    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["label"], row["task"]].append(row)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table = Table("method", *tasks)
    for label in dict.fromkeys(row["label"] for row in sorted(rows, key=lambda row: row["order"])):
        table.add_row(label, *(_cell(cells.get((label, task), ())) for task in tasks))
    return table


def _cell(rows: Sequence[Row]) -> str:
    """`1/2` done, and what the others are."""
    if not rows:
        return ""
    counts = Counter(row["state"] for row in rows)
    possible = len(rows) - counts[UNREACHABLE]
    if not possible:
        return UNREACHABLE
    others = "".join(f", {counts[state]} {mark}" for state, mark in MARKS.items() if counts[state])
    return f"{counts[State.DONE]}/{possible}{others}"


def _shown_details(rows: Sequence[Row]) -> Iterator[str]:
    """Lines about single runs: the running ones, then those that need somebody to look."""
    described = {State.RUNNING: _running, State.STALE: _lost, State.FAILED: _failed}
    for state, describe in described.items():
        own = [row for row in rows if row["state"] == state]
        yield from (f"{MARKS[state]:8} {_title(row)}: {describe(row)}" for row in own[:SHOWN])
        if len(own) > SHOWN:
            yield f"{MARKS[state]:8} ... and {len(own) - SHOWN} more (--json shows all)"


def _title(row: Mapping[str, Any]) -> str:
    sparsity = f" {row['sparsity']:g}" if row["sparsity"] else ""
    return f"{row['task']} {row['label']}{sparsity} seed {row['seed']}"


def _running(row: Row) -> str:
    where = f"{row.get('phase', 'start')} {row.get('step', 0)}/{row.get('steps', 0)}"
    if not row.get("speed"):
        return where
    end = time.strftime("%H:%M", time.localtime(time.time() + row["left"]))
    return f"{where}, {_speed(row['speed'])}, {duration(row['left'])} left at this speed ({end})"


def _speed(speed: float) -> str:
    return f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"


def _failed(row: Row) -> str:
    return f"{row['failure']}\n         log: {row['log']}"


def _lost(row: Row) -> str:
    return "its holder gave no sign of life, the next launch takes it over"


if __name__ == "__main__":
    sys.exit(main())
