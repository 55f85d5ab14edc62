"""BERT and the encoders that share its module names (MiniLM and TinyBERT are BERT; RoBERTa, XLM-RoBERTa, ELECTRA)."""

from typing import Any, ClassVar

from torch import nn
from transformers import PretrainedConfig

from gppdfd.structure.base import Adapter, Layer, Structure


class BertAdapter(Adapter):
    """Layout of `BertModel` in transformers 5."""

    model_types: ClassVar[frozenset[str]] = frozenset({"bert", "roberta", "xlm-roberta", "electra"})

    def structure(self, config: PretrainedConfig) -> Structure:
        return Structure(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            head_size=config.hidden_size // config.num_attention_heads,
            intermediate=config.intermediate_size,
        )

    def layers(self, model: nn.Module) -> list[Layer]:
        return [self._layer(block) for block in model.base_model.encoder.layer]  # type: ignore[union-attr]

    def _layer(self, block: Any) -> Layer:
        attention = block.attention.self
        return Layer(
            block=block,
            query=attention.query,
            key=attention.key,
            value=attention.value,
            attention_output=block.attention.output.dense,
            ffn_up=block.intermediate.dense,
            ffn_down=block.output.dense,
        )

    def embeddings(self, model: nn.Module) -> nn.Module:
        base: Any = model.base_model
        # ELECTRA maps narrow embeddings to the hidden size in a module of its own.
        return getattr(base, "embeddings_project", base.embeddings)

    def embedding_parameters(self, model: nn.Module) -> int:
        base: Any = model.base_model
        return sum(parameter.numel() for parameter in base.embeddings.parameters())
