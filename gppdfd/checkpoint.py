"""State of a stopped run on disk: nested plain data with tensors, in one safetensors file.

A file's name ends with the hash of its content, so a damaged one is known and the one before it taken; two are kept.
Nothing is pickled: a file that somebody else has written can be read without danger.
"""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gppdfd.files import write_atomically

State = dict[str, Any]
"""Dictionaries, lists, tuples, tensors, texts, numbers, None."""

KEPT = 2
TREE = "tree"

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, step: int, state: State) -> Path:
    """Write the state after `step` into `folder`, whole or not at all, and remove all but the last two."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encoded(state, tensors))
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"step{step:08d}.tmp"
    write_atomically(written, lambda path: save_file(tensors, path, metadata={TREE: tree}))
    final = folder / f"step{step:08d}-{_hash(written)}.safetensors"
    written.replace(final)
    for old in _files(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return final


def load_checkpoint(folder: Path) -> State | None:
    """The last undamaged state in `folder`; None if there is none."""
    for path in _files(folder):
        if _hash(path) != path.stem.rpartition("-")[2]:
            logger.warning("checkpoint %s is damaged; the one before it is taken", path)
            continue
        with safe_open(path, "pt") as file:
            tree = json.loads(file.metadata()[TREE])
            state: State = _decoded(tree, file)
            return state
    return None


def _files(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    found = [path for path in folder.glob("step*.safetensors") if re.fullmatch(r"step\d{8,}-\w+", path.stem)]
    return sorted(found, key=lambda path: path.stem, reverse=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _encoded(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON, its tensors collected; containers are marked, so that any text stays a text."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key, tensors), _encoded(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encoded(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a checkpoint")


def _decoded(value: Any, file: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((what, content),) = value.items()
    if what == "tensor":
        return file.get_tensor(content)
    if what == "dict":
        return {_decoded(key, file): _decoded(item, file) for key, item in content}
    items = [_decoded(item, file) for item in content]
    return tuple(items) if what == "tuple" else items
