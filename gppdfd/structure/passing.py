"""What stands in the place of parts that were removed."""

from typing import Any

import torch
from torch import nn


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


def count_tokens(cache: Any, hidden_states: torch.Tensor, layer_index: int) -> None:
    """Put zeros into a generation cache for a layer without keys: generation reads the number of tokens from it."""
    batch, tokens, _ = hidden_states.shape
    nothing = hidden_states.new_zeros(batch, 1, tokens, 1)
    cache.update(nothing, nothing, layer_index)
