"""MiniLM and MiniLMv2: self-attention relations of the last layer.

`minilm`: Wang et al., MiniLM: Deep Self-Attention Distillation. NeurIPS 2020, arXiv 2002.10957. `minilmv2`: Wang, Bao,
Huang, Dong, Wei, MiniLMv2: Multi-Head Self-Attention Relation Distillation. Findings of ACL 2021, arXiv 2012.15828.
With R(X, Y) = softmax(X Y^T / sqrt(width of a head)) per head, over keys:

    minilm     L = KL(R(Q, K)^T || R(Q, K)^S) + KL(R(V, V)^T || R(V, V)^S)
    minilmv2   L = sum over X in {Q, K, V} of KL(R(X, X)^T || R(X, X)^S)  in relation heads

each the mean over heads and queries. Relation heads cut the concatenated heads anew, so that v2 needs no equal number
of heads; v1 compares heads of the same index that both have. Both are task-agnostic in the papers; here they stand
beside hard labels and soft ones (T = 2), which is a reconstruction. No authors' training code is public.

For pruned students: removed dims count as 0 and relation heads cut the original width, so that the masked and the
extracted student have the same relations; if the last layer lost all its heads, the last one that has some stands for
it (`fallback=none`: no such loss then). Padding keys leave the softmax and padding queries the mean. Relations are
those of the projections as they are: before rotary embeddings, and over all keys in a decoder.
"""

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn.functional import kl_div

from gppdfd.distilling import FeatureDistiller, HiddenStateConfig, unequal
from gppdfd.interface import DistillerConfig, NamedMethod, Setting, register_distiller, register_method
from gppdfd.projections import attention_scores
from gppdfd.structure import Keep, Structure
from gppdfd.views import View, existing_layers

FAR = -1e9
"""Score of a padding key: its share is exactly 0, and no difference of two of them is undefined."""

SPLIT = 4
"""Relation heads per attention head in the paper's students: 48 for 12."""

TASK_SPECIFIC = "task-specific form of a task-agnostic method; pruned heads"


class MiniLMConfig(HiddenStateConfig):
    """Options of both versions."""

    soft_weight: float = 1.0
    temperature: float = Field(2.0, gt=0)
    fallback: Literal["previous", "none"] = "previous"


class MiniLMv2Config(MiniLMConfig):
    """Options of MiniLMv2; without `relation_heads` four for each attention head, fewer if 4 does not divide it."""

    relation_heads: int | None = Field(None, ge=1)


def relation_divergence(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """KL of softmaxed scores [batch, heads, queries, keys], mean over heads and real queries.

    Args:
        mask: 1 at real tokens, [batch, tokens]; None where padding counts.
    """
    if mask is None:
        mask = torch.ones_like(student[:, 0, :, 0])
    padding = (mask == 0)[:, None, None, :]
    own, target = (scores.masked_fill(padding, FAR).log_softmax(-1) for scores in (student, teacher))
    rows = kl_div(own, target, reduction="none", log_target=True).sum(-1).mean(1)
    return (rows * mask).sum() / mask.sum()


def relation_scores(states: torch.Tensor) -> torch.Tensor:
    """Scores of all pairs of tokens: [batch, heads, tokens, dims] -> [batch, heads, tokens, tokens]."""
    return attention_scores(states, states)


def relation_heads(states: torch.Tensor, count: int) -> torch.Tensor:
    """Heads side by side, cut into `count`: [batch, heads, tokens, dims] -> [batch, count, tokens, width / count]."""
    return states.transpose(1, 2).flatten(2).unflatten(-1, (count, -1)).transpose(1, 2)


def default_relation_heads(structure: Structure) -> int:
    """The paper's four relation heads for each attention head, or as many as divide the size of a head."""
    return structure.heads * math.gcd(SPLIT, structure.head_size)


def attending_layer(there: Keep, fallback: str = "previous") -> int | None:
    """0-based last layer, or with `fallback=previous` the last one that has heads; None without any."""
    existing = existing_layers(there)
    candidates = existing if fallback == "previous" else existing[-1:]
    return next((layer for layer in reversed(candidates) if there["head"][layer].any()), None)


class LastLayerDistiller(FeatureDistiller):
    """Compares relations of one layer of the student and the teacher's last one."""

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"projections"})

    @abstractmethod
    def relations(self, student: View, teacher: View, layer: int, mask: torch.Tensor | None) -> torch.Tensor:
        """Loss part `features` between student layer `layer` and the teacher's last."""

    def compare(self, student: View, teacher: View, mask: torch.Tensor | None) -> torch.Tensor:
        layer = attending_layer(student.there, self.config.fallback)
        return student.logits.new_zeros(()) if layer is None else self.relations(student, teacher, layer, mask)


@register_distiller("minilm")
class MiniLM(LastLayerDistiller):
    """Attention distributions and value relations of heads that both models have."""

    reference = "Wang et al. 2020, arXiv 2002.10957"
    reconstruction = TASK_SPECIFIC
    Config: ClassVar[type[DistillerConfig]] = MiniLMConfig

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        return unequal(student, teacher, "heads")

    def relations(self, student: View, teacher: View, layer: int, mask: torch.Tensor | None) -> torch.Tensor:
        heads = student.there["head"][layer]
        attention, values = (
            [
                attention_scores(view.queries[index][:, heads], view.keys[index][:, heads]),
                relation_scores(view.values[index][:, heads]),
            ]
            for view, index in ((student, layer), (teacher, -1))
        )
        return sum(map(relation_divergence, attention, values, [mask, mask]), student.logits.new_zeros(()))


@register_distiller("minilmv2")
class MiniLMv2(LastLayerDistiller):
    """Relations among queries, among keys and among values, in relation heads."""

    reference = "Wang et al. 2021, arXiv 2012.15828"
    reconstruction = TASK_SPECIFIC
    Config: ClassVar[type[DistillerConfig]] = MiniLMv2Config

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        count = self._relation_heads(student)
        for width in (structure.heads * structure.head_size for structure in (student, teacher)):
            if width % count:
                return f"relation_heads={count} does not divide the width of all heads, {width}"
        return None

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._count = self._relation_heads(setting.structure)

    def relations(self, student: View, teacher: View, layer: int, mask: torch.Tensor | None) -> torch.Tensor:
        pairs = zip(_projections(student, layer), _projections(teacher, -1), strict=True)
        return torch.stack([self._divergence(own, target, mask) for own, target in pairs]).sum()

    def _relation_heads(self, student: Structure) -> int:
        return self.config.relation_heads or default_relation_heads(student)

    def _divergence(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        own, target = (relation_scores(relation_heads(states, self._count)) for states in (student, teacher))
        return relation_divergence(own, target, mask)


def _projections(view: View, layer: int) -> tuple[torch.Tensor, ...]:
    return view.queries[layer], view.keys[layer], view.values[layer]


for _name, _class in (("minilm", MiniLM), ("minilmv2", MiniLMv2)):
    register_method(_name, NamedMethod(spec=f"depth+{_name}", reference=_class.reference))
