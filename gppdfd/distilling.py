"""What distillers share: soft labels, and the shape of those that compare hidden states."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import kl_div, linear, log_softmax, mse_loss

from gppdfd.interface import Distiller, DistillerConfig, Losses
from gppdfd.structure import Masks, Structure
from gppdfd.tasks.base import Batch
from gppdfd.views import View

Layers = tuple[torch.Tensor, ...]
"""Hidden states [batch, tokens, hidden] of every layer, as a rule without the embedding output."""


KLReduction = Literal["batchmean", "mean"]
"""Mean over the batch, or over batch and classes as in the codes of PKD and TinyBERT: smaller by the class count."""


def soft_labels(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float,
    regression: bool,
    reduction: KLReduction = "batchmean",
) -> torch.Tensor:
    """T^2 KL(teacher || student) of [batch, classes]; for regression the squared error to the teacher's output."""
    if regression:
        return mse_loss(student, teacher)
    inputs, targets = log_softmax(student / temperature, -1), log_softmax(teacher / temperature, -1)
    return temperature**2 * reduced(kl_div(inputs, targets, reduction="batchmean", log_target=True), student, reduction)


def reduced(loss: torch.Tensor, logits: torch.Tensor, reduction: KLReduction) -> torch.Tensor:
    """A batch mean over [batch, classes], divided by the number of classes if `reduction` is `mean`."""
    return loss / logits.shape[-1] if reduction == "mean" else loss


def unequal(student: Structure, teacher: Structure, size: Literal["hidden", "heads"]) -> str | None:
    """Why models of these structures cannot be compared by what has one entry per `size`, or None."""
    own, theirs = getattr(student, size), getattr(teacher, size)
    what = {"hidden": "hidden dims", "heads": "attention heads"}[size]
    return None if own == theirs else f"it has {theirs} {what}, the student {own}"


def identity_map(width: int) -> nn.Linear:
    """Trainable map with bias that starts as the identity; made without drawing from the random stream of the run."""
    made = nn.utils.skip_init(nn.Linear, width, width)
    nn.init.eye_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def mapped(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """A trainable map on states of any precision: [..., width] -> [..., width]."""
    return linear(states, layer.weight.to(states.dtype), layer.bias.to(states.dtype))


class HiddenStateConfig(DistillerConfig):
    """Options of every distiller that compares features of tokens, hidden states above all."""

    mask_padding: bool = True
    temperature: float = Field(1.0, gt=0)


class FeatureDistiller(Distiller):
    """Compares what the two views carry; with `soft_weight` also soft labels. Subclasses say what, and how."""

    @property
    @abstractmethod
    def compares(self) -> frozenset[str]:
        """What the views must carry beside the logits."""

    @abstractmethod
    def compare(self, student: View, teacher: View, mask: torch.Tensor | None) -> torch.Tensor:
        """Loss part `features`; `mask` is 1 at real tokens [batch, tokens], or None where padding counts."""

    def soft(self, student: View, teacher: View, batch: Batch) -> torch.Tensor:
        """Loss part `soft`."""
        return soft_labels(student.logits, teacher.logits, self.config.temperature, self.setting.regression)

    @property
    def needs(self) -> frozenset[str]:
        padding = set() if self.config.mask_padding else {"padding"}
        return frozenset({"teacher"} | self.compares | padding)

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        return unequal(student, teacher, "hidden") if "hidden_states" in self.compares else None

    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        assert teacher is not None  # guaranteed by `needs`
        mask = student.attention_mask if self.config.mask_padding else None
        parts = {"features": self.compare(student, teacher, mask)}
        return parts | ({"soft": self.soft(student, teacher, batch)} if self.config.soft_weight else {})


class HiddenStateDistiller(FeatureDistiller):
    """Compares hidden states.

    `first` is the first one that is compared: 0 is the embedding output, 1 that of the first layer. With
    `skips_removed`, a student of fixed depth is compared as the shallow model that it is: its M layers are matched with
    the teacher's N by g(m) = ceil(m N / M). A pruned student is always compared layer by layer.
    """

    first: ClassVar[int] = 1
    skips_removed: ClassVar[bool] = False

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"hidden_states"})

    @abstractmethod
    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        """Loss part `features` of the layers' outputs; `mask` as in `compare`."""

    def compare(self, student: View, teacher: View, mask: torch.Tensor | None) -> torch.Tensor:
        return self.features(self._own(student), teacher.hidden_states[self.first :], mask)

    def _own(self, student: View) -> Layers:
        states = student.hidden_states
        if self.setting.search_steps or not self.skips_removed:
            return states[self.first :]
        return (*states[self.first : 1], *(states[layer + 1] for layer in student.layers))
