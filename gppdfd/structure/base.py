"""Structure of a transformer encoder, and the seam that every architecture fills in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig

from gppdfd.tasks.base import Batch

Masks = dict[str, torch.Tensor]
"""Real values in [0, 1] by kind: `head` [layers, heads], `ffn` [layers, intermediate]."""

Keep = dict[str, torch.Tensor]
"""Final decision by kind: bool tensors of the shapes of `Masks`."""


@dataclass(frozen=True)
class Structure:
    """Sizes of a uniform encoder, and the shape and cost of its units.

    A kind is named in `shape` and `cost` alone, so a new kind is a new entry there.
    """

    layers: int
    hidden: int
    heads: int
    head_size: int
    intermediate: int

    def shape(self, kind: str) -> tuple[int, int]:
        """Shape of the masks of a kind."""
        return {"head": (self.layers, self.heads), "ffn": (self.layers, self.intermediate)}[kind]

    def cost(self, kind: str) -> int:
        """Weights and biases that leave with one unit (a head: its q, k, v rows and its output columns)."""
        return {
            "head": 4 * self.hidden * self.head_size + 3 * self.head_size,
            "ffn": 2 * self.hidden + 1,
        }[kind]

    @property
    def fixed(self) -> int:
        """Parameters of the attention and FFN maps that no unit owns: both output biases of every layer."""
        return 2 * self.hidden * self.layers

    @property
    def prunable(self) -> int:
        """Weights and biases of all attention and FFN linear maps: 85,017,600 for BERT-base (CoFi's count)."""
        return self.fixed + sum(self.layers * self.shape(kind)[1] * self.cost(kind) for kind in ("head", "ffn"))

    def ones(self, kinds: tuple[str, ...], device: torch.device | None = None) -> Masks:
        """Masks that change nothing."""
        return {kind: torch.ones(self.shape(kind), device=device) for kind in kinds}

    def keep_all(self) -> Keep:
        """The keep of the dense model."""
        return {kind: torch.ones(self.shape(kind), dtype=torch.bool) for kind in ("head", "ffn")}


@dataclass(frozen=True)
class Layer:
    """The modules of one transformer layer that units live in.

    `block` returns the hidden states of the layer. Heads own `head_size` consecutive rows of `query`, `key`, `value`
    and the same columns of `attention_output`; FFN units own rows of `ffn_up` and columns of `ffn_down`.
    """

    block: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    ffn_up: nn.Linear
    ffn_down: nn.Linear


class Adapter(ABC):
    """All knowledge about one family of architectures."""

    model_types: ClassVar[frozenset[str]]

    @abstractmethod
    def structure(self, config: PretrainedConfig) -> Structure:
        """Units of the dense model that `config` describes."""

    @abstractmethod
    def layers(self, model: nn.Module) -> list[Layer]:
        """Modules of every layer, in order."""

    @abstractmethod
    def embeddings(self, model: nn.Module) -> nn.Module:
        """Module whose output is hidden state 0."""

    @abstractmethod
    def embedding_parameters(self, model: nn.Module) -> int:
        """Parameters of the embeddings, which tables count apart from the encoder."""

    def inputs(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Keyword arguments of the model's forward."""
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "token_type_ids": batch.token_type_ids,
        }


def unit_rows(keep: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of the rows owned by kept units of `size` rows each: bool [units] -> int64 [kept * size]."""
    return keep.repeat_interleave(size).nonzero().flatten()
