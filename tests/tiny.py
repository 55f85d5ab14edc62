"""Tiny random encoders and data for tests: seconds, not minutes, and no square shapes that hide a swapped axis."""

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gppdfd.structure import Keep, structure_of
from gppdfd.tasks.encoding import Encoded

VOCABULARY = 60


def tiny_model(model_type: str = "bert", labels: int = 3, seed: int = 0, attention: str = "sdpa") -> PreTrainedModel:
    """3 layers x 4 heads of 8, FFN 40, with random LayerNorms so that feature sums are not 0; no dropout."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[model_type](
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=labels,
        attn_implementation=attention,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def tiny_data(rows: int = 40, labels: int = 3, seed: int = 0) -> Encoded:
    """Random token sequences of 4 to 11 tokens; the label follows from the first token."""
    stream = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 12, (rows,), generator=stream)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    tokens = torch.randint(5, VOCABULARY, (int(offsets[-1]),), generator=stream, dtype=torch.int32)
    first = tokens[offsets[:-1]]
    answers = (first % labels).long() if labels > 1 else first / VOCABULARY * 5
    return Encoded(tokens, torch.zeros_like(tokens, dtype=torch.uint8), offsets, answers, pad=0)


def random_keep(model: PreTrainedModel, share: float = 0.5, seed: int = 0) -> Keep:
    """Keep of about `share` of the units."""
    structure = structure_of(model)
    stream = torch.Generator().manual_seed(seed)
    return {kind: torch.rand(structure.shape(kind), generator=stream) < share for kind in ("head", "ffn")}
