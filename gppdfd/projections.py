"""Queries, keys and values of every layer, the same from a masked student and from the extracted one.

They are taken where the linear maps give them, so no attention implementation has to return anything, and before rotary
embeddings turn them. Units that are gone are zeros, also those that a mask removes further on (keys of a `qk` unit,
values of a head); a soft mask on the context counts as one on the values, which is where extraction folds it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from gppdfd.structure import Keep, Masks, Structure, adapter_for, structure_of

PARTS = ("query", "key", "value")

Projected = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]
"""Queries, keys and values: each one tensor [batch, heads, tokens, head_size] per original layer."""


class Projections:
    """Collects queries, keys and values of `model` in its forward pass.

    Args:
        kept: what is left of an extracted model, with all kinds; None for a dense one.
    """

    def __init__(self, model: nn.Module, kept: Keep | None = None) -> None:
        self._structure, self._kept = structure_of(model), kept
        self._found: list[dict[str, torch.Tensor]] = [{} for _ in range(self._structure.layers)]
        self._undo: list[Callable[[], None]] = []
        adapter = adapter_for(model)
        layouts = [_layouts(layer.block) for layer in adapter.layers(model)]
        for place in adapter.maps(model):
            part = place.site.outputs
            # With a layout there are no outputs of single maps: a hook would take its one product apart.
            if part in (*PARTS, "query_key_value") and place.layer is not None and not layouts[place.layer]:
                handle = place.module.register_forward_hook(partial(self._collect, place.layer, part))
                self._undo.append(handle.remove)
        for index, found in enumerate(layouts):
            for layout in found:
                layout.observer = partial(self._take, index)
                self._undo.append(partial(setattr, layout, "observer", None))

    def remove(self) -> None:
        """Take the hooks out again."""
        for undo in self._undo:
            undo()

    def clear(self) -> None:
        """Forget the forward pass."""
        for found in self._found:
            found.clear()

    def taken(self, masks: Masks, like: torch.Tensor) -> Projected:
        """Projections of the last forward pass, under the `masks` that were in it; `like` is [batch, tokens, ...]."""
        layers = [self._layer(index, masks, like) for index in range(self._structure.layers)]
        queries, keys, values = zip(*layers, strict=True)
        return queries, keys, values

    def _collect(self, layer: int, part: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if part == "query_key_value":
            self._take(layer, output)
        else:
            self._found[layer][part] = output

    def _take(self, layer: int, together: torch.Tensor) -> None:
        sizes = [int(rows.sum()) for rows in self._rows(layer)]
        self._found[layer] |= dict(zip(PARTS, together.split(sizes, -1), strict=True))

    def _layer(self, layer: int, masks: Masks, like: torch.Tensor) -> list[torch.Tensor]:
        found, structure = self._found[layer], self._structure
        if not found:  # the sublayer has been removed
            return [like.new_zeros(like.shape[0], structure.heads, like.shape[1], structure.head_size)] * 3
        factors = _factors(structure, masks, layer)
        states = [
            _scattered(found[part], rows).unflatten(-1, (structure.heads, structure.head_size)).transpose(1, 2)
            for part, rows in zip(PARTS, self._rows(layer), strict=True)
        ]
        return [
            state if factor is None else state * factor[:, None] for state, factor in zip(states, factors, strict=True)
        ]

    def _rows(self, layer: int) -> list[torch.Tensor]:
        """bool [heads * head_size] for queries, keys and values: the rows that the model has."""
        structure = self._structure
        if self._kept is None:
            return [torch.ones(structure.heads * structure.head_size, dtype=torch.bool)] * 3
        queries = self._kept["qk"][layer].repeat(1, structure.pair).flatten()
        return [queries, queries, self._kept["vo"][layer].flatten()]


def attention_scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Scores before the softmax, without the mask: [batch, heads, tokens, head_size] twice -> [.., tokens, tokens]."""
    return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5


def _layouts(block: nn.Module) -> list[Any]:
    return [module.layout for module in block.modules() if hasattr(module, "layout")]


def _factors(structure: Structure, masks: Masks, layer: int) -> list[torch.Tensor | None]:
    """What queries, keys and values are multiplied by, [heads, head_size] or None: nothing."""
    here = {kind: masks[kind][layer] for kind in ("head", "qk", "vo", "mha_layer") if kind in masks}
    if not here:
        return [None, None, None]
    reference = next(iter(here.values()))
    ones = reference.new_ones(structure.heads, structure.head_size)
    values = ones * here.get("head", ones[:, 0])[:, None] * here.get("vo", ones)
    there = (values != 0).any(-1, keepdim=True) & (here.get("mha_layer", ones[0, 0]) != 0)
    there = there.to(ones.dtype)
    units = (here.get("qk", ones[:, : structure.head_size // structure.pair]) != 0).to(ones.dtype)
    return [ones * there, units.repeat(1, structure.pair) * there, values * there]


def _scattered(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Features at their original places, zeros elsewhere: [..., kept] -> [..., rows]."""
    if states.shape[-1] == len(rows):
        return states
    wide = states.new_zeros(*states.shape[:-1], len(rows))
    wide[..., rows.to(states.device)] = states
    return wide
