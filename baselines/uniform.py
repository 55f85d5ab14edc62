"""Small dense students: the same number of heads and of FFN dims in every layer, chosen before any training.

The control that structured pruning has to beat: a model of the same size whose structure nobody searched for, trained
from scratch (`dense-small`) or from the layers that it kept (`dense-small-kept`).

Every layer gets the target's share of heads, at least one. FFN dims fill what the target leaves, so that it is met to
one FFN dim: the first layers may have one more than the rest. Where one head for each layer is already too much, the
first layers have one.
"""

from typing import ClassVar, Literal

import torch

from gppdfd.budget import fit_to_target
from gppdfd.gpp import KINDS, negative_norms
from gppdfd.interface import Config, NamedMethod, Pruner, register_method, register_pruner
from gppdfd.structure import Keep


class UniformConfig(Config):
    """Which units of a layer stay: the `first`, or the largest by `magnitude`."""

    which: Literal["first", "magnitude"] = "first"


def turns(unimportance: torch.Tensor) -> torch.Tensor:
    """Unimportance by which layers take turns in losing their next unit, the last layer first: [layers, units].

    Within a layer the order of `unimportance` stays; among equals the later unit goes first.
    """
    ranks = unimportance.argsort(dim=-1, stable=True).argsort(-1).double()
    return ranks + torch.linspace(0, 0.5, len(ranks), dtype=torch.double)[:, None]


def heads_per_layer(heads: int, share: float) -> int:
    """Heads that every layer keeps when `share` of the model has to go: at least one."""
    return max(1, round(heads * (1 - share)))


@register_pruner("uniform")
class Uniform(Pruner):
    """Keeps equally many heads and FFN dims in every layer; extraction comes first."""

    reference = "control"
    searches: ClassVar[bool] = False
    Config: ClassVar[type[Config]] = UniformConfig

    def masks(self, step: int) -> None:
        return None

    def keep(self) -> Keep:
        structure, target = self.setting.structure, self.setting.target
        order = {kind: turns(values) for kind, values in self._unimportance().items()}
        heads = heads_per_layer(structure.heads, target.share(structure))
        chosen = {**structure.keep_all(), "head": order["head"].floor() < heads}
        return fit_to_target(structure, chosen, order, target)

    def _unimportance(self) -> dict[str, torch.Tensor]:
        if self.config.which == "magnitude":
            return {kind: values.cpu() for kind, values in negative_norms(self.setting).items()}
        return {kind: torch.zeros(self.setting.structure.shape(kind)) for kind in KINDS}


register_method(
    "dense-small", NamedMethod(spec="uniform+none", training={"init": "random"}, reference="control, from scratch")
)
register_method("dense-small-kept", NamedMethod(spec="uniform+none", reference="control, from kept layers"))
