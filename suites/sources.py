"""The hash of the sources that a result was made by: what a record carries and `suites.status` compares it with."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def sources_hash() -> str:
    """Hash of every source file that can change a result; imports none of them."""
    folders = [ROOT / "gppdfd", ROOT / "baselines"]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))] + [ROOT / "suites" / "execute.py"]
    return _sha256("".join(file.name + _sha256(file.read_text(encoding="utf-8")) for file in files))[:16]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
