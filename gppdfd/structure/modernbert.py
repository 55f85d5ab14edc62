"""ModernBERT: LayerNorms before the sublayers, fused and gated maps without biases, rotary and local attention."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn
from transformers import PretrainedConfig

from gppdfd.structure.base import Adapter, Heads, Layer, Site, Structure
from gppdfd.structure.passing import AddNothing


class ModernBertAdapter(Adapter):
    """Layout of `ModernBertModel` in transformers 5."""

    model_types: ClassVar[frozenset[str]] = frozenset({"modernbert"})
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "first"
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

    def set_heads(self, block: Any, heads: Heads) -> None:
        from gppdfd.structure.rotary import PairsAttention, rotary_places  # imports the modelling code, which is slow

        attention = block.attn
        if all(rows == attention.head_dim for rows in heads.qk):
            return
        attention.scaling = attention.head_dim**-0.5
        attention.head_dim, attention.rotary = heads.width, rotary_places(heads)
        attention.__class__ = PairsAttention

    def remove_attention(self, block: Any) -> None:
        block.attn, block.attn_norm = AddNothing(outputs=2), nn.Identity()

    def remove_ffn(self, block: Any) -> None:
        block.mlp, block.mlp_norm = AddNothing(), nn.Identity()
