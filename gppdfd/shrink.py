"""Cutting the modules of a model in place, by the table of its adapter.

Soft masks are folded while cutting: queries by `qk`, values by `head` and `vo`, the down projection's columns by `ffn`,
a sublayer's output (bias included) by its layer mask. The hidden mask goes into everything that writes to the residual
stream and once into every LayerNorm; what reads the stream is only sliced. (CoFi's released code folds it into the
readers, which changes the model.)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from gppdfd.padding import Padding, filled, pad_inputs, pad_outputs, padded_size, without_inputs, without_outputs
from gppdfd.structure import Keep, Masks, Place, Structure, adapter_for, structure_of
from gppdfd.structure.heads import heads_of


@dataclass(frozen=True)
class Cut:
    """What stays of one dimension of a parameter: indices (None: all) and factors along it (None: 1)."""

    indices: torch.Tensor | None = None
    factor: torch.Tensor | None = None

    def apply(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """Slice and scale `values` along `dim`."""
        if self.factor is not None:
            shape = [-1 if axis == dim else 1 for axis in range(values.ndim)]
            values = values * self.factor.to(values).view(shape)
        if self.indices is None:
            return values
        return values.index_select(dim, self.indices.to(values.device))


WHOLE = Cut()
Cuts = dict[int, Cut]
"""By dimension of a parameter."""


def parameter_cuts(model: nn.Module, keep: Keep, masks: Masks | None = None) -> dict[str, Cuts]:
    """How each parameter of the dense `model` is cut under `keep`; those that stay whole are left out.

    Optimiser states are sliced by the same table, so that training can go on in the small model.
    """
    structure = structure_of(model)
    settled = structure.settled(keep)
    found: dict[str, Cuts] = {}
    for place in adapter_for(model).places(model):
        for name, cuts in _place_cuts(structure, settled, masks or {}, place).items():
            found[f"{place.path}.{name}"] = cuts
    return found


def shrink(model: PreTrainedModel, keep: Keep, masks: Masks | None = None) -> None:
    """Cut `model` down to `keep` in place, with soft `masks` folded into its weights.

    Parameters that were shared stay shared where they are cut alike.
    """
    adapter, structure = adapter_for(model), structure_of(model)
    settled = structure.settled(keep)
    modules = {place.path: place for place in adapter.places(model)}
    done: dict[tuple, nn.Parameter] = {}
    for name, cuts in parameter_cuts(model, keep, masks).items():
        path, _, attribute = name.rpartition(".")
        _replace(modules[path].module, attribute, cuts, done)
    for place in modules.values():
        _set_sizes(place)
    for index, layer in enumerate(adapter.layers(model)):
        if settled["mha_layer"][index]:
            heads = heads_of(structure, settled, index)
            if heads.whole:
                adapter.set_heads(layer.block, len(heads))
            else:
                adapter.set_layout(layer.block, heads)
        else:
            adapter.remove_attention(layer.block)
        if not settled["ffn_layer"][index]:
            adapter.remove_ffn(layer.block)
        adapter.add_in_place(layer.block)
    for place in modules.values():
        _pad_ffn(place, structure.intermediate)


def _pad_ffn(place: Place, dense: int) -> None:
    """Make an FFN of an odd width compute at the next multiple of 8, and one without dims not at all."""
    module, outputs = place.module, place.site.outputs
    if place.site.inputs == "activation":
        width = module.weight.shape[1 - place.output_dim]
        if not width:
            without_inputs(module)
        elif padded_size(width, dense) != width:
            pad_inputs(module, Padding(filled(range(width), padded_size(width, dense), width), width))
    if outputs in ("up", "gated_up"):
        rows = module.weight.shape[place.output_dim]
        width = rows // (2 if outputs == "gated_up" else 1)
        if not width:
            without_outputs(module)
        elif padded_size(width, dense) != width:
            blocks = [range(start, start + width) for start in range(0, rows, width)]
            places = [row for block in blocks for row in filled(block, padded_size(width, dense), rows)]
            pad_outputs(module, Padding(places, rows))


def _place_cuts(structure: Structure, settled: Keep, masks: Masks, place: Place) -> dict[str, Cuts]:
    outputs = _output_cut(structure, settled, masks, place)
    inputs = _input_cut(settled, masks, place)
    cuts = {"weight": {place.output_dim: outputs, 1 - place.output_dim: inputs}}
    if getattr(place.module, "bias", None) is not None:
        cuts["bias"] = {0: outputs}
    needed = {name: {dim: cut for dim, cut in dims.items() if cut is not WHOLE} for name, dims in cuts.items()}
    return {name: dims for name, dims in needed.items() if dims}


def _output_cut(structure: Structure, settled: Keep, masks: Masks, place: Place) -> Cut:
    layer, outputs = place.layer, place.site.outputs
    if outputs in ("query", "key"):
        return _query_cut(structure, settled, masks if outputs == "query" else {}, layer)
    if outputs == "value":
        return _value_cut(settled, masks, layer)
    if outputs == "query_key_value":
        query = _query_cut(structure, settled, masks, layer)
        key, value = _query_cut(structure, settled, {}, layer), _value_cut(settled, masks, layer)
        return _joined([query, key, value], structure.heads * structure.head_size)
    if outputs in ("up", "gated_up"):
        up = _cut(settled["ffn"][layer])
        return up if outputs == "up" else _joined([up, up], structure.intermediate)
    if outputs is None:
        return WHOLE
    return _cut(settled["hidden"], _written(masks, outputs, layer))


def _input_cut(settled: Keep, masks: Masks, place: Place) -> Cut:
    if place.site.inputs == "context":
        return _cut(settled["vo"][place.layer].flatten())
    if place.site.inputs == "activation":
        return _cut(settled["ffn"][place.layer], masks["ffn"][place.layer] if "ffn" in masks else None)
    return WHOLE if place.site.inputs is None else _cut(settled["hidden"])


def _query_cut(structure: Structure, settled: Keep, masks: Masks, layer: Any) -> Cut:
    rows = settled["qk"][layer].repeat(1, structure.pair).flatten()
    return _cut(rows, masks["qk"][layer].repeat(1, structure.pair).flatten() if "qk" in masks else None)


def _value_cut(settled: Keep, masks: Masks, layer: Any) -> Cut:
    kept = settled["vo"][layer]
    factors = [masks["head"][layer][:, None]] if "head" in masks else []
    factors += [masks["vo"][layer]] if "vo" in masks else []
    return _cut(kept.flatten(), _product(factors, kept.shape))


def _written(masks: Masks, outputs: str, layer: Any) -> torch.Tensor | None:
    """Factors of hidden dims where they are written: the hidden mask, times the sublayer's own."""
    sublayer = {"attention": "mha_layer", "ffn": "ffn_layer"}.get(outputs, "")
    factors = [masks["hidden"]] if "hidden" in masks else []
    factors += [masks[sublayer][layer]] if sublayer in masks else []
    return _product(factors, masks["hidden"].shape if "hidden" in masks else (1,))


def _product(factors: list[torch.Tensor], shape: Any) -> torch.Tensor | None:
    if not factors:
        return None
    product = torch.ones(shape, dtype=factors[0].dtype, device=factors[0].device)
    for factor in factors:
        product = product * factor
    return product.flatten()


def _cut(kept: torch.Tensor, factor: torch.Tensor | None = None) -> Cut:
    if factor is None and bool(kept.all()):
        return WHOLE
    return Cut(None if kept.all() else kept.nonzero().flatten(), factor)


def _joined(cuts: list[Cut], size: int) -> Cut:
    """Cut of features that lie one after the other, `size` of each before the cut."""
    if all(cut is WHOLE for cut in cuts):
        return WHOLE
    whole = torch.arange(size)
    indices = [(whole if cut.indices is None else cut.indices) + place * size for place, cut in enumerate(cuts)]
    factors = [torch.ones(size) if cut.factor is None else cut.factor.cpu() for cut in cuts]
    scaled = any(cut.factor is not None for cut in cuts)
    return Cut(torch.cat(indices), torch.cat(factors) if scaled else None)


def _replace(module: nn.Module, name: str, cuts: Cuts, done: dict[tuple, nn.Parameter]) -> None:
    parameter = getattr(module, name)
    key = (id(parameter), *((dim, _fingerprint(cut)) for dim, cut in sorted(cuts.items())))
    if key not in done:
        values = parameter.detach()
        for dim, cut in cuts.items():
            values = cut.apply(values, dim)
        done[key] = nn.Parameter(values, parameter.requires_grad)
        done[(key, "original")] = parameter  # held, so that its id stays its own
    setattr(module, name, done[key])


def _fingerprint(cut: Cut) -> tuple:
    parts = (cut.indices, cut.factor)
    return tuple(None if part is None else tuple(part.tolist()) for part in parts)


def _set_sizes(place: Place) -> None:
    """Attributes that modules keep beside the shape of their weight; some of them are read in the forward pass."""
    module, shape = place.module, place.module.weight.shape
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = shape[1]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(shape)
    else:
        module.nx, module.nf = shape
