"""Structured pruning and knowledge distillation of pre-trained language encoders on one common interface.

The names below are what users call: `compress` prunes a model on rows of one's own, `extract` cuts a model down to the
units that are kept, `save` and `load_pruned` write and read it, `export` writes ONNX. After `import gppdfd`, the Auto
classes of transformers load pruned folders too.
"""

from importlib import import_module
from typing import Any

from gppdfd import auto

__version__ = "0.1.0"

_PLACES = {
    "LatencyTable": "gppdfd.latency",
    "Target": "gppdfd.budget",
    "compress": "gppdfd.compression",
    "export": "gppdfd.onnx",
    "extract": "gppdfd.extraction",
    "load_pruned": "gppdfd.pruned",
    "save": "gppdfd.pruned",
    "structure_of": "gppdfd.structure",
}
__all__ = [*_PLACES, "__version__"]

auto.register_when_imported()


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used: looking at results must not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
