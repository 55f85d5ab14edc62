"""Files that one process at a time can make: locks that hold on network file systems too."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from gppdfd.files import write_json

# What is done under a lock lasts milliseconds; a lock of this age was left by a process that died within it.
OLD_SECONDS = 60.0
WAIT_SECONDS = 0.05


def create(path: Path, content: dict[str, Any]) -> bool:
    """Create a JSON file with its whole content in one step; False if there is one already."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.new")
    write_json(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock while the block runs; False if somebody else has it."""
    if not create(path, {"pid": os.getpid()}):
        _remove_old(path)
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs, as soon as nobody else does."""
    while True:
        with lock_if_free(path) as locked:
            if locked:
                yield
                return
        time.sleep(WAIT_SECONDS)


def _remove_old(path: Path) -> None:
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > OLD_SECONDS:
            path.unlink()
