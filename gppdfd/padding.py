"""Linear maps that compute at padded sizes while their weights hold only what was kept.

Matrix products are slower at odd sizes: on CPUs up to twice, and GPU kernels ask for multiples of 8. Padding the
weights in the forward pass copies a few small rows; padding activations or storing zeros would cost more, or change
what the model holds.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad
from transformers.pytorch_utils import Conv1D

MULTIPLE = 8


def padded_size(size: int, dense: int) -> int:
    """Next multiple of 8, never above the dense size; that itself is never padded."""
    return min(-(-size // MULTIPLE) * MULTIPLE, dense)


def outputs_first(module: Any) -> torch.Tensor:
    """Weight of a linear map as [outputs, inputs]."""
    return module.weight.t() if isinstance(module, Conv1D) else module.weight


def filled(places: Any, size: int, filler: int) -> list[int]:
    """`places`, then `filler` up to `size` entries."""
    return [*places, *[filler] * (size - len(places))]


def spread_rows(weight: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows of a weight (or entries of a bias) at `places`; the place behind the last one is a row of zeros."""
    return pad(weight, (0, 1) if weight.ndim == 1 else (0, 0, 0, 1)).index_select(0, places)


def pad_outputs(module: nn.Module, places: list[int]) -> None:
    """Make a linear map give padded outputs: [..., inputs] -> [..., len(places)]."""
    _retype(module, _PaddedOutputs, places)


def pad_inputs(module: nn.Module, places: list[int]) -> None:
    """Make a linear map take padded inputs: [..., len(places)] -> [..., outputs]."""
    _retype(module, _PaddedInputs, places)


class _PaddedOutputs:
    places: torch.Tensor

    def forward(self: Any, states: torch.Tensor) -> torch.Tensor:
        self.places = self.places.to(states.device)
        bias = None if self.bias is None else spread_rows(self.bias, self.places)
        return linear(states, spread_rows(outputs_first(self), self.places), bias)


class _PaddedInputs:
    places: torch.Tensor

    def forward(self: Any, states: torch.Tensor) -> torch.Tensor:
        self.places = self.places.to(states.device)
        return linear(states, spread_rows(outputs_first(self).t(), self.places).t(), self.bias)


def _retype(module: nn.Module, mixin: type, places: list[int]) -> None:
    module.places = torch.tensor(places)
    module.__class__ = _padded_class(type(module), mixin)  # type: ignore[arg-type]


@cache
def _padded_class(dense: Any, mixin: Any) -> Any:
    """Subclass of a module's own class with another forward pass, so that libraries go on to recognise it."""
    return type(f"Padded{dense.__name__}", (mixin, dense), {"__module__": __name__})
