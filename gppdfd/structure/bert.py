"""BERT and the encoders that share its module names (MiniLM and TinyBERT are BERT; RoBERTa, XLM-RoBERTa, ELECTRA)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PretrainedConfig

from gppdfd.attention import Layout, lay_out
from gppdfd.errors import UsageError
from gppdfd.padding import change_forward
from gppdfd.structure.base import Adapter, Layer, Place, Site, Structure
from gppdfd.structure.heads import Heads
from gppdfd.structure.passing import PassOn
from gppdfd.tasks.base import Batch

LAYERS: Mapping[str, Site] = {
    r"attention\.self\.query$": Site("query", "hidden"),
    r"attention\.self\.key$": Site("key", "hidden"),
    r"attention\.self\.value$": Site("value", "hidden"),
    r"attention\.output\.dense$": Site("attention", "context"),
    r"intermediate\.dense$": Site("up", "hidden"),
    r"layer\.\d+\.output\.dense$": Site("ffn", "activation"),
    r"layer\.\d+\.(attention\.)?output\.LayerNorm$": Site("norm"),
}
EMBEDDINGS: Mapping[str, Site] = {
    r"[:.]embeddings\.(word|position|token_type)_embeddings$": Site("embedding"),
    r"[:.]embeddings\.LayerNorm$": Site("norm"),
}
READERS: Mapping[str, Site] = {
    r"ForTokenClassification:classifier$": Site(None, "hidden"),
    r":qa_outputs$": Site(None, "hidden"),
}


class BertAdapter(Adapter):
    """Layout of `BertModel` in transformers 5."""

    model_types: ClassVar[frozenset[str]] = frozenset({"bert"})
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "pooler"
    classifier: ClassVar[str] = "classifier"
    pooler: ClassVar[str | None] = "pooler"
    sites: ClassVar[Mapping[str, Site]] = {
        **LAYERS,
        **EMBEDDINGS,
        **READERS,
        r"pooler\.dense$": Site(None, "hidden"),
        r":cls\.predictions\.transform\.dense$": Site(None, "hidden"),
    }

    def structure(self, config: PretrainedConfig) -> Structure:
        if config.is_decoder or config.add_cross_attention:
            raise UsageError(f"a {config.model_type} decoder is not supported: set is_decoder to false in its config")
        return Structure(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            head_size=config.hidden_size // config.num_attention_heads,
            intermediate=config.intermediate_size,
        )

    def layers(self, model: nn.Module) -> list[Layer]:
        blocks: Any = model.base_model.encoder.layer  # type: ignore[union-attr]
        return [Layer(block, _norm(block.attention), _norm(block)) for block in blocks]

    def embeddings(self, model: nn.Module) -> nn.Module:
        return model.base_model.embeddings  # type: ignore[union-attr,return-value]

    def inputs(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        return {**super().inputs(batch), "token_type_ids": batch.token_type_ids}

    def set_heads(self, block: Any, count: int) -> None:
        attention = block.attention.self
        attention.num_attention_heads = count
        attention.all_head_size = count * attention.attention_head_size

    def set_layout(self, block: Any, heads: Heads) -> None:
        attention = block.attention.self
        layout = Layout(heads, "query", "key", "value")
        lay_out(attention, block.attention.output.dense, layout, grouped_attention)

    def remove_attention(self, block: Any) -> None:
        block.attention = PassOn(outputs=2)

    def remove_ffn(self, block: Any) -> None:
        block.intermediate, block.output = nn.Identity(), PassOn()

    def add_in_place(self, block: Any) -> None:
        for part in (block.attention, block):
            if _norm(part) is not None:
                change_forward(part.output, added_in_place, "InPlace")


class RobertaAdapter(BertAdapter):
    """BERT without a pooler in its classifier: a dense layer on the first token."""

    model_types: ClassVar[frozenset[str]] = frozenset({"roberta", "xlm-roberta"})
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "first"
    classifier: ClassVar[str] = "classifier.out_proj"
    sites: ClassVar[Mapping[str, Site]] = {
        **LAYERS,
        **EMBEDDINGS,
        **READERS,
        r"pooler\.dense$": Site(None, "hidden"),
        r"ForSequenceClassification:classifier\.dense$": Site(None, "hidden"),
        r":lm_head\.dense$": Site(None, "hidden"),
    }

    def longest_input(self, config: PretrainedConfig) -> int | None:
        """Positions are counted from behind the padding token's id."""
        positions: int = config.max_position_embeddings
        padding: int | None = config.pad_token_id
        return positions if padding is None else positions - 1 - padding


class ElectraAdapter(BertAdapter):
    """BERT whose embeddings may be narrower than its layers; then a map of their own widens them."""

    model_types: ClassVar[frozenset[str]] = frozenset({"electra"})
    sentence: ClassVar[Literal["pooler", "first", "last"]] = "first"
    classifier: ClassVar[str] = "classifier.out_proj"
    sites: ClassVar[Mapping[str, Site]] = {
        **LAYERS,
        **EMBEDDINGS,
        **READERS,
        r"[:.]embeddings_project$": Site("embedding"),
        r"ForSequenceClassification:classifier\.dense$": Site(None, "hidden"),
        r":generator_predictions\.dense$": Site(None, "hidden"),
    }

    def embeddings(self, model: nn.Module) -> nn.Module:
        base: Any = model.base_model
        return getattr(base, "embeddings_project", base.embeddings)

    def places(self, model: nn.Module) -> Iterator[Place]:
        """Where a map widens the embeddings, these have no hidden dims themselves."""
        widened = hasattr(model.base_model, "embeddings_project")
        for place in super().places(model):
            if not (widened and re.search(r"(^|\.)embeddings\.", place.path)):
                yield place


def grouped_attention(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Forward pass of `BertSelfAttention` for heads that have sizes of their own."""
    dropout = self.dropout.p if self.training else 0.0
    return self.layout.attend(self, hidden_states, attention_mask, dropout=dropout, scaling=self.scaling, **settings)


def added_in_place(self: Any, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
    """Forward pass of `BertSelfOutput` and `BertOutput` whose sum takes the memory of the projection's output.

    That is 6 to 9 % of the layers' time at sparsity .95 on a CPU. Where something else may read the output, it stays.
    """
    states = self.dropout(self.dense(hidden_states))
    if torch.is_grad_enabled() or not _disposable(self, states) or states.dtype != input_tensor.dtype:
        return self.LayerNorm(states + input_tensor)
    return self.LayerNorm(states.add_(input_tensor))


def _disposable(output: Any, states: torch.Tensor) -> bool:
    """Whether nobody else holds the output of the projection: no hook, no wrapper, and not its bias for all tokens."""
    hooked = output.dense._forward_hooks or output.dropout._forward_hooks
    return not hooked and isinstance(output.dense, nn.Linear) and states.is_contiguous()


def _norm(part: Any) -> nn.Module | None:
    """LayerNorm after a sublayer; None where the sublayer has been removed."""
    return getattr(part.output, "LayerNorm", None) if hasattr(part, "output") else None
