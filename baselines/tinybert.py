"""TinyBERT: attention scores, hidden states and embeddings of matched layers, then soft labels.

Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding. Findings of EMNLP 2020, arXiv 1909.10351.
Formulas follow the authors' code (github.com/huawei-noah/Pretrained-Language-Model, commit 0598f02,
TinyBERT/task_distill.py).

    features  sum over m = 1..M of MSE(A^S_m, A^T_{g(m)}) + sum over m = 0..M of MSE(W H^S_m, H^T_{g(m)}),  g(0) = 0
    soft      soft cross-entropy of the logits (T = 1); on STS-B the squared error to the labels

A are the attention scores before the softmax, H_0 the embedding output, W one trainable map for all layers. There are
no hard labels otherwise: the weight of `task` is 0.

Departures, for pruned students: g counts existing layers (the identity if all exist); scores are compared between heads
of the same index that both have, and a layer without heads has no such term; W starts as the identity (widths are
equal, removed dims count as 0). Intermediate and prediction loss are trained together, where the paper has one stage
for each, and there is neither general distillation nor data augmentation. Padding leaves all means
(`mask_padding=off`: in the code only the scores of padding keys are set to 0), and the soft term is averaged over the
batch alone (`kl_reduction=mean`: over the classes too). The teacher is in evaluation mode (`teacher_dropout=on`: its
dropout is left on, as in the code). Scores are those of the projections as they are: before rotary
embeddings, and over all keys in a decoder.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from baselines.matching import MatchingConfig, MatchingDistiller
from gppdfd.dfd import feature_distance
from gppdfd.distilling import KLReduction, identity_map, mapped, reduced, unequal
from gppdfd.interface import DistillerConfig, NamedMethod, Setting, register_distiller, register_method
from gppdfd.projections import attention_scores
from gppdfd.structure import Structure
from gppdfd.tasks.base import Batch
from gppdfd.views import View


class TinyBERTConfig(MatchingConfig):
    """Options of TinyBERT; `kl_reduction=mean,mask_padding=off,teacher_dropout=on` is what the released code does."""

    task_weight: float = 0.0
    soft_weight: float = 1.0
    attention: bool = True
    projection: Literal["none", "shared", "per_pair"] = "shared"
    kl_reduction: KLReduction = "batchmean"
    teacher_dropout: bool = False


def attention_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, mask_padding: bool = True
) -> torch.Tensor:
    """Mean squared error of attention scores [batch, heads, tokens, tokens] over pairs of real tokens.

    Args:
        mask: 1 at real tokens, [batch, tokens].
        mask_padding: off: padding keys are equal, and they and padding queries count in the mean (released).
    """
    errors, real = (student - teacher).square().mean(1), mask.to(student.dtype)
    if not mask_padding:
        return (errors * real[:, None, :]).mean()
    pairs = real[:, :, None] * real[:, None, :]
    return (errors * pairs).sum() / pairs.sum()


def soft_cross_entropy(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, reduction: KLReduction = "batchmean"
) -> torch.Tensor:
    """Cross-entropy of logits [batch, classes] against the teacher's distribution, both at a temperature."""
    return reduced(cross_entropy(student / temperature, (teacher / temperature).softmax(-1)), student, reduction)


@register_distiller("tinybert")
class TinyBERT(MatchingDistiller):
    """Intermediate and prediction distillation together."""

    reference = "Jiao et al. 2020, arXiv 1909.10351"
    reconstruction = "one stage, no general distillation, no augmented data; missing heads left out"
    Config: ClassVar[type[DistillerConfig]] = TinyBERTConfig

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"hidden_states", "projections"} if self.config.attention else {"hidden_states"})

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"teacher_dropout"} if self.config.teacher_dropout else set())

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        heads = unequal(student, teacher, "heads") if self.config.attention else None
        return heads or super().unsuitable(student, teacher)

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        count = {"none": 0, "shared": 1, "per_pair": setting.structure.layers + 1}[self.config.projection]
        maps = nn.ModuleList(identity_map(setting.structure.hidden) for _ in range(count))
        self._maps = maps.to(setting.device)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._maps.parameters())

    def compare(self, student: View, teacher: View, mask: torch.Tensor | None) -> torch.Tensor:
        pairs = self.pairs(student, teacher)
        hidden = [(0, 0), *((own + 1, target + 1) for own, target in pairs)]
        own = torch.stack([self._mapped(index, student.hidden_states[index]) for index, _ in hidden])
        target = torch.stack([teacher.hidden_states[index] for _, index in hidden])
        scores = [self._attention(student, teacher, *pair) for pair in pairs] if self.config.attention else []
        return feature_distance(target, own, mask) + sum(scores)

    def soft(self, student: View, teacher: View, batch: Batch) -> torch.Tensor:
        if self.setting.regression:
            return mse_loss(student.logits.squeeze(-1), batch.labels.to(student.logits.dtype))
        return soft_cross_entropy(student.logits, teacher.logits, self.config.temperature, self.config.kl_reduction)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "maps": self._maps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._maps.load_state_dict(state["maps"])

    def _mapped(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """W H of hidden state `index`."""
        if self.config.projection == "none":
            return states
        chosen: Any = self._maps[index if self.config.projection == "per_pair" else 0]
        return mapped(chosen, states)

    def _attention(self, student: View, teacher: View, own: int, target: int) -> torch.Tensor:
        heads = student.there["head"][own] & teacher.there["head"][target]
        if not heads.any():
            return student.logits.new_zeros(())
        scores = [
            attention_scores(view.queries[layer][:, heads], view.keys[layer][:, heads])
            for view, layer in ((student, own), (teacher, target))
        ]
        return attention_loss(scores[0], scores[1], student.attention_mask, self.config.mask_padding)


register_method(
    "tinybert",
    NamedMethod(spec="depth+tinybert", reference=TinyBERT.reference),
)
