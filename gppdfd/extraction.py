"""From a keep to a physically smaller dense model that computes the same.

A sublayer that lost all its inner units keeps its output bias and LayerNorm, as under masks; a removed one is skipped
with its LayerNorm. The config of the small model says what is left, so that `gppdfd.pruned` can build it again.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel

from gppdfd.errors import UsageError
from gppdfd.factorise import embedding_rank, untie
from gppdfd.masks import masked
from gppdfd.pruned import PrunedModel, dense_classes, pruned_class, pruned_config
from gppdfd.shrink import shrink
from gppdfd.structure import WEIGHT, Keep, Masks, adapter_for
from gppdfd.tasks.base import Batch
from gppdfd.views import Observed


def extract(model: PreTrainedModel, keep: Keep, masks: Masks | None = None) -> PreTrainedModel:
    """A smaller dense copy of `model`, whose outputs equal those of `model` under the masks `keep`.

    Never more than the dense and the small weights are in memory.

    Args:
        model: dense encoder without hooks; it is not changed.
        keep: bool tensors by kind, in the shapes of `Structure.shape`; a missing kind is kept whole.
            With `weight` among them the copy is no smaller: the weights that go are zeros.
        masks: soft masks that were in the forward pass; folded into the weights, so that the small model computes what
            the masked one did. A unit whose mask is exactly 0 must not be in `keep`.

    Raises:
        UsageError: `model` is extracted already, or no adapter knows its class.
    """
    if WEIGHT in keep:
        return _zeroed(model, keep[WEIGHT])
    _check(model, keep)
    config = pruned_config(model.config, keep, embedding_rank(model))
    shared = {id(parameter): parameter for parameter in model.parameters()}
    small = deepcopy(model, {**shared, id(model.config): config})
    small.__class__ = pruned_class(type(model))  # type: ignore[arg-type]
    shrink(small, keep, masks)
    _own_parameters(small, shared)
    _forget_broken_ties(small)
    return small


def disagreement(
    model: PreTrainedModel,
    small: PreTrainedModel,
    keep: Keep,
    batches: Sequence[Batch],
    masks: Masks | None = None,
) -> float:
    """max|a - b| / max(1, max|b|) over the logits a of the extracted `small` and b of `model` under `masks` or `keep`.

    Both run in evaluation mode, outside autocast.
    """
    like = next(model.parameters())  # a keep is on the CPU
    with masked(model, masks or {kind: units.to(like) for kind, units in keep.items()}):
        expected = [_logits(model, batch) for batch in batches]
    found = [_logits(small, batch) for batch in batches]
    scale = max(1.0, max(float(logits.abs().max()) for logits in expected))
    return max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) / scale


def _zeroed(model: PreTrainedModel, kept: torch.Tensor) -> PreTrainedModel:
    sparse = deepcopy(model)
    weights = [place.module.weight for place in adapter_for(sparse).maps(sparse)]
    parts = kept.split([weight.numel() for weight in weights])
    with torch.no_grad():
        for weight, part in zip(weights, parts, strict=True):
            weight.mul_(part.view_as(weight).to(weight))
    return sparse


def _check(model: PreTrainedModel, keep: Keep) -> None:
    if isinstance(model, PrunedModel):
        raise UsageError("this model is extracted already: extract from the dense one")
    if type(model) not in dense_classes(model.config.model_type):
        known = ", ".join(cls.__name__ for cls in dense_classes(model.config.model_type))
        raise UsageError(f"a {type(model).__name__} cannot be extracted. Choose from: {known}")


def _own_parameters(small: nn.Module, shared: dict[int, nn.Parameter]) -> None:
    """Copies of the parameters that are still those of the dense model; ties among them stay."""
    copies: dict[int, nn.Parameter] = {}
    for module in small.modules():
        for name, parameter in module.named_parameters(recurse=False):
            key = id(parameter)
            if key in shared:
                if key not in copies:
                    copies[key] = _copy(parameter)
                setattr(module, name, copies[key])


def _forget_broken_ties(small: PreTrainedModel) -> None:
    """Where the input embedding lost dims that the output embedding still has, the two are tied no longer."""
    parameters = dict(small.named_parameters(remove_duplicate=False))
    if any(parameters[target] is not parameters[source] for target, source in small.all_tied_weights_keys.items()):
        untie(small)


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


@torch.no_grad()
def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    training = model.training
    try:
        return Observed(model.eval())(batch).logits
    finally:
        model.train(training)
