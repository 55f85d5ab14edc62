"""What stands in the place of parts that were removed."""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class PassOn(nn.Module):
    """Returns its first argument, as the first of `outputs` outputs; the others are None."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden_states if self.outputs == 1 else (hidden_states, *[None] * (self.outputs - 1))


class AddNothing(PassOn):
    """Returns a zero to add to the residual stream, where the surrounding block does the adding."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(hidden_states.new_zeros(()))


class BiasAlone(Conv1D):
    """A `Conv1D` that lost all its inputs, which its own reshaping cannot handle: gives its bias."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.bias + hidden_states.new_zeros(*hidden_states.shape[:-1], 1)
