"""The two kinds of failure a user can meet, and how commands turn them into exit codes."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """The request itself is wrong: an unknown name, a bad option, an impossible combination (exit code 2)."""


class DataError(RuntimeError):
    """A file, folder or model is not what it should be (exit code 1)."""


def unknown(what: str, given: str, known: Iterable[str]) -> UsageError:
    """Error for an unknown name: says the near names first, then the whole list."""
    names = sorted(known)
    near = get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UsageError(f"unknown {what} {given!r}.{hint} Choose from: {', '.join(names)}")
