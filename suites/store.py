"""The run store: one folder per run, and the state of each run read from the files in it.

This module only reads (claims.py writes) and imports nothing heavy, so status and report pages stay quick and
work where torch is not installed.

A run folder holds, in the order in which the files appear:
    claim.json    who works on the run: host, process, token, start time
    config.json   the settings of the run
    log.txt       everything that the run printed
    heartbeat     touched every few seconds by the holder; carries phase, step and steps
    work-TOKEN/   files of the attempt with that token
    checkpoint/   states from which the next attempt goes on; gone when there is a result
    committed/    what the folder of the one attempt that counts is renamed to, then moved out of
    failed.json   reason and traceback of a failure
    record.json, history.jsonl, ...   the results
    done          written last: from here on the run is finished

`store.json` in the store itself says which version of this layout it has.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, TypeVar
from uuid import uuid4

LAYOUT, LAYOUT_FILE = 2, "store.json"
"""Version of the layout above. Stores of version 1 had neither `store.json` nor checkpoints; else they are the same."""

CLAIM, CONFIG, HEARTBEAT, FAILED, DONE = "claim.json", "config.json", "heartbeat", "failed.json", "done"
COMMITTED, COMMIT = "committed", "commit.json"
SUITE_KEY = b"suite"
"""Under which the metadata of a plan name its suite."""
PLAN_AXES = {"run_id", "task", "label", "sparsity", "seed", "order"}
"""Columns that plans of all versions have."""
RECORD_PARTS = {"run_id", "scores"}
"""What a record of any version tells."""
LOG, RECORD, WORK_PREFIX, CHECKPOINT = "log.txt", "record.json", "work-", "checkpoint"

# Many beats: a file server may show a new time stamp only when its attribute cache expires (60 s on NFS).
STALE_SECONDS, BEATS, WATCHED_BEATS = 120.0, 24, 2.5
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

T = TypeVar("T")


class State(StrEnum):
    """What the files of a run say about it."""

    MISSING = "missing"
    RUNNING = "running"
    STALE = "stale"
    FAILED = "failed"
    BLOCKED = "blocked"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """Where a run is: `step` of `steps` in `phase`, at `speed` steps a second if known."""

    phase: str
    step: int
    steps: int
    speed: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds to the last step at this speed."""
        return (self.steps - self.step) / self.speed if self.speed else None


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim; `ticks`, its start time, tells it from a later one of that number."""

    host: str
    namespace: str
    pid: int
    ticks: str
    token: str
    started: float

    @classmethod
    def read(cls, told: Any) -> "Holder | None":
        """What a file tells of a holder; None if that is not whole."""
        names = [field.name for field in fields(cls)]
        if not isinstance(told, dict) or not told.keys() >= set(names):
            return None
        return cls(**{name: told[name] for name in names})

    @property
    def gone(self) -> bool:
        """True if the process is known to have ended; a process of another machine is never known."""
        if (self.host, self.namespace) != this_machine():
            return False
        return process_ticks(self.pid) != self.ticks


@dataclass(frozen=True)
class Store:
    """A folder of run folders.

    Attributes:
        root: the folder.
        stale_after: seconds without a heartbeat after which a run's holder is presumed dead.
    """

    root: Path
    stale_after: float = STALE_SECONDS

    @property
    def beat(self) -> float:
        """Seconds between two signs of life."""
        return self.stale_after / BEATS

    @property
    def watch(self) -> float:
        """Seconds within which a living holder gives a sign of life, whatever the clocks say."""
        return max(WATCHED_BEATS * self.beat, 0.0)

    def check_layout(self) -> None:
        """Refuse a store that a later version has made.

        Raises:
            DataError: with the way out.
        """
        layout = (read_json(self.root / LAYOUT_FILE) or {}).get("layout", LAYOUT)
        if layout > LAYOUT:
            from gppdfd.errors import DataError  # late: stores are read where the library is not installed

            raise DataError(
                f"{self.root} has layout {layout}, made by a later version; this one reads up to {LAYOUT}: "
                "update it, or choose another folder with --store"
            )

    def folder(self, run_id: str) -> Path:
        return self.root / run_id

    def named(self, run: str) -> Path:
        """Folder of a run that is given by its id or as a path."""
        return self.folder(run) if self.folder(run).is_dir() else Path(run)

    def log(self, run_id: str) -> Path:
        return self.folder(run_id) / LOG

    def plan_path(self, suite: str, preset: str) -> Path:
        return self.root / "plans" / f"{suite}-{preset}.parquet"

    def plans(self, pattern: str) -> list[Path]:
        """Plans whose names, `SUITE-PRESET`, match a pattern."""
        return sorted((self.root / "plans").glob(f"{pattern}.parquet"))

    def presets(self, suite: str) -> list[str]:
        """Presets with which a suite was launched."""
        found = [path for path in self.plans("*") if path.stem.startswith(f"{suite}-")]
        return sorted(path.stem.removeprefix(f"{suite}-") for path in found if _planned_suite(path) == suite)

    def plan(self, suite: str, preset: str) -> list[dict[str, Any]]:
        """Rows of the plan that the last launch of a suite wrote; columns as in plan.py.

        Raises:
            FileNotFoundError: the suite was never launched into this store.
            DataError: the store is one of a later version, or the plan is damaged.
        """
        self.check_layout()
        rows = read_plan(path := self.plan_path(suite, preset))
        if rows is None:
            from gppdfd.errors import DataError  # late, as above

            raise DataError(f"{path} is damaged: launch {suite} with preset {preset} again, which writes it anew")
        return rows

    def state(self, run_id: str) -> State:
        """State of a run from its files; one directory listing in the common cases."""
        names = self._names(run_id)
        if DONE in names:
            return State.DONE
        if CLAIM in names:
            return self._claimed_state(run_id, names)
        return self._failed_state(run_id) if FAILED in names else State.MISSING

    def record(self, run_id: str) -> dict[str, Any] | None:
        """The record of a finished run, None for any other."""
        if self.state(run_id) is not State.DONE:
            return None
        return read_json(self.folder(run_id) / RECORD)

    def records(self, run_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Records of the finished ones among `run_ids`, in their order."""
        for run_id in run_ids:
            if (record := self.record(run_id)) is not None:
                yield record

    def damaged(self, run_id: str) -> bool:
        """Whether a run is done and its record cannot be read."""
        return (self.folder(run_id) / DONE).exists() and not is_whole(self.record(run_id))

    def sources(self, run_id: str) -> str | None:
        """Hash of the sources that made the record of a finished run; None if it tells none."""
        return (read_json(self.folder(run_id) / RECORD) or {}).get("sources")

    def failure(self, run_id: str) -> dict[str, Any]:
        """`kind`, `reason`, `traceback` of a failed run; empty if it did not fail."""
        return read_json(self.folder(run_id) / FAILED) or {}

    def reason(self, run_id: str) -> str:
        """Why a run failed, in one line; empty if it did not fail."""
        return str(self.failure(run_id).get("reason", ""))

    def seconds(self, run_id: str) -> float | None:
        """Measured duration of a finished run."""
        return (read_json(self.folder(run_id) / DONE) or {}).get("seconds")

    def progress(self, run_id: str) -> Progress | None:
        """What the holder of a run last told of its progress."""
        beat = read_json(self.folder(run_id) / HEARTBEAT) or {}
        if not {"phase", "step", "steps"} <= beat.keys():
            return None
        return Progress(beat["phase"], beat["step"], beat["steps"], beat.get("speed"))

    def holder(self, run_id: str) -> Holder | None:
        """Who holds the claim on a run, dead or alive."""
        return Holder.read(read_json(self.folder(run_id) / CLAIM))

    def alive(self, run_id: str) -> bool:
        """True while the claim's holder is not known to be gone and its last sign of life is recent."""
        holder = self.holder(run_id)
        # A sign of life that comes from the future says no more than an old one: a clock has jumped.
        return holder is not None and not holder.gone and abs(self._silence(run_id)) <= self.stale_after

    def _names(self, run_id: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.folder(run_id)))  # noqa: PTH208 (half the time of iterdir, for many runs)
        except FileNotFoundError:
            return frozenset()

    def _claimed_state(self, run_id: str, names: frozenset[str]) -> State:
        if self.alive(run_id):
            return State.RUNNING
        return self._failed_state(run_id) if FAILED in names else State.STALE

    def _failed_state(self, run_id: str) -> State:
        """Blocked only while the teacher that blocks is itself failed: its retry frees the student."""
        failure = self.failure(run_id)
        if failure.get("kind") != "blocked" or "teacher" not in failure:
            return State.FAILED
        return State.BLOCKED if self.state(str(failure["teacher"])) is State.FAILED else State.MISSING

    def _silence(self, run_id: str) -> float:
        """Seconds since the claim was made or its holder last gave a sign of life."""
        folder = self.folder(run_id)
        return time.time() - max(_modified(folder / CLAIM), _modified(folder / HEARTBEAT))


def is_whole(record: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether a run need not be done again for its record."""
    return record is not None and record.keys() >= RECORD_PARTS


def read_plan(path: Path) -> list[dict[str, Any]] | None:
    """Rows of a plan; None if it is damaged."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] | None = _undamaged(path, lambda file: pq.read_table(file).to_pylist())
    return rows if rows and rows[0].keys() >= PLAN_AXES else None


def _planned_suite(path: Path) -> str:
    """Whose plan this is: as it tells; of older plans, whose presets had no hyphen, and of damaged ones by the name."""
    import pyarrow.parquet as pq

    told = _undamaged(path, lambda file: (pq.read_schema(file).metadata or {}).get(SUITE_KEY, b"").decode())
    return told or path.stem.rpartition("-")[0]


def _undamaged(path: Path, read: Callable[[BinaryIO], T]) -> T | None:
    """What `read` makes of a parquet file; None if that is damaged."""
    import pyarrow as pa

    with path.open("rb") as file:
        try:
            return read(file)
        except (ValueError, pa.ArrowException):
            return None
        except OSError as error:
            # Errors of the system have a number, those of pyarrow about what a file holds have none.
            if error.errno is not None:
                raise
            return None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file or it is damaged, for a state must always be readable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def storage_trouble(error: BaseException) -> str | None:
    """What keeps the disk from being written (full, over quota, read-only), or None if `error` is about something else.

    Libraries wrap such errors in types of their own, so the system's words are looked for.
    """
    text = str(error)
    return next((words for words in map(os.strerror, STORAGE_ERRORS) if words in text), None)


def this_machine() -> tuple[str, str]:
    """Host name and process namespace: only where both agree do process numbers mean the same."""
    return socket.gethostname(), _process_namespace()


@cache
def _process_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def this_process() -> Holder:
    """This process, with a new token."""
    host, namespace = this_machine()
    pid = os.getpid()
    return Holder(host, namespace, pid, process_ticks(pid) or "", uuid4().hex, time.time())


def process_ticks(pid: int) -> str | None:
    """Start time of a process since boot; None if it does not run, "" where the system does not tell."""
    if not Path("/proc/self/stat").exists():
        return "" if _signalable(pid) else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie has ended, though its number stays taken until its parent asks for it.
    return None if fields[0] in "ZX" else fields[19]


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
