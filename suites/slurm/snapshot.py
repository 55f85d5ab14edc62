"""A copy of the sources that a launch was made with: queued runs do not change when the repository does."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, distribution
from pathlib import Path
from sysconfig import get_path
from uuid import uuid4

from gppdfd.files import canonical_json, hash_files, hash_text, write_json
from suites.commit import COPIED, git_state
from suites.sources import GROUP, PACKAGES, PROJECT, method_packages, place_of

_IGNORED = ("__pycache__", "*.pyc")


def take_snapshot(folder: Path) -> Path:
    """Copy the project's packages and those of registered methods, unless the same copy is there already.

    Packages that are installed for good (in `site-packages`) are left where they are.

    Returns:
        Folder within `folder`, named by the content, to be first in PYTHONPATH.
    """
    sources = sorted(_sources(), key=lambda path: path.name)
    copy = folder / _content(sources)
    if not copy.exists():
        _copy(sources, copy)
    return copy


def _sources() -> Iterator[Path]:
    installed = Path(get_path("purelib"))
    yield from filter(None, map(place_of, PACKAGES))
    yield from (place for place in method_packages() if installed not in place.parents)


def _content(sources: list[Path]) -> str:
    """Name of a copy: the hash of all files and of the commit that they are said to be from."""
    files = [[path.name, hash_files(_files(path))] for path in sources]
    return hash_text(canonical_json([files, git_state()]))[:16]


def _files(path: Path) -> Iterator[Path]:
    found = path.rglob("*") if path.is_dir() else [path]
    return (file for file in found if file.is_file() and file.suffix != ".pyc")


def _copy(sources: list[Path], copy: Path) -> None:
    temporary = copy.with_name(f".{copy.name}.{uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    for path in sources:
        if path.is_dir():
            shutil.copytree(path, temporary / path.name, ignore=shutil.ignore_patterns(*_IGNORED))
        else:
            shutil.copy2(path, temporary)
    _write_metadata(distribution(PROJECT), temporary)
    write_json(temporary / COPIED, git_state()._asdict())
    # Another launch may have been quicker; its copy is the same.
    with suppress(OSError):
        temporary.rename(copy)
    shutil.rmtree(temporary, ignore_errors=True)


def _write_metadata(project: Distribution, folder: Path) -> None:
    """The project's entry points, so that the copy finds its methods as the repository does."""
    info = folder / f"{PROJECT}-{project.version}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: {project.version}\n")
    points = (f"{point.name} = {point.value}\n" for point in project.entry_points if point.group == GROUP)
    info.joinpath("entry_points.txt").write_text(f"[{GROUP}]\n{''.join(points)}")
