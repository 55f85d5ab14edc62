"""Students of fixed depth: whole layers of the encoder are kept, before any training.

The usual student of one-to-one distillation, such as DistilBERT (Sanh et al. 2019, arXiv 1910.01108: every second
layer) or PKD (Sun et al. 2019, arXiv 1908.09355: the first k). Its sparsity is a multiple of one layer; points in
between are not reachable.
"""

from typing import ClassVar, Literal

import torch

from gppdfd.budget import Target, sparsity
from gppdfd.interface import Config, Pruner, register_pruner
from gppdfd.structure import Keep, Structure

CLOSE = 0.005
"""How far the sparsity of whole layers may be from the target."""


class DepthConfig(Config):
    """Which layers stay: `every` k-th up to the last one, or the `first`."""

    which: Literal["every", "first"] = "every"


def kept_layers(layers: int, count: int, which: str) -> list[int]:
    """0-based layers that stay: `every` keeps ceil(i * layers / count) for i = 1..count."""
    if which == "first":
        return list(range(count))
    return [-(-index * layers // count) - 1 for index in range(1, count + 1)]


def whole_layers(structure: Structure, layers: list[int]) -> Keep:
    """Keep of these layers with their attention and FFN."""
    there = torch.zeros(structure.layers, dtype=torch.bool)
    there[layers] = True
    return {"mha_layer": there, "ffn_layer": there.clone()}


def depth_for(structure: Structure, target: Target) -> int | None:
    """Number of layers that meets the target, or None."""
    depths = range(1, structure.layers + 1)
    if target.sparsity is None:
        fitting = [n for n in depths if target.cost(structure, _first(structure, n)) <= target.budget(structure)]
        return max(fitting, default=None)
    wanted = target.sparsity
    distance = {n: abs(sparsity(structure, _first(structure, n)) - wanted) for n in depths}
    nearest = min(distance, key=distance.__getitem__)
    return nearest if distance[nearest] <= CLOSE else None


def _first(structure: Structure, count: int) -> Keep:
    return whole_layers(structure, list(range(count)))


@register_pruner("depth")
class Depth(Pruner):
    """Keeps whole layers; extraction comes first, and the small model trains from the start."""

    reference = "Sanh et al. 2019, arXiv 1910.01108; Sun et al. 2019, arXiv 1908.09355"
    revision = 2
    searches: ClassVar[bool] = False
    Config: ClassVar[type[Config]] = DepthConfig

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("mha_layer", "ffn_layer")

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        if depth_for(structure, target) is not None:
            return None
        points = ", ".join(f"{1 - n / structure.layers:.3g}" for n in range(structure.layers, 0, -1))
        return f"pruner 'depth' removes whole layers: sparsity {points} on this model"

    def masks(self, step: int) -> None:
        return None

    def keep(self) -> Keep:
        structure = self.setting.structure
        count = depth_for(structure, self.setting.target) or structure.layers
        return whole_layers(structure, kept_layers(structure.layers, count, self.config.which))
