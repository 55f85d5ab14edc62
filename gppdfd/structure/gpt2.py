"""GPT-2: a causal decoder with LayerNorms before the sublayers and one fused map for queries, keys and values."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PretrainedConfig

from gppdfd.attention import Layout, lay_out
from gppdfd.errors import UsageError
from gppdfd.structure.base import Adapter, Layer, Site, Structure
from gppdfd.structure.heads import Heads
from gppdfd.structure.passing import AddNothing, count_tokens


class GPT2Adapter(Adapter):
    """Layout of `GPT2Model` in transformers 5."""

    model_types: ClassVar[frozenset[str]] = frozenset({"gpt2"})
    tasks: ClassVar[tuple[str, ...]] = (
        "SequenceClassification",
        "TokenClassification",
        "QuestionAnswering",
        "CausalLM",
    )
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "last"
    classifier: ClassVar[str] = "score"
    sites: ClassVar[Mapping[str, Site]] = {
        r"[:.](wte|wpe)$": Site("embedding"),
        r"[:.]ln_(1|2|f)$": Site("norm"),
        r"attn\.c_attn$": Site("query_key_value", "hidden"),
        r"attn\.c_proj$": Site("attention", "context"),
        r"mlp\.c_fc$": Site("up", "hidden"),
        r"mlp\.c_proj$": Site("ffn", "activation"),
        r"ForSequenceClassification:score$": Site(None, "hidden"),
        r"ForTokenClassification:classifier$": Site(None, "hidden"),
        r":qa_outputs$": Site(None, "hidden"),
        r":lm_head$": Site(None, "hidden"),
    }

    def structure(self, config: PretrainedConfig) -> Structure:
        for setting in ("add_cross_attention", "reorder_and_upcast_attn"):
            if getattr(config, setting):
                raise UsageError(f"GPT-2 with {setting} is not supported: set it to false in its config")
        return Structure(
            layers=config.n_layer,
            hidden=config.n_embd,
            heads=config.n_head,
            head_size=config.n_embd // config.n_head,
            intermediate=config.n_inner or 4 * config.n_embd,
        )

    def layers(self, model: nn.Module) -> list[Layer]:
        return [Layer(block, None, None) for block in model.base_model.h]  # type: ignore[union-attr]

    def embeddings(self, model: nn.Module) -> nn.Module:
        return model.base_model.drop  # type: ignore[union-attr,return-value]

    def embedding_modules(self, model: nn.Module) -> tuple[nn.Module, ...]:
        base: Any = model.base_model
        return base.wte, base.wpe

    def set_heads(self, block: Any, count: int) -> None:
        attention = block.attn
        attention.num_heads, attention.split_size = count, count * attention.head_dim

    def set_layout(self, block: Any, heads: Heads) -> None:
        attention = block.attn
        lay_out(attention, attention.c_proj, Layout(heads, "c_attn"), grouped_attention)

    def remove_attention(self, block: Any) -> None:
        block.attn, block.ln_1 = NothingToAttend(block.attn.layer_idx), nn.Identity()

    def remove_ffn(self, block: Any) -> None:
        block.mlp, block.ln_2 = AddNothing(), nn.Identity()


def grouped_attention(
    self: Any,
    hidden_states: torch.Tensor,
    past_key_values: Any = None,
    attention_mask: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Forward pass of `GPT2Attention` for heads that have sizes of their own."""
    dropout = self.attn_dropout.p if self.training else 0.0
    context, weights = self.layout.attend(
        self,
        hidden_states,
        attention_mask,
        cache=past_key_values,
        dropout=dropout,
        scaling=self.scaling,
        **settings,
    )
    return self.resid_dropout(self.c_proj(context)), weights


class NothingToAttend(AddNothing):
    """In the place of a removed attention sublayer: counts the tokens in the cache, whose length generation reads."""

    def __init__(self, layer_index: int) -> None:
        super().__init__(outputs=2)
        self.layer_index = layer_index

    def forward(self, hidden_states: torch.Tensor, past_key_values: Any = None, **kwargs: Any) -> Any:
        if past_key_values is not None:
            count_tokens(past_key_values, hidden_states, self.layer_index)
        return super().forward(hidden_states)
