"""Launches announce themselves in the store, so that another terminal, or another machine, can stop them.

`launches/TOKEN.json` says who launched what; a launch touches it while it lives. A request to stop is a file beside it,
`TOKEN.stop`, which the launch looks for: so nothing but the store is needed, and a launcher for clusters can do on a
request whatever stopping means there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gppdfd.files import write_json
from suites.store import Holder, Store, read_json, this_process

FOLDER = "launches"
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Announced:
    """A launch as others see it."""

    path: Path
    suite: str
    preset: str
    launcher: str
    holder: Holder

    @property
    def title(self) -> str:
        """For messages: `glue_main, preset base (local, process 4711 on node3)`."""
        where = f"{self.launcher}, process {self.holder.pid} on {self.holder.host}"
        return f"{self.suite}, preset {self.preset} ({where})"

    @property
    def over(self) -> bool:
        """Whether the launch has ended."""
        return self.holder.gone or not self.path.exists()

    @property
    def request(self) -> Path:
        return self.path.with_suffix(".stop")

    @property
    def requests(self) -> int:
        """How often somebody asked it to stop."""
        return int((read_json(self.request) or {}).get("times", 0))

    def announce(self) -> None:
        """Let others see it."""
        told = {"suite": self.suite, "preset": self.preset, "launcher": self.launcher, "holder": asdict(self.holder)}
        write_json(self.path, told)

    def ask_to_stop(self) -> None:
        """Ask once more: the first time runs finish their step and are given back, then they stop at once."""
        write_json(self.request, {"times": self.requests + 1})


def interrupt() -> None:
    """Do to this process what Ctrl-C does, also where the terminal's signal is ignored."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def announced(
    store: Store,
    suite: str,
    preset: str,
    launcher: str = "local",
    on_stop: Callable[[], None] = interrupt,
    seconds: float = LOOK_SECONDS,
) -> Iterator[Announced]:
    """Let others see and stop a launch while the block runs.

    Args:
        launcher: name of what does the runs, for messages.
        on_stop: called in a thread of its own for every request to stop.
        seconds: time between two looks for requests.
    """
    # One that is only silent may have been asleep with its machine, and wake up.
    for gone in [launch for launch in _announced(store) if launch.holder.gone]:
        _remove(gone)
    holder, ended = this_process(), threading.Event()
    launch = Announced(store.root / FOLDER / f"{holder.token}.json", suite, preset, launcher, holder)
    launch.announce()
    thread = threading.Thread(target=_watch, args=(launch, on_stop, seconds, ended), name="stop requests", daemon=True)
    thread.start()
    try:
        yield launch
    finally:
        ended.set()
        thread.join()
        _remove(launch)


def launches(store: Store, suite: str) -> list[Announced]:
    """Launches of a suite that are under way."""
    return [launch for launch in _announced(store) if launch.suite == suite and not _dead(store, launch)]


def _announced(store: Store) -> list[Announced]:
    return [launch for path in sorted((store.root / FOLDER).glob("*.json")) if (launch := _read(path))]


def _dead(store: Store, launch: Announced) -> bool:
    return launch.over or _silence(launch.path) > store.stale_after


def _watch(launch: Announced, on_stop: Callable[[], None], seconds: float, ended: threading.Event) -> None:
    heard = 0
    while not ended.wait(seconds):
        # A store that is out of reach for a moment is there again at the next look.
        with suppress(OSError):
            _give_sign(launch)
            while heard < launch.requests:
                heard += 1
                on_stop()


def _give_sign(launch: Announced) -> None:
    try:
        os.utime(launch.path)
    except FileNotFoundError:  # somebody took it for dead
        launch.announce()


def _read(path: Path) -> Announced | None:
    told = read_json(path) or {}
    holder = Holder.read(told.get("holder"))
    if holder is None or not {"suite", "preset", "launcher"} <= told.keys():
        return None
    return Announced(path, told["suite"], told["preset"], told["launcher"], holder)


def _remove(launch: Announced) -> None:
    for path in (launch.path, launch.request):
        path.unlink(missing_ok=True)


def _silence(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
