"""Live tracking of training, off by default: every history entry goes to the trackers that the environment names.

    GPPDFD_TRACK=tensorboard python -m suites.run ...     event files in STORE/tensorboard, a folder per run
    GPPDFD_TRACK=trackio python -m suites.run ...         trackio's own store (TRACKIO_DIR), project gppdfd

Both need the extra `tracking`. An environment variable, because it reaches the workers of every launcher and is no part
of a run: its id, its record and its bits stay the same.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gppdfd.errors import UsageError, unknown

VARIABLE = "GPPDFD_TRACK"
PROJECT = "gppdfd"
Entry = Mapping[str, Any]
Log = Callable[[Entry], None]


@contextmanager
def tracked(store: Path, run_id: str) -> Iterator[Log]:
    """What each history entry of a run is handed to while the run is under way; does nothing unless asked to.

    Raises:
        UsageError: no such tracker, or its package is not installed.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    with ExitStack() as stack:
        yield partial(_log_to, [_started(stack, name, store, run_id) for name in names])


def _log_to(logs: Sequence[Log], entry: Entry) -> None:
    for log in logs:
        log(entry)


def _started(stack: ExitStack, name: str, store: Path, run_id: str) -> Log:
    if name not in TRACKERS:
        raise unknown(f"tracker in {VARIABLE}", name, TRACKERS)
    try:
        return stack.enter_context(TRACKERS[name](store, run_id))
    except ImportError as error:
        raise UsageError(f"{VARIABLE}={name}: {error}; pip install 'gppdfd[tracking]'") from error


def numbers(entry: Entry, prefix: str = "") -> dict[str, float]:
    """The numbers of an entry by name, nested ones as `losses/task`; the step is their place, not one of them."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            found[prefix + name] = float(value)
    return found


@contextmanager
def _tensorboard(store: Path, run_id: str) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(store / "tensorboard" / run_id)) as writer:

        def log(entry: Entry) -> None:
            for name, value in numbers(entry).items():
                writer.add_scalar(name, value, entry["step"])
            writer.flush()

        yield log


@contextmanager
def _trackio(store: Path, run_id: str) -> Iterator[Log]:
    import trackio

    run = trackio.init(project=PROJECT, name=run_id, resume="allow", embed=False)
    try:
        yield lambda entry: run.log(numbers(entry), step=entry["step"])
    finally:
        run.finish()


TRACKERS = {"tensorboard": _tensorboard, "trackio": _trackio}
