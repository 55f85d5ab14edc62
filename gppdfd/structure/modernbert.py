"""ModernBERT: LayerNorms before the sublayers, fused and gated maps without biases, rotary and local attention."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PretrainedConfig

from gppdfd.attention import Layout, lay_out
from gppdfd.structure.base import Adapter, Layer, Site, Structure
from gppdfd.structure.heads import Heads
from gppdfd.structure.passing import AddNothing


class ModernBertAdapter(Adapter):
    """Layout of `ModernBertModel` in transformers 5."""

    model_types: ClassVar[frozenset[str]] = frozenset({"modernbert"})
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "first"
    classifier: ClassVar[str] = "classifier"
    sites: ClassVar[Mapping[str, Site]] = {
        r"[:.]embeddings\.tok_embeddings$": Site("embedding"),
        r"[:.]embeddings\.norm$": Site("norm"),
        r"[:.](attn_norm|mlp_norm|final_norm)$": Site("norm"),
        r"attn\.Wqkv$": Site("query_key_value", "hidden"),
        r"attn\.Wo$": Site("attention", "context"),
        r"mlp\.Wi$": Site("gated_up", "hidden"),
        r"mlp\.Wo$": Site("ffn", "activation"),
        r":head\.dense$": Site(None, "hidden"),
    }

    def structure(self, config: PretrainedConfig) -> Structure:
        return Structure(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            head_size=config.hidden_size // config.num_attention_heads,
            intermediate=int(config.intermediate_size),
            pair=2,
            gated=True,
            qkv_bias=config.attention_bias,
            attention_bias=config.attention_bias,
            up_bias=config.mlp_bias,
            down_bias=config.mlp_bias,
        )

    def layers(self, model: nn.Module) -> list[Layer]:
        return [Layer(block, None, None) for block in model.base_model.layers]  # type: ignore[union-attr]

    def embeddings(self, model: nn.Module) -> nn.Module:
        return model.base_model.embeddings  # type: ignore[union-attr,return-value]

    def set_heads(self, block: Any, count: int) -> None:
        """Nothing to do: its attention asks the width of its projection for the number of heads."""

    def set_layout(self, block: Any, heads: Heads) -> None:
        attention = block.attn
        lay_out(attention, attention.Wo, Layout(heads, "Wqkv"), grouped_attention)

    def remove_attention(self, block: Any) -> None:
        block.attn, block.attn_norm = AddNothing(outputs=2), nn.Identity()

    def remove_ffn(self, block: Any) -> None:
        block.mlp, block.mlp_norm = AddNothing(), nn.Identity()


def grouped_attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Forward pass of `ModernBertAttention` for heads that kept some of their rotary pairs.

    Each pair turns as fast as it did in the dense model.
    """

    def rotated(states: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        cos, sin = (angles[..., units].transpose(1, 2) for angles in position_embeddings)
        first, second = states.float().chunk(2, -1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        return turned.to(states.dtype)

    context, weights = self.layout.attend(
        self,
        hidden_states,
        attention_mask,
        rotate=rotated,
        dropout=self.attention_dropout if self.training else 0.0,
        scaling=self.head_dim**-0.5,
        sliding_window=self.sliding_window,
        **settings,
    )
    return self.out_drop(self.Wo(context)), weights
