"""Linear maps that compute at padded sizes, or not at all, while their weights hold only what was kept.

Matrix products are slower at odd sizes: on CPUs up to twice, and GPU kernels ask for multiples of 8. Padding the
weights in the forward pass copies a few small rows; padding activations or storing zeros would cost more, or change
what the model holds.
"""

from collections.abc import Callable
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


def pad_outputs(module: nn.Module, padding: "Padding") -> None:
    """Make a linear map give padded outputs: [..., inputs] -> [..., padded]."""
    module.padding = padding  # type: ignore[assignment]
    change_forward(module, _padded_outputs, "Padded")


def pad_inputs(module: nn.Module, padding: "Padding") -> None:
    """Make a linear map take padded inputs: [..., padded] -> [..., outputs]."""
    module.padding = padding  # type: ignore[assignment]
    change_forward(module, _padded_inputs, "Padded")


def without_inputs(module: nn.Module) -> None:
    """Make a linear map that lost all its inputs give its bias, without a product over nothing."""
    change_forward(module, _bias_alone, "Padded")


def without_outputs(module: nn.Module) -> None:
    """Make a linear map that lost all its outputs give none, without a product."""
    change_forward(module, _nothing, "Padded")


def change_forward(module: nn.Module, forward: Callable, prefix: str) -> None:
    """Give `module` another forward pass, a function of a module; its class is then named `prefix` and the old name."""
    module.__class__ = _changed_class(type(module), forward, prefix)  # type: ignore[arg-type]


class Constant:
    """A tensor on the CPU with a copy on every other device that asked for it: replicas of a model share it."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values
        self._copies: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The tensor on `device`; copied there once, as each copy would make the host wait."""
        if device == self._values.device:
            return self._values
        if device not in self._copies:
            self._copies[device] = self._values.to(device)
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        return {"_values": self._values, "_copies": {}}


class Padding:
    """Rows and rows of zeros in the order of `places`; a place behind the last row is a row of zeros."""

    def __init__(self, places: list[int], rows: int) -> None:
        self._places = Constant(torch.tensor(places))
        # Zeros at the end only, the common case, take no index: that is cheaper in the backward pass.
        self._extra = len(places) - rows if places == filled(range(rows), len(places), rows) else None
        self._rows = rows

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Rows of a weight [rows, ...] (or entries of a bias) -> [places, ...]."""
        if self._extra is not None:
            return _pad_rows(weight, self._extra)
        return _pad_rows(weight, 1).index_select(0, self._places.on(weight.device))

    def outputs(self, states: torch.Tensor) -> torch.Tensor:
        """Features in the order of the places: [..., rows] -> [..., places]."""
        if self._extra is not None:
            return pad(states, (0, self._extra))
        return pad(states, (0, 1)).index_select(-1, self._places.on(states.device))

    def taken_out(self, padded: torch.Tensor) -> torch.Tensor:
        """Features in the order of the rows again: [..., places] -> [..., rows]."""
        if self._extra is not None:
            return padded[..., : self._rows]
        return padded.index_select(-1, self._places.on(padded.device).argsort()[: self._rows])


def _padded_outputs(self: Any, states: torch.Tensor) -> torch.Tensor:
    bias = None if self.bias is None else self.padding(self.bias)
    return linear(states, self.padding(outputs_first(self)), bias)


def _padded_inputs(self: Any, states: torch.Tensor) -> torch.Tensor:
    return linear(states, self.padding(outputs_first(self).t()).t(), self.bias)


def _bias_alone(self: Any, states: torch.Tensor) -> torch.Tensor:
    nothing = states.new_zeros(outputs_first(self).shape[0])
    row = nothing if self.bias is None else nothing + self.bias
    return row.expand(*states.shape[:-1], -1)  # the same memory for all tokens


def _nothing(self: Any, states: torch.Tensor) -> torch.Tensor:
    return states[..., :0]


def _pad_rows(weight: torch.Tensor, count: int) -> torch.Tensor:
    return pad(weight, (0, count) if weight.ndim == 1 else (0, 0, 0, count))


@cache
def _changed_class(dense: Any, forward: Any, prefix: str) -> Any:
    """Subclass of a module's own class, so that libraries go on to recognise it.

    It is made at run time, so that no other process finds it by name: pickles say what it is made of.
    """

    def reduce(self: Any, protocol: Any) -> tuple:
        return _unfilled, (dense, forward, prefix), self.__dict__

    members = {"forward": forward, "__reduce_ex__": reduce, "__module__": __name__}
    return type(f"{prefix}{dense.__name__}", (dense,), members)


def _unfilled(dense: Any, forward: Any, prefix: str) -> Any:
    """Module of a changed class, for a pickle to fill."""
    cls = _changed_class(dense, forward, prefix)
    return cls.__new__(cls)
