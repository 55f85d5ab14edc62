"""The units of a model: how many there are, where they live in its weights, what they compute.

Everything that knows a module name is in the adapter of that architecture; the rest of the library sees `Structure`,
`Site`, `Layer` and dictionaries of tensors indexed by kind.
"""

from functools import cache

from torch import nn
from transformers import PretrainedConfig

from gppdfd.errors import UsageError
from gppdfd.structure.base import KINDS, WEIGHT, Adapter, Keep, Layer, Masks, Place, Site, Structure
from gppdfd.structure.bert import BertAdapter, ElectraAdapter, RobertaAdapter
from gppdfd.structure.distilbert import DistilBertAdapter
from gppdfd.structure.gpt2 import GPT2Adapter
from gppdfd.structure.modernbert import ModernBertAdapter

__all__ = [
    "ADAPTERS",
    "KINDS",
    "PREFIX",
    "WEIGHT",
    "Adapter",
    "Keep",
    "Layer",
    "Masks",
    "Place",
    "Site",
    "Structure",
    "adapter_for",
    "structure_of",
]

ADAPTERS: tuple[type[Adapter], ...] = (
    BertAdapter,
    RobertaAdapter,
    ElectraAdapter,
    DistilBertAdapter,
    GPT2Adapter,
    ModernBertAdapter,
)

PREFIX = "pruned-"
"""Before the `model_type` of an extracted model."""


@cache
def _adapters() -> dict[str, Adapter]:
    return {model_type: adapter for adapter in (cls() for cls in ADAPTERS) for model_type in adapter.model_types}


def adapter_for(model: nn.Module | PretrainedConfig) -> Adapter:
    """Adapter of a model, dense or extracted, or of its config; `UsageError` if no adapter knows the architecture."""
    config = model if isinstance(model, PretrainedConfig) else getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", None)).removeprefix(PREFIX)
    if model_type not in _adapters():
        name = getattr(config, "name_or_path", "") or type(model).__name__
        raise UsageError(
            f"model {name!r} is of type {model_type!r}, which is no supported encoder. "
            f"Choose from: {', '.join(sorted(_adapters()))}"
        )
    return _adapters()[model_type]


def structure_of(model: nn.Module) -> Structure:
    """Units of a dense model; of an extracted one, those it had before."""
    return adapter_for(model).structure(model.config)
