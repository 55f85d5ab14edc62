"""Masks in the forward pass of any supported encoder, without a fork of its modelling code.

Where a mask multiplies (CoFi, arXiv 2204.00408, section 3; dims inside heads after GRAIN, 2212.07634):

* `head`, `vo`: the context before the attention output projection; `qk`: the queries; `ffn`: the activation before the
  down projection. These are inputs or outputs of linear maps, so hooks suffice, whatever attention implementation runs.
* `mha_layer`, `ffn_layer`: the sublayer's output, bias included. At exactly 0 a LayerNorm that follows the
  sublayer in the residual stream is skipped with it, as extraction will remove both.
* `hidden`: everything that writes to the residual stream (embeddings, sublayer outputs) and every LayerNorm's output;
  LayerNorms take their mean and variance over the dims that are not exactly 0.

* `weight`: single weights of the attention and FFN maps, one flat tensor in the order of `Adapter.maps`.

A sublayer whose inner masks are all 0 is emptied, not removed: its output bias and LayerNorm stay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from torch.utils.hooks import RemovableHandle

from gppdfd.structure import WEIGHT, Keep, Layer, Masks, Place, adapter_for

_encoders: WeakKeyDictionary[nn.Module, "MaskedEncoder"] = WeakKeyDictionary()


def current_masks(model: nn.Module) -> Masks:
    """The masks in the forward pass of `model` now; empty without any."""
    encoder = _encoders.get(model)
    return (encoder.masks or {}) if encoder else {}


class MaskedEncoder:
    """Holds the masks that the forward pass of `model` multiplies in; None means the dense model."""

    def __init__(self, model: nn.Module) -> None:
        if model in _encoders:
            raise ValueError("the model is masked already")
        _encoders[model] = self
        adapter = adapter_for(model)
        self._model, self._weights = model, _Weights()
        self._masks: Masks | None = None
        self._structure = adapter.structure(model.config)
        layers = adapter.layers(model)
        self._handles = [handle for place in adapter.places(model) for handle in self._hook(place, layers)]

    def remove(self) -> None:
        """Take the hooks out again; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._weights.remove()
        _encoders.pop(self._model, None)

    @property
    def masks(self) -> Masks | None:
        return self._masks

    @masks.setter
    def masks(self, masks: Masks | None) -> None:
        self._masks = masks
        if masks and WEIGHT in masks:
            self._weights.set(self._model, masks[WEIGHT])
        else:
            self._weights.remove()

    def _hook(self, place: Place, layers: list[Layer]) -> Iterator[Any]:
        if place.site.inputs in ("context", "activation"):
            factor = self._context if place.site.inputs == "context" else self._activation
            yield place.module.register_forward_pre_hook(_multiply_input(partial(factor, place.layer)))
        if place.site.outputs == "norm":
            yield place.module.register_forward_hook(self._norm_hook(place, layers))
        elif place.site.outputs in self._outputs:
            factor = partial(self._outputs[place.site.outputs], place.layer)
            yield place.module.register_forward_hook(_multiply_output(factor))

    @property
    def _outputs(self) -> dict[str, Callable[[Any], torch.Tensor | None]]:
        return {
            "query": self._query,
            "query_key_value": self._query_key_value,
            "attention": partial(self._sublayer, "mha_layer"),
            "ffn": partial(self._sublayer, "ffn_layer"),
            "embedding": lambda layer: self._mask("hidden"),
        }

    def _mask(self, kind: str, layer: int | None = None) -> torch.Tensor | None:
        values = (self.masks or {}).get(kind)
        return values if values is None or layer is None else values[layer]

    def _context(self, layer: int | None) -> torch.Tensor | None:
        head, dims = self._mask("head", layer), self._mask("vo", layer)
        if head is None:
            return None if dims is None else dims.flatten()
        if dims is None:
            return head.repeat_interleave(self._structure.head_size)
        return (head[:, None] * dims).flatten()

    def _activation(self, layer: int | None) -> torch.Tensor | None:
        return self._mask("ffn", layer)

    def _query(self, layer: int | None) -> torch.Tensor | None:
        units = self._mask("qk", layer)
        # With rotary embeddings unit i is the pair of rows i and i + head_size / 2.
        return None if units is None else units.repeat(1, self._structure.pair).flatten()

    def _query_key_value(self, layer: int | None) -> torch.Tensor | None:
        queries = self._query(layer)
        return None if queries is None else torch.cat([queries, queries.new_ones(2 * len(queries))])

    def _sublayer(self, kind: str, layer: int | None) -> torch.Tensor | None:
        whole, hidden = self._mask(kind, layer), self._mask("hidden")
        if whole is None or hidden is None:
            return hidden if whole is None else whole
        return whole * hidden

    def _norm_hook(self, place: Place, layers: list[Layer]) -> Callable:
        kind, layer = _sublayer_before(place.module, layers)

        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            hidden, whole = self._mask("hidden"), self._mask(kind, layer) if kind else None
            if hidden is None and whole is None:
                return None
            if hidden is not None:
                output = masked_layer_norm(module, inputs[0], hidden)
            return output if whole is None else torch.where(whole == 0, inputs[0], output)

        return hook


class _Weights:
    """Masks of single weights, as parametrisations of their modules; none until one is set."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    def set(self, model: nn.Module, mask: torch.Tensor) -> None:
        if not self._places:
            self._places = adapter_for(model).maps(model)
            for place in self._places:
                register_parametrization(place.module, "weight", _Times(), unsafe=True)
        lists = [place.module.parametrizations.weight for place in self._places]
        parts = mask.split([weight.original.numel() for weight in lists])
        for weight, part in zip(lists, parts, strict=True):
            weight[0].mask = part.view_as(weight.original)

    def remove(self) -> None:
        for place in self._places:
            remove_parametrizations(place.module, "weight", leave_parametrized=False)
            # The weight comes back behind the bias; sums over all parameters (gradient norms) hang on their order.
            parameters = place.module._parameters
            parameters.update({name: parameters.pop(name) for name in list(parameters) if name != "weight"})
        self._places = []


def hold_zeros(model: nn.Module, keep: Keep) -> list[RemovableHandle]:
    """Take the gradient from single weights that `keep` removed; nothing to do for structured kinds.

    An optimiser that starts anew then leaves them at 0. Removing the handles gives the gradient back.
    """
    if WEIGHT not in keep:
        return []
    weights = [place.module.weight for place in adapter_for(model).maps(model)]
    parts = keep[WEIGHT].split([weight.numel() for weight in weights])
    masks = [part.view_as(weight).to(weight) for weight, part in zip(weights, parts, strict=True)]
    return [
        weight.register_hook(partial(torch.mul, mask))
        for weight, mask in zip(weights, masks, strict=True)
        if weight.requires_grad
    ]


class _Times(nn.Module):
    """Parametrisation that multiplies a weight by a mask of its shape."""

    mask: torch.Tensor

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask if hasattr(self, "mask") else weight


def masked_layer_norm(norm: Any, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """LayerNorm over the dims whose mask is not 0, times the mask: [..., hidden] -> [..., hidden]."""
    there = (mask != 0).to(states.dtype)
    share = there / there.sum()
    centred = (states - (states * share).sum(-1, keepdim=True)) * there
    variance = (centred.square() * share).sum(-1, keepdim=True)
    output = centred * torch.rsqrt(variance + norm.eps) * norm.weight
    return (output if norm.bias is None else output + norm.bias) * mask


def _sublayer_before(norm: nn.Module, layers: list[Layer]) -> tuple[str, int]:
    """Kind and layer of the sublayer whose output `norm` takes in with the residual stream; ("", -1) if none."""
    for index, layer in enumerate(layers):
        if norm is layer.attention_norm:
            return "mha_layer", index
        if norm is layer.ffn_norm:
            return "ffn_layer", index
    return "", -1


def _multiply_input(factor: Callable[[], torch.Tensor | None]) -> Callable:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        values = factor()
        if values is None:
            return None
        # A float32 mask promotes a bfloat16 activation, so mask gradients are summed in float32 under autocast.
        return (inputs[0] * values, *inputs[1:])

    return hook


def _multiply_output(factor: Callable[[], torch.Tensor | None]) -> Callable:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        values = factor()
        return None if values is None else output * values

    return hook


@contextmanager
def masked(model: nn.Module, masks: Masks) -> Iterator[nn.Module]:
    """`model` under `masks` inside the block."""
    encoder = MaskedEncoder(model)
    encoder.masks = masks
    try:
        yield model
    finally:
        encoder.remove()
