"""PKD: patient knowledge distillation, on the classifier's token of matched layers.

Sun, Cheng, Gan, Liu: Patient Knowledge Distillation for BERT Model Compression. EMNLP 2019, arXiv 1908.09355. Formulas
follow the authors' code (github.com/intersun/PKD-for-BERT-Model-Compression, commit 9e9e860, src/KD_loss.py).

    L = (1 - a) CE + a T^2 KL(teacher || student) + b L_PT
    L_PT = mean over examples, layer pairs and dims of (h^S / |h^S| - h^T / |h^T|)^2,  h the state of [CLS]

with 1 - a, a and b the weights of `task`, `soft` and `features`. Pairs leave the student's last layer out; those of the
teacher are every k-th (PKD-skip) or the last ones (PKD-last), see `baselines.matching`.

Departures: KL is averaged over the batch alone (`kl_reduction=mean`: over the classes too, as in the code); examples
are shuffled, where the code reads them in order. On STS-B the soft term is the squared error to the teacher's output.
Defaults are the best setting of the authors' table for SST-2 (T = 10, a = 0.5, b = 100).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn.functional import normalize

from baselines.matching import (
    LayerMap,
    MatchingConfig,
    MatchingDistiller,
    Tokens,
    only_sentence,
    reads_last_token,
    sentence_position,
)
from gppdfd.dfd import feature_distance
from gppdfd.distilling import KLReduction, soft_labels
from gppdfd.interface import DistillerConfig, NamedMethod, register_distiller, register_method
from gppdfd.tasks.base import Batch
from gppdfd.views import View

PAPER = "Sun et al. 2019, arXiv 1908.09355"


class PKDConfig(MatchingConfig):
    """Options of PKD; `kl_reduction=mean` is what the released code does."""

    task_weight: float = 0.5
    soft_weight: float = 0.5
    feature_weight: float = 100.0
    temperature: float = Field(10.0, gt=0)
    layer_map: LayerMap = "skip"
    normalise: bool = True
    tokens: Tokens = "sentence"
    kl_reduction: KLReduction = "batchmean"


def patience_loss(
    student: torch.Tensor, teacher: torch.Tensor, normalise: bool = True, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """L_PT of states [pairs, batch, tokens, dims]; tokens of `mask` 0 [batch, tokens] are left out."""
    if normalise:
        student, teacher = normalize(student, dim=-1), normalize(teacher, dim=-1)
    return feature_distance(teacher, student, mask) / len(student)


@register_distiller("pkd")
class PKD(MatchingDistiller):
    """Patient knowledge distillation beside soft and hard labels."""

    reference = PAPER
    reconstruction = "layer map on pruned students"
    Config: ClassVar[type[DistillerConfig]] = PKDConfig

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"hidden_states"})

    def compare(self, student: View, teacher: View, mask: torch.Tensor | None) -> torch.Tensor:
        pairs = self.pairs(student, teacher)
        if not pairs:
            return student.logits.new_zeros(())
        own = torch.stack([student.hidden_states[layer + 1] for layer, _ in pairs])
        target = torch.stack([teacher.hidden_states[layer + 1] for _, layer in pairs])
        if self.config.tokens == "all":
            return patience_loss(own, target, self.config.normalise, mask)
        position = sentence_position(student.attention_mask, reads_last_token(self.setting))
        return patience_loss(only_sentence(own, position), only_sentence(target, position), self.config.normalise)

    def soft(self, student: View, teacher: View, batch: Batch) -> torch.Tensor:
        temperature, regression = self.config.temperature, self.setting.regression
        return soft_labels(student.logits, teacher.logits, temperature, regression, self.config.kl_reduction)


def student_of_first_layers(layer_map: Literal["skip", "last"]) -> NamedMethod:
    """PKD on the first layers of the pre-trained model; epochs and learning rate are left to the recipe."""
    return NamedMethod(spec=f"depth(which=first)+pkd(layer_map={layer_map})", reference=PAPER)


register_method("pkd-skip", student_of_first_layers("skip"))
register_method("pkd-last", student_of_first_layers("last"))
