"""ModernBERT's attention for heads that kept some of their rotary pairs."""

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertAttention,
    eager_attention_forward,
    rotate_half,
)

from gppdfd.structure.base import Heads


class PairsAttention(ModernBertAttention):
    """Attention whose heads kept some of their rotary pairs; each pair turns as fast as it did in the dense model."""

    scaling: float
    rotary: torch.Tensor

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = hidden_states.shape[:-1]
        states = self.Wqkv(hidden_states).view(*shape, 3, -1, self.head_dim)
        query, key, value = (part.transpose(1, 2) for part in states.unbind(dim=-3))
        query, key = self._rotated(position_embeddings, query, key)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.out_drop(self.Wo(context.reshape(*shape, -1).contiguous())), weights

    def _rotated(self, position_embeddings: Any, *states: torch.Tensor) -> list[torch.Tensor]:
        """Queries or keys [batch, heads, tokens, width], each head turned by the angles of its own pairs."""
        self.rotary = self.rotary.to(states[0].device)
        cos, sin = (part[..., self.rotary].transpose(1, 2) for part in position_embeddings)
        return [(part.float() * cos + rotate_half(part.float()) * sin).to(part.dtype) for part in states]


def rotary_places(heads: Heads) -> torch.Tensor:
    """Angle that each padded dim of each head turns by: int64 [heads, width], the pairs' halves one after the other."""
    half = heads.width // 2
    padded = [[*units, *[0] * (half - len(units))] for units in heads.units]
    return torch.tensor(padded, dtype=torch.long).view(len(heads), half).repeat(1, 2)
