"""The hash of the sources that a result was made by: what a record carries and `suites.status` compares it with."""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

PROJECT, GROUP = "gppdfd", "gppdfd.methods"
PACKAGES = (PROJECT, "baselines", "suites")
ROOT = Path(__file__).parents[1]


@cache
def sources_hash() -> str:
    """Hash of every source file that can change a result, methods of other packages included; imports none of them."""
    places = [ROOT / "gppdfd", ROOT / "baselines", ROOT / "suites" / "execute.py", *method_packages()]
    files = (file for place in places for file in _sources(place))
    return _sha256("".join(file.name + _sha256(file.read_bytes()) for file in files).encode())[:16]


def method_packages() -> list[Path]:
    """Where the packages outside the project lie that register methods: their folders, or files of single modules."""
    names = {point.module.partition(".")[0] for point in entry_points(group=GROUP)}
    return [place for name in sorted(names - set(PACKAGES)) if (place := place_of(name))]


def place_of(module: str) -> Path | None:
    """Folder of a package, or file of a module; None if there is none."""
    spec = find_spec(module)
    if spec is None:
        return None
    # A package without `__init__.py` has a folder and no file.
    folders = (Path(folder) for folder in spec.submodule_search_locations or ())
    file = Path(spec.origin) if spec.origin else None
    return next((folder for folder in folders if folder.is_dir()), file)


def _sources(place: Path) -> Iterator[Path]:
    yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
