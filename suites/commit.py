"""Which commit the sources in use are from, whether they lie in a checkout or in a copy of one."""

import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import gppdfd
from suites.sources import PACKAGES
from suites.store import read_json

COPIED = "commit.json"
"""File beside a copy of the packages that says which commit it was made from."""


class Commit(NamedTuple):
    """A commit, and whether the sources were changed since; None where that is not known."""

    commit: str | None = None
    dirty: bool | None = None


@cache
def git_state() -> Commit:
    """The commit of the packages that this process uses."""
    root = Path(gppdfd.__file__).parents[1]
    if copied := read_json(root / COPIED):
        return Commit(**copied)
    if not (root / ".git").exists():
        return Commit()
    changed = bool(_git(root, "status", "--porcelain", "--", *PACKAGES))
    return Commit(_git(root, "rev-parse", "HEAD") or None, changed)


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
