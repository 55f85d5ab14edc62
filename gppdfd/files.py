"""Atomic writes and content hashes: a file is either the old one or the whole new one."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from gppdfd.errors import DataError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
"""Patterns of the files that hold a model's weights, or say which file holds which."""


def missing_model_files(folder: Path) -> list[str]:
    """What a folder lacks to be that of a saved model, whose weights may lie in several files."""
    wanted = (("config.json",), ("model.safetensors", "model.safetensors.index.json"))
    return [names[0] for names in wanted if not any((folder / name).is_file() for name in names)]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Atomic `Path.write_text` in UTF-8."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON file; NaN is refused because other readers do not know it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_model(folder: Path, write: Callable[[Path], object], replaced: Iterable[str] = WEIGHTS) -> None:
    """Call `write` with the path of a temporary folder, then put what it wrote in the place of the model in `folder`.

    A folder that is there is kept, as it may be a mount point, a link or the working directory: its files are replaced
    one by one, config.json last. A failing `write` changes nothing, and nothing that it finished is ever deleted.

    Args:
        replaced: patterns of files and folders of the old model, which go if the new one has none of their name.

    Raises:
        DataError: the files cannot be moved into `folder`; the message says where they lie.
    """
    folder = folder.resolve()
    temporary = home_of(folder) / f".{folder.name}.{uuid4().hex[:8]}.tmp"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        _move_in(temporary, folder, replaced)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror}); the new model lies in {temporary}, apart from files that "
            f"are in {folder} already: move them together"
        ) from error


def home_of(folder: Path) -> Path:
    """Where files are written that are to become a folder's: in it, which is surely on its disk, or else beside it."""
    folder = folder.resolve()
    return folder if folder.is_dir() else folder.parent


def _move_in(temporary: Path, folder: Path, replaced: Iterable[str]) -> None:
    if not folder.exists():
        temporary.replace(folder)
        return
    *first, last = sorted((path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()), key=_turn)
    old = {path for pattern in replaced for path in folder.glob(pattern)}
    for name in first:
        _move(temporary / name, folder / name)
    for path in old - {folder / name.parts[0] for name in (*first, last)}:
        _remove(path)
    _move(temporary / last, folder / last)
    shutil.rmtree(temporary, ignore_errors=True)


def _turn(name: Path) -> tuple[bool, bool]:
    """Weights come first and the config last, as without it nothing reads the folder as a model."""
    return name.name == "config.json", name.suffix != ".safetensors"


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces. What run ids are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def hash_text(text: str) -> str:
    """sha256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 over names and contents of files, independent of the folder they lie in and of their order."""
    entries = sorted((path.name, _digest(path)) for path in paths)
    return hash_text("".join(f"{name}:{digest};" for name, digest in entries))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
