"""Masks in the forward pass of any supported encoder, without a fork of its modelling code.

A head's mask multiplies its context before the attention output projection; an FFN unit's mask multiplies its
activation before the down projection. Both are inputs of a linear map, so two forward-pre-hooks per layer are all it
takes, whatever attention implementation runs. A sublayer whose masks are all 0 is emptied, not removed: its output bias
and LayerNorm stay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gppdfd.structure import Masks, adapter_for


class MaskedEncoder:
    """Holds the masks that the forward pass of `model` multiplies in; None means the dense model."""

    def __init__(self, model: nn.Module) -> None:
        adapter = adapter_for(model)
        self.masks: Masks | None = None
        self._head_size = adapter.structure(model.config).head_size
        self._handles = []
        for index, layer in enumerate(adapter.layers(model)):
            for module, mask in ((layer.attention_output, self._context_mask), (layer.ffn_down, self._ffn_mask)):
                self._handles.append(module.register_forward_pre_hook(_multiply_by(mask, index)))

    def remove(self) -> None:
        """Take the hooks out again; the model is as it was."""
        for handle in self._handles:
            handle.remove()

    def _context_mask(self, layer: int) -> torch.Tensor | None:
        if self.masks is None or "head" not in self.masks:
            return None
        return self.masks["head"][layer].repeat_interleave(self._head_size)

    def _ffn_mask(self, layer: int) -> torch.Tensor | None:
        if self.masks is None or "ffn" not in self.masks:
            return None
        return self.masks["ffn"][layer]


def _multiply_by(mask: Callable[[int], torch.Tensor | None], layer: int) -> Callable:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        values = mask(layer)
        if values is None:
            return None
        # A float32 mask promotes a bfloat16 activation, so mask gradients are summed in float32 under autocast.
        return (inputs[0] * values, *inputs[1:])

    return hook


@contextmanager
def masked(model: nn.Module, masks: Masks) -> Iterator[nn.Module]:
    """`model` under `masks` inside the block."""
    encoder = MaskedEncoder(model)
    encoder.masks = masks
    try:
        yield model
    finally:
        encoder.remove()
