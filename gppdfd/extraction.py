"""From a keep to a physically smaller dense model, and that model on disk.

Extraction slices the linear maps: rows of query, key, value and the columns of the attention output that belong to kept
heads; rows of the FFN up projection and columns of the down projection of kept dims. A sublayer that lost everything
keeps its output bias and LayerNorm, as the masked model does. The config of an extracted model says which heads and how
many dims every layer has, so a folder made by `save` can be built again by `load`.
"""

import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from gppdfd.errors import DataError
from gppdfd.masks import masked
from gppdfd.quiet import quiet
from gppdfd.structure import Keep, Structure, adapter_for, structure_of
from gppdfd.structure.base import unit_rows
from gppdfd.tasks.base import Batch
from gppdfd.views import Observed

CONFIG_FIELD = "pruned_structure"
FORMAT = 1

Slices = dict[str, tuple[int, torch.Tensor]]
"""By parameter name: the dimension that shrinks, and the indices along it that stay."""


def extract(model: PreTrainedModel, keep: Keep) -> PreTrainedModel:
    """A smaller dense copy of `model`, whose logits equal those of `model` under the masks `keep`.

    Args:
        model: dense encoder without hooks; it is not changed.
        keep: bool tensors by kind, `head` [layers, heads] and `ffn` [layers, intermediate].
    """
    small = deepcopy(model)
    _shrink(small, keep)
    return small


def parameter_slices(model: nn.Module, keep: Keep) -> Slices:
    """Which part of each parameter of the dense `model` stays under `keep`; those that stay whole are left out.

    Optimiser states are sliced by the same table, so that training can go on in the small model.
    """
    names = {module: name for name, module in model.named_modules()}
    slices: Slices = {}
    for linear, dim, indices in _cuts(model, keep):
        slices[f"{names[linear]}.weight"] = (dim, indices)
        if dim == 0 and linear.bias is not None:
            slices[f"{names[linear]}.bias"] = (0, indices)
    return slices


def disagreement(model: PreTrainedModel, small: PreTrainedModel, keep: Keep, batches: Sequence[Batch]) -> float:
    """max|a - b| / max(1, max|b|) over the logits a of the extracted `small` and b of `model` under `keep`.

    Both run in evaluation mode, outside autocast.
    """
    masks = {kind: units.to(next(model.parameters()).dtype) for kind, units in keep.items()}
    with masked(model, masks):
        expected = [_logits(model, batch) for batch in batches]
    found = [_logits(small, batch) for batch in batches]
    scale = max(1.0, max(float(logits.abs().max()) for logits in expected))
    return max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) / scale


def save(model: PreTrainedModel, folder: Path, tokenizer: Any = None) -> None:
    """Write `model` (safetensors, config with its structure) into `folder`, whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    try:
        with quiet():
            model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path) -> PreTrainedModel:
    """Sequence classifier written by `save`, pruned or dense, in evaluation mode.

    Raises:
        DataError: a file is missing or damaged, or weights and structure do not fit together.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} is no saved model: {name} is missing")
    try:
        config = AutoConfig.from_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be read as a model: {error}") from error
    model = AutoModelForSequenceClassification.from_config(config)
    description = getattr(config, CONFIG_FIELD, None)
    if description is not None:
        _shrink(model, _keep_of(description, structure_of(model), folder))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{folder}: the weights do not fit the structure in config.json: {error}") from error
    return model.eval()


def _shrink(model: PreTrainedModel, keep: Keep) -> None:
    for linear, dim, indices in list(_cuts(model, keep)):
        _slice_linear(linear, dim, indices)
    model.config.update({CONFIG_FIELD: _describe(keep)})


def _cuts(model: nn.Module, keep: Keep) -> Iterator[tuple[nn.Linear, int, torch.Tensor]]:
    """Linear maps that shrink, with the dimension of their weight (0 rows, 1 columns) and the indices that stay."""
    size = structure_of(model).head_size
    for index, layer in enumerate(adapter_for(model).layers(model)):
        context, dims = unit_rows(keep["head"][index], size), unit_rows(keep["ffn"][index], 1)
        for linear in (layer.query, layer.key, layer.value):
            yield linear, 0, context
        yield layer.attention_output, 1, context
        yield layer.ffn_up, 0, dims
        yield layer.ffn_down, 1, dims


def _slice_linear(linear: nn.Linear, dim: int, indices: torch.Tensor) -> None:
    indices = indices.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(dim, indices), linear.weight.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
    if dim == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach().index_select(0, indices), linear.bias.requires_grad)


def _describe(keep: Keep) -> dict[str, Any]:
    """Structure for config.json: indices of the kept heads and number of FFN dims, per layer."""
    heads = [units.nonzero().flatten().tolist() for units in keep["head"]]
    return {"format": FORMAT, "head": heads, "ffn": keep["ffn"].sum(dim=1).tolist()}


def _keep_of(description: dict[str, Any], structure: Structure, folder: Path) -> Keep:
    """Keep of the shapes that a description names; which FFN dims they were does not matter for loading."""
    if description.get("format") != FORMAT:
        raise DataError(
            f"{folder}: {CONFIG_FIELD} has format {description.get('format')!r}; this version reads {FORMAT}"
        )
    keep = {kind: torch.zeros(structure.shape(kind), dtype=torch.bool) for kind in ("head", "ffn")}
    try:
        for layer, (heads, dims) in enumerate(zip(description["head"], description["ffn"], strict=True)):
            keep["head"][layer, heads] = True
            keep["ffn"][layer, :dims] = True
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: {CONFIG_FIELD} in config.json does not fit the model: {error}") from error
    return keep


@torch.no_grad()
def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    training = model.training
    try:
        return Observed(model.eval())(batch).logits
    finally:
        model.train(training)
