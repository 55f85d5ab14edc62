"""DistilBERT: BERT without token types and pooler, with other module names."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PretrainedConfig

from gppdfd.attention import Layout, lay_out
from gppdfd.structure.base import Adapter, Layer, Site, Structure
from gppdfd.structure.heads import Heads
from gppdfd.structure.passing import AddNothing


class DistilBertAdapter(Adapter):
    """Layout of `DistilBertModel` in transformers 5."""

    model_types: ClassVar[frozenset[str]] = frozenset({"distilbert"})
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "first"
    classifier: ClassVar[str] = "classifier"
    sites: ClassVar[Mapping[str, Site]] = {
        r"[:.]embeddings\.(word|position)_embeddings$": Site("embedding"),
        r"[:.]embeddings\.LayerNorm$": Site("norm"),
        r"attention\.q_lin$": Site("query", "hidden"),
        r"attention\.k_lin$": Site("key", "hidden"),
        r"attention\.v_lin$": Site("value", "hidden"),
        r"attention\.out_lin$": Site("attention", "context"),
        r"ffn\.lin1$": Site("up", "hidden"),
        r"ffn\.lin2$": Site("ffn", "activation"),
        r"\.(sa|output)_layer_norm$": Site("norm"),
        r":pre_classifier$": Site(None, "hidden"),
        r"ForTokenClassification:classifier$": Site(None, "hidden"),
        r":qa_outputs$": Site(None, "hidden"),
        r":vocab_transform$": Site(None, "hidden"),
    }

    def structure(self, config: PretrainedConfig) -> Structure:
        return Structure(
            layers=config.n_layers,
            hidden=config.dim,
            heads=config.n_heads,
            head_size=config.dim // config.n_heads,
            intermediate=config.hidden_dim,
        )

    def layers(self, model: nn.Module) -> list[Layer]:
        blocks: Any = model.base_model.transformer.layer  # type: ignore[union-attr]
        return [Layer(block, block.sa_layer_norm, block.output_layer_norm) for block in blocks]

    def embeddings(self, model: nn.Module) -> nn.Module:
        return model.base_model.embeddings  # type: ignore[union-attr,return-value]

    def set_heads(self, block: Any, count: int) -> None:
        block.attention.n_heads = count

    def set_layout(self, block: Any, heads: Heads) -> None:
        attention = block.attention
        lay_out(attention, attention.out_lin, Layout(heads, "q_lin", "k_lin", "v_lin"), grouped_attention)

    def remove_attention(self, block: Any) -> None:
        block.attention, block.sa_layer_norm = AddNothing(outputs=2), nn.Identity()

    def remove_ffn(self, block: Any) -> None:
        block.ffn, block.output_layer_norm = AddNothing(), nn.Identity()


def grouped_attention(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Forward pass of `DistilBertSelfAttention` for heads that have sizes of their own."""
    dropout = self.dropout.p if self.training else 0.0
    context, weights = self.layout.attend(
        self, hidden_states, attention_mask, dropout=dropout, scaling=self.scaling, **settings
    )
    return self.out_lin(context), weights
