"""Claims: how exactly one result of a run is committed, whoever else works on it.

A claim is made by creating `claim.json` under its final name in one step (a hard link fails if the name
exists, on network file systems too). A stale claim is replaced by the claim of the next one who wants the
run. The old holder may still be alive, only stopped or cut off, so its files never meet the new holder's:
every attempt works in a folder of its own, `work-TOKEN`. Whoever takes a run over renames the folders of
earlier attempts away; a commit renames the attempt's folder to `committed`, which fails if that folder is
gone or if there is a commit already. So one of the two wins.

Clocks may jump and differ between machines. So before a claim of a holder that may live is taken over, its
heartbeat is watched for longer than it ever pauses.
"""

import errno
import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from gppdfd.errors import DataError
from gppdfd.files import write_json
from suites.locks import create, lock, lock_if_free
from suites.pace import Pace
from suites.store import (
    CHECKPOINT,
    CLAIM,
    COMMIT,
    COMMITTED,
    CONFIG,
    DONE,
    FAILED,
    HEARTBEAT,
    LAYOUT,
    LAYOUT_FILE,
    LOG,
    WORK_PREFIX,
    Holder,
    Progress,
    State,
    Store,
    read_json,
    this_process,
)

TAKEOVER, FORGETTING, TRASH_PREFIX = "takeover", ".forgetting", ".old-"

FailureKind = Literal["error", "died", "blocked"]


class ClaimLostError(RuntimeError):
    """Somebody else took the run over: this attempt must end and leave no trace."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one run, until somebody takes it over."""

    store: Store
    run_id: str
    token: str

    @property
    def folder(self) -> Path:
        return self.store.folder(self.run_id)

    @property
    def work(self) -> Path:
        """Folder for the files of this attempt; `commit` moves them into the run folder."""
        return self.folder / f"{WORK_PREFIX}{self.token}"

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints: unlike `work` it outlives the attempt, until there is a result."""
        return self.folder / CHECKPOINT

    @property
    def held(self) -> bool:
        holder = self.store.holder(self.run_id)
        return holder is not None and holder.token == self.token

    def check(self) -> None:
        """Raise `ClaimLostError` unless the claim is still ours: before every write outside `work`."""
        if not self.held:
            raise ClaimLostError(f"{self.run_id}: taken over by another process")

    def start(self, config: dict[str, Any]) -> None:
        """Write the run's settings, forget an earlier failure, make the folder `work`."""
        self.check()
        write_json(self.folder / CONFIG, config)
        (self.folder / FAILED).unlink(missing_ok=True)
        self.work.mkdir(exist_ok=True)

    def beat(self, progress: Progress, number: int = 0) -> None:
        """Give a sign of life; its `number` makes it differ from the one before."""
        self.check()
        write_json(self.folder / HEARTBEAT, {"token": self.token, "number": number, **asdict(progress)})

    def commit(self, seconds: float) -> None:
        """Make the files of this attempt the result of the run.

        Args:
            seconds: duration of the run, for later estimates.

        Raises:
            ClaimLostError: somebody else holds the run, or has committed a result.
        """
        told = {"token": self.token, "seconds": seconds, "finished": time.time()}
        try:
            # Not by `write_json`, which would make the folder anew if it was taken away.
            (self.work / COMMIT).write_text(json.dumps(told), encoding="utf-8")
            self.check()
            self.work.rename(self.folder / COMMITTED)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise ClaimLostError(f"{self.run_id}: another process has the run or finished it") from None
        self.finish_commit()

    def finish_commit(self) -> None:
        """Move the committed attempt's files into the run folder, give the run back and write the done marker.

        Every step may be done twice, so that whoever claims the run next can finish a commit whose process died.
        The marker comes last, so that nothing is left to tidy up where it stands. `commit.json` stays in its
        folder: a folder that is not empty is what stops a second commit.
        """
        for path in sorted((self.folder / COMMITTED).iterdir()):
            if path.name != COMMIT:
                with suppress(FileNotFoundError):
                    path.replace(self.folder / path.name)
        (self.folder / FAILED).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.release()
        write_json(self.folder / DONE, read_json(self.folder / COMMITTED / COMMIT) or {})

    def fail(self, kind: FailureKind, reason: str, traceback: str = "", **more: str) -> None:
        """Mark the run as failed and give it back."""
        self.check()
        told = {"kind": kind, "reason": reason, "traceback": traceback, **more}
        write_json(self.folder / FAILED, {"schema": 1, **told, "time": time.time()})
        self.release()

    def release(self) -> None:
        """Give the run back and remove what this attempt left; does nothing to a claim of somebody else."""
        shutil.rmtree(self.work, ignore_errors=True)
        if (self.folder / DONE).exists():  # what this attempt may have written after it lost the run
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            (self.folder / HEARTBEAT).unlink(missing_ok=True)
        if self.held:
            (self.folder / HEARTBEAT).unlink(missing_ok=True)
            (self.folder / CLAIM).unlink(missing_ok=True)


def claim(store: Store, run_id: str) -> Claim | None:
    """Claim a run that nobody works on.

    Returns:
        The claim; None if the run is done, or another living process holds it.
    """
    wanted = this_process()
    store.folder(run_id).mkdir(parents=True, exist_ok=True)
    if (store.folder(run_id) / DONE).exists():
        return None
    if not create(store.folder(run_id) / CLAIM, asdict(wanted)) and not _take_over(store, run_id, wanted):
        return None
    made = Claim(store, run_id, wanted.token)
    _remove_attempts(made.folder)
    if (made.folder / COMMITTED).exists():
        made.finish_commit()
        return None
    return made


def mark_failed(store: Store, run_id: str, kind: FailureKind, reason: str, **more: str) -> bool:
    """Mark a run as failed on behalf of a worker that died; False if somebody else has it."""
    made = claim(store, run_id)
    if made is None:
        return False
    made.fail(kind, reason, **more)
    return True


def give_back(store: Store, run_id: str) -> None:
    """Remove the claim of a process that has ended, with what its attempt left."""
    holder = store.holder(run_id)
    if holder and holder.gone and (made := claim(store, run_id)):
        made.release()


def forget_failure(store: Store, run_id: str) -> None:
    """Make a failed run one that is missing; one that somebody does again, or has done again, is left alone."""
    if made := claim(store, run_id):
        (made.folder / FAILED).unlink(missing_ok=True)
        made.release()


def forget_result(store: Store, run_id: str, unwanted: Callable[[], bool]) -> None:
    """Make a done run one that is missing; only its log and its settings stay.

    Args:
        unwanted: whether the result is still one to be forgotten; another launch may have done the run again since.
    """
    with lock(store.root / FORGETTING):
        if store.state(run_id) is State.DONE and unwanted():
            _remove_result(store.folder(run_id))


def _remove_result(folder: Path) -> None:
    trash = folder / f"{TRASH_PREFIX}{uuid4().hex}"
    trash.mkdir()
    # The commit goes first, so that nobody finishes what is left of it, and the marker last, so that all is moved.
    for path in sorted(folder.iterdir(), key=lambda path: (path.name != COMMITTED, path.name == DONE)):
        if path.name not in (LOG, CONFIG, trash.name):
            path.rename(trash / path.name)
    shutil.rmtree(trash, ignore_errors=True)


def open_store(store: Store) -> None:
    """Get a store ready for a launch: it can be written and has this version's layout, into which an older one turns.

    Raises:
        DataError: it cannot be written, or a later version has made it.
    """
    store.check_layout()
    try:
        write_json(store.root / LAYOUT_FILE, {"layout": LAYOUT})
    except OSError as error:
        raise unwritable(store, error.strerror or str(error)) from error


def unwritable(store: Store, why: str) -> DataError:
    """The error that says how to go on when the disk is full or read-only."""
    return DataError(
        f"{store.root} cannot be written ({why}): make room or mend its permissions, then give the same command "
        "again; runs go on from their last checkpoints"
    )


class Heartbeat:
    """Signs of life from a thread, so that a long step does not look like death.

    Use as a context manager around the run; `report` may be called from any thread, at every step.
    """

    def __init__(self, claim: Claim, seconds: float | None = None) -> None:
        self.progress = Progress("start", 0, 0)
        self._claim, self._pace = claim, Pace()
        self._seconds = seconds or claim.store.beat
        self._beats = 0
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def report(self, progress: Progress) -> None:
        """Note the progress for the next beat.

        Raises:
            ClaimLostError: the run was taken over; going on would be wasted work.
        """
        if self._lost:
            raise ClaimLostError(f"{self._claim.run_id}: taken over by another process")
        self.progress = self._pace(progress)

    def __enter__(self) -> "Heartbeat":
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds) and not self._lost:
            self._beat()

    def _beat(self) -> None:
        # A disk that is full or out of reach for a moment does not matter: the next beat may pass.
        self._beats += 1
        with suppress(OSError):
            try:
                self._claim.beat(self.progress, self._beats)
            except ClaimLostError:
                self._lost = True


def _take_over(store: Store, run_id: str, wanted: Holder) -> bool:
    """Replace a claim whose holder is presumed dead."""
    if not _abandoned(store, run_id) or _stirs(store, run_id):
        return False
    with lock_if_free(store.folder(run_id) / TAKEOVER) as locked:
        # Asked again under the lock: a quicker process may have taken the run over since.
        if not locked or not _abandoned(store, run_id):
            return False
        write_json(store.folder(run_id) / CLAIM, asdict(wanted))
    return True


def _abandoned(store: Store, run_id: str) -> bool:
    return (store.folder(run_id) / CLAIM).exists() and not store.alive(run_id)


def _stirs(store: Store, run_id: str) -> bool:
    """Whether a holder that is not known to be gone gives a sign of life while it is watched."""
    holder = store.holder(run_id)
    if holder is None or holder.gone:
        return False
    before = read_json(store.folder(run_id) / HEARTBEAT)
    time.sleep(store.watch)
    return read_json(store.folder(run_id) / HEARTBEAT) != before


def _remove_attempts(folder: Path) -> None:
    for path in folder.glob(f"{WORK_PREFIX}*"):
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"{TRASH_PREFIX}{path.name}"))
    for path in folder.glob(f"{TRASH_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (folder / CHECKPOINT).glob("*.tmp"):  # half a checkpoint of a process that was killed
        path.unlink(missing_ok=True)
