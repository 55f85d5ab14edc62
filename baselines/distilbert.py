"""DistilBERT's triple loss: soft labels, hard labels and the direction of the last hidden states.

Sanh, Debut, Chaumond, Wolf: DistilBERT, a distilled version of BERT. arXiv 1910.01108, EMC^2 workshop at NeurIPS 2019;
weights after the distillation example of transformers (commit 1607444, distiller.py).

    L = 5 T^2 KL(teacher || student) + 2 CE + 1 mean over real tokens of (1 - cos(H^S_L, H^T_L)),  T = 2

In the paper KL and CE are those of masked language modelling, before any task. The task-specific form here, on the
logits of the task, is a reconstruction. The student has every k-th layer (pruner `depth`).
"""

from typing import ClassVar

import torch
from pydantic import Field

from gppdfd.dfd import feature_distance
from gppdfd.distilling import HiddenStateConfig, HiddenStateDistiller, Layers
from gppdfd.interface import DistillerConfig, NamedMethod, register_distiller, register_method


class DistilBERTConfig(HiddenStateConfig):
    """Weights and temperature of the triple loss."""

    task_weight: float = 2.0
    soft_weight: float = 5.0
    temperature: float = Field(2.0, gt=0)


def cosine_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """1 - cos of states [batch, tokens, dims], mean over tokens; with `mask` over the real ones."""
    return feature_distance(teacher[None], student[None], mask, distance="cosine")


@register_distiller("distilbert")
class DistilBERT(HiddenStateDistiller):
    """Soft labels, hard labels and the cosine of the last hidden states."""

    reference = "Sanh et al. 2019, arXiv 1910.01108"
    reconstruction = "task-specific form of a task-agnostic method"
    Config: ClassVar[type[DistillerConfig]] = DistilBERTConfig

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        return cosine_loss(student[-1], teacher[-1], mask)


register_method(
    "distilbert",
    NamedMethod(spec="depth+distilbert", reference=DistilBERT.reference),
)
