"""Weight norms of units, for magnitude criteria."""

import torch
from torch import nn

from gppdfd.structure import Masks, adapter_for, structure_of
from gppdfd.structure.base import Place

PARTS = {"query": 1, "key": 1, "value": 1, "query_key_value": 3, "up": 1, "gated_up": 2}
"""How many features of one unit lie in a module's outputs, one block after the other."""


def unit_norms(model: nn.Module) -> Masks:
    """L2 norm of all weights (without biases) of each unit: `head` [layers, heads], `ffn` [layers, intermediate]."""
    structure = structure_of(model)
    device = next(model.parameters()).device
    squares = structure.ones(("head", "ffn"), device)
    squares = {kind: torch.zeros_like(values) for kind, values in squares.items()}
    for place in adapter_for(model).places(model):
        if place.site.outputs in PARTS:
            _add(squares, place, place.output_dim, PARTS[place.site.outputs], place.site.outputs in ("up", "gated_up"))
        if place.site.inputs in ("context", "activation"):
            _add(squares, place, 1 - place.output_dim, 1, place.site.inputs == "activation")
    return {kind: values.sqrt() for kind, values in squares.items()}


def _add(squares: Masks, place: Place, dim: int, parts: int, ffn: bool) -> None:
    """Add the squares of a weight's features along `dim` to the units of its layer."""
    features = place.module.weight.detach().float().square().sum(1 - dim)
    units = squares["ffn" if ffn else "head"][place.layer]
    units += features.view(parts, len(units), -1).sum((0, 2))
