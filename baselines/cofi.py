"""CoFi: L0 pruning of coarse and fine units, distilled layer by layer.

Xia, Zhong, Chen: Structured Pruning Learns Compact and Accurate Models. ACL 2022 (arXiv 2204.00408). The pruner is
`baselines.l0`; here is the distiller. With hidden states H_i [batch, tokens, hidden] and one shared trainable map W, b:

    table_ij   = mean((W H^S_j + b - H^T_i)^2)                 teacher layer i, student layer j
    L_features = sum over teacher layers i of table_{i, m(i)}  weight 0.9
    L_soft     = T^2 KL(teacher || student), T = 2             weight 0.1; hard labels are unused

W starts as the identity. m is found anew in each batch, without a gradient, among the student layers that still
exist. What the public code (github.com/princeton-nlp/CoFiPruning, commit da855a8) calls a version is a pair of choices:

    paper   matching=closest                         default
    v2      matching=same, teacher_layers=all        the paper's "fixed"
    v3      matching=closest, exists=always
    v4      matching=ordered                         advised for small data sets
    v5      matching=ordered, teacher_layers=random
    v6      matching=ordered, teacher_layers=random_quarters

Departures from the public code: layers that exist are looked up by layer (it looked in sorted positions, and could
choose removed layers or none), those are the layers with an FFN (`exists=mha`: with attention), also after extraction
(`exists_extracted=always`: all), padding leaves the means (`mask_padding=off`), and regression distils the squared
error of the outputs (its KL over one output is 0).
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from gppdfd.distilling import HiddenStateConfig, HiddenStateDistiller, Layers, identity_map, mapped
from gppdfd.interface import (
    DistillerConfig,
    Losses,
    NamedMethod,
    Setting,
    register_distiller,
    register_method,
)
from gppdfd.structure import Keep, Masks
from gppdfd.tasks.base import Batch
from gppdfd.views import View, layer_fractions, matched_layers

Matching = Literal["closest", "ordered", "same"]
TeacherLayers = Literal["quarters", "all", "random", "random_quarters"]

QUARTERS = (3, 6, 9, 12)
"""Teacher layers of `teacher_layers=quarters`, written for 12 layers."""


class LayerwiseConfig(HiddenStateConfig):
    """Options of layerwise distillation.

    The paper searched `feature_weight` in .9, .7, .5 and gave `soft_weight` the rest. `exists` says which sublayer
    makes a student layer one that can be matched, in a masked and in an extracted student.
    """

    task_weight: float = 0.0
    soft_weight: float = 0.1
    feature_weight: float = 0.9
    temperature: float = Field(2.0, gt=0)
    matching: Matching = "closest"
    teacher_layers: TeacherLayers = "quarters"
    exists: Literal["ffn", "mha", "either", "always"] = "ffn"
    exists_extracted: Literal["as_masked", "always"] = "as_masked"


def distances(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of layers over valid tokens and dims, one for each pair along the first dimension.

    Args:
        student, teacher: [layers, batch, tokens, hidden], or one of them with a single layer.
        mask: 1 at real tokens, [batch, tokens]; None: all count.
    """
    per_token = (student - teacher).square().mean(-1)
    if mask is None:
        return per_token.flatten(1).mean(1)
    return (per_token * mask).flatten(1).sum(1) / mask.sum()


@torch.no_grad()
def distance_table(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`distances` of all pairs, without a gradient: [teacher layers, student layers]."""
    return torch.stack([distances(student, target[None], mask) for target in teacher])


def closest_layers(table: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """For each teacher layer the existing student layer of smallest distance: int64 [teacher layers].

    Args:
        table: [teacher layers, student layers].
        exists: bool [student layers]; where none exists, all count.
    """
    return table.masked_fill(~_or_all(exists), torch.inf).argmin(-1)


def ordered_layers(table: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """As `closest_layers`, but from the deepest teacher layer up, each match strictly below the one before.

    Where no existing layer is left below, the match before is used again.
    """
    index = torch.arange(table.shape[1], device=table.device)
    exists, last, matches = _or_all(exists), index[-1] + 1, []
    for row in table.flip(0):
        allowed = exists & (index < last)
        found = row.masked_fill(~allowed, torch.inf).argmin()
        last = torch.where(allowed.any(), found, last)
        matches.append(last)
    return torch.stack(matches).flip(0)


def _or_all(exists: torch.Tensor) -> torch.Tensor:
    return exists | ~exists.any()


def matched_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None,
    exists: torch.Tensor,
    rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the distances of matched layers, and the student layer of each teacher layer by `rule`.

    Args:
        student: hidden states of every student layer, through the map: [layers, batch, tokens, hidden].
        teacher: those of the teacher layers that are matched.
        exists: bool [student layers].
    """
    matches = rule(distance_table(student, teacher, mask), exists)
    return distances(student[matches], teacher, mask).sum(), matches


def same_distance(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None, exists: torch.Tensor, layers: list[int]
) -> torch.Tensor:
    """Sum of the distances of the teacher's `layers` to student layers of the same depth, removed ones left out.

    Arguments as in `matched_distance`, but `teacher` has all of its layers.
    """
    same = torch.tensor(matched_layers(len(teacher), len(student)), device=exists.device)[layers]
    return (distances(student[same], teacher[layers], mask) * exists[same]).sum()


def taught_layers(count: int, which: TeacherLayers, stream: torch.Generator) -> list[int]:
    """0-based teacher layers of one step, in order; random ones are as many as quarters make."""
    quarters = layer_fractions(QUARTERS, count)
    if which == "all":
        return list(range(count))
    if which == "random":
        return sorted(torch.randperm(count, generator=stream)[: len(quarters)].tolist())
    if which == "random_quarters":
        starts = [0, *(layer + 1 for layer in quarters)]
        return [int(torch.randint(a, b, (), generator=stream)) for a, b in pairwise(starts)]
    return quarters


def matchable_layers(there: Keep, rule: str) -> torch.Tensor:
    """Bool [layers]: which student layers can be matched, from what exists of each."""
    ffn, mha = there["ffn_layer"], there["mha_layer"]
    return {"ffn": ffn, "mha": mha, "either": ffn | mha, "always": torch.ones_like(ffn)}[rule]


@register_distiller("layerwise")
class Layerwise(HiddenStateDistiller):
    """Layers matched anew in every batch, through one trainable map; soft labels in the place of hard ones."""

    reference = "Xia et al. 2022, ACL, arXiv 2204.00408"
    reconstruction = (
        "matching among existing layers, after later quotations of the paper; its code restricts one version"
    )
    Config: ClassVar[type[DistillerConfig]] = LayerwiseConfig

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._stream = torch.Generator().manual_seed(setting.generator.initial_seed())
        self._map = identity_map(setting.structure.hidden).to(setting.device)

    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        extracted = masks is None
        always = extracted and self.config.exists_extracted == "always"
        self._exists = matchable_layers(student.there, "always" if always else self.config.exists)
        return super().losses(student, teacher, batch, masks)

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        states, targets = torch.stack(student), torch.stack(teacher)
        states = mapped(self._map, states)
        layers = taught_layers(len(targets), self.config.teacher_layers, self._stream)
        if self.config.matching == "same":
            return same_distance(states, targets, mask, self._exists, layers)
        rule = closest_layers if self.config.matching == "closest" else ordered_layers
        return matched_distance(states, targets[layers], mask, self._exists, rule)[0]

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._map.parameters()

    def state_dict(self) -> dict[str, Any]:
        maps = {name: values.clone() for name, values in self._map.state_dict().items()}
        return {"map": maps, "stream": self._stream.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._map.load_state_dict(state["map"])
        self._stream.set_state(state["stream"])


# Its phase without masks is 4 of 100 or 1 of 20 epochs in the paper.
register_method(
    "cofi", NamedMethod(spec="l0+layerwise", training={"before_share": 0.05}, reference=Layerwise.reference)
)
