"""What distillers share: soft labels, and the shape of those that compare hidden states."""

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field
from torch.nn.functional import kl_div, log_softmax, mse_loss

from gppdfd.interface import Distiller, DistillerConfig, Losses
from gppdfd.structure import Masks
from gppdfd.tasks.base import Batch
from gppdfd.views import View

Layers = tuple[torch.Tensor, ...]
"""Hidden states [batch, tokens, hidden] of every layer, as a rule without the embedding output."""


def soft_labels(student: torch.Tensor, teacher: torch.Tensor, temperature: float, regression: bool) -> torch.Tensor:
    """T^2 KL(teacher || student), batch mean; for regression the squared error to the teacher's output."""
    if regression:
        return mse_loss(student, teacher)
    inputs, targets = log_softmax(student / temperature, -1), log_softmax(teacher / temperature, -1)
    return temperature**2 * kl_div(inputs, targets, reduction="batchmean", log_target=True)


class HiddenStateConfig(DistillerConfig):
    """Options of every distiller that compares hidden states."""

    mask_padding: bool = True
    temperature: float = Field(1.0, gt=0)


class HiddenStateDistiller(Distiller):
    """Compares hidden states; with `soft_weight` also soft labels. Subclasses say how.

    `first` is the first hidden state that is compared: 0 is the embedding output, 1 that of the first layer.
    """

    first: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[str]:
        padding = set() if self.config.mask_padding else {"padding"}
        return frozenset({"teacher", "hidden_states"} | padding)

    @abstractmethod
    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        """Loss part `features`; `mask` is 1 at real tokens [batch, tokens], or None where padding counts."""

    def soft(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Loss part `soft` of two [batch, classes] logits."""
        return soft_labels(student, teacher, self.config.temperature, self.setting.regression)

    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        assert teacher is not None  # guaranteed by `needs`
        mask = student.attention_mask if self.config.mask_padding else None
        own, target = (view.hidden_states[self.first :] for view in (student, teacher))
        parts = {"features": self.features(own, target, mask)}
        if self.config.soft_weight:
            parts["soft"] = self.soft(student.logits, teacher.logits)
        return parts
