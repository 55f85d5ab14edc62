"""What a distiller sees of a model: one view, the same for the masked and for the extracted student."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gppdfd.pruned import PrunedModel, kept
from gppdfd.structure import adapter_for
from gppdfd.tasks.base import Batch


@dataclass(frozen=True)
class View:
    """Outputs of one forward pass, in float32 or wider.

    Attributes:
        logits: [batch, classes], or [batch, 1] for regression.
        hidden_states: embedding output first, then one [batch, tokens, hidden] per original layer, removed dims 0;
            empty unless a distiller needs them.
        attention_mask: int64 [batch, tokens], 1 at real tokens.
    """

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    attention_mask: torch.Tensor


class Observed:
    """A model called on batches, giving views; `hidden_states` are collected only when asked for."""

    def __init__(self, model: nn.Module, needs: frozenset[str] = frozenset()) -> None:
        self.model = model
        self._adapter = adapter_for(model)
        self._states: list[torch.Tensor] = []
        self._hidden = _kept_hidden(model)
        self._handles = []
        if "hidden_states" in needs:
            blocks = [layer.block for layer in self._adapter.layers(model)]
            for module in (self._adapter.embeddings(model), *blocks):
                self._handles.append(module.register_forward_hook(self._collect))

    def __call__(self, batch: Batch) -> View:
        self._states.clear()
        logits = self.model(**self._adapter.inputs(batch)).logits
        states = tuple(map(_at_least_float32, self._states))
        self._states.clear()
        return View(_at_least_float32(logits), states, batch.attention_mask)

    def remove(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()

    def _collect(self, module: nn.Module, inputs: Any, output: Any) -> None:
        states = output if isinstance(output, torch.Tensor) else output[0]
        self._states.append(states if self._hidden is None else _scattered(states, self._hidden))


def matched_layers(students: int, teachers: int) -> list[int]:
    """0-based teacher layer for each student layer: g(m) = ceil(m * teachers / students) for m = 1..students."""
    return [math.ceil(m * teachers / students) - 1 for m in range(1, students + 1)]


def layer_fractions(layers: Sequence[int], count: int, written_for: int = 12) -> list[int]:
    """0-based layers of a model of `count` layers for a list written for 12: ceil(i * count / 12), once each.

    CoFi's 3, 6, 9, 12 become 2, 3, 5, 6 of 6 layers and 1, 2, 3, 4 of 4 (counted from 1).
    """
    return sorted({math.ceil(layer * count / written_for) - 1 for layer in layers})


Viewer = Callable[[Batch], View]


def _kept_hidden(model: Any) -> torch.Tensor | None:
    """bool [hidden] of an extracted model that lost hidden dims."""
    hidden = kept(model)["hidden"] if isinstance(model, PrunedModel) else None
    return None if hidden is None or hidden.all() else hidden.to(next(model.parameters()).device)


def _scattered(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """States at the original width, zeros where dims were removed: [..., kept dims] -> [..., hidden]."""
    wide = states.new_zeros(*states.shape[:-1], len(kept))
    wide[..., kept] = states
    return wide


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
