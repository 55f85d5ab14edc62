"""One-to-one distillation: student layer l learns from teacher layer l.

`one-to-one` is the control that isolates DFD's gain: the same loss without either fusion, the sum over layers of the
mean squared error of hidden states over valid tokens. Its option `distance=hcl` is the hierarchical context loss of
ReviewKD (Chen, Liu, Zhao, Jia 2021, arXiv 2104.09044), the ancestor of DFD, over the token axis. `logits` is plain
knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531): T^2 KL(teacher || student).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, mse_loss

from gppdfd.dfd import feature_distance
from gppdfd.distilling import HiddenStateConfig, HiddenStateDistiller, Layers, soft_labels
from gppdfd.interface import Distiller, DistillerConfig, Losses, register_distiller
from gppdfd.structure import Masks
from gppdfd.tasks.base import Batch
from gppdfd.views import View, matched_layers


class OneToOneConfig(HiddenStateConfig):
    """Options of the control."""

    distance: Literal["mse", "cosine", "hcl"] = "mse"


class LogitsConfig(DistillerConfig):
    """Options of plain knowledge distillation."""

    soft_weight: float = 1.0
    temperature: float = Field(2.0, gt=0)


def one_to_one_loss(
    student: tuple[torch.Tensor, ...],
    teacher: tuple[torch.Tensor, ...],
    mask: torch.Tensor | None,
    distance: str = "mse",
) -> torch.Tensor:
    """Sum over layers of the distance of hidden states [batch, tokens, hidden]; embedding outputs are left out."""
    features, targets = torch.stack(student), torch.stack(teacher)
    targets = targets[matched_layers(len(features), len(targets))]
    mask = mask.to(features.dtype) if mask is not None else None
    if distance != "hcl":
        return feature_distance(targets, features, mask, distance)
    if mask is not None:
        features, targets = features * mask[None, :, :, None], targets * mask[None, :, :, None]
    pairs = zip(features.transpose(-1, -2), targets.transpose(-1, -2), strict=True)
    return torch.stack([hierarchical_context_loss(own, target) for own, target in pairs]).sum()


def hierarchical_context_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared error of two maps and of their average-pooled versions of side 4, 2, 1, weighted 1, 1/2, 1/4, 1/8.

    Sides that are not smaller than the map are left out; the weights are normalised (ReviewKD, section 3.3).

    Args:
        student, teacher: [batch, channels, side] or [batch, channels, side, side].
    """
    pool = adaptive_avg_pool1d if student.ndim == 3 else adaptive_avg_pool2d
    total, weight, weights = mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= student.shape[2]:
            continue
        weight /= 2
        total = total + weight * mse_loss(pool(student, side), pool(teacher, side))
        weights += weight
    return total / weights


@register_distiller("one-to-one")
class OneToOne(HiddenStateDistiller):
    """Hidden states of every layer, matched by index."""

    reference = "control for DFD"
    skips_removed: ClassVar[bool] = True
    Config: ClassVar[type[DistillerConfig]] = OneToOneConfig

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        return one_to_one_loss(student, teacher, mask, self.config.distance)


@register_distiller("logits")
class Logits(Distiller):
    """Soft labels beside the hard ones."""

    reference = "Hinton et al. 2015, arXiv 1503.02531"
    Config: ClassVar[type[DistillerConfig]] = LogitsConfig

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"teacher"})

    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        assert teacher is not None  # guaranteed by `needs`
        return {"soft": soft_labels(student.logits, teacher.logits, self.config.temperature, self.setting.regression)}
