"""Tiny random encoders and data for tests: seconds, not minutes, and no square shapes that hide a swapped axis."""

import torch
import transformers
from hypothesis import strategies as st
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gppdfd.structure import KINDS, Keep, Structure, adapter_for, structure_of
from gppdfd.tasks.encoding import Encoded

VOCABULARY = 60
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "gpt2", "modernbert")


def tiny_config(
    model_type: str = "bert", labels: int = 3, attention: str = "sdpa", layers: int = 3, dropout: float = 0.0
) -> PretrainedConfig:
    """3 layers x 4 heads of 8, FFN 40."""
    own = {
        "distilbert": {
            "hidden_dim": 40,
            "dropout": dropout,
            "attention_dropout": dropout,
            "seq_classif_dropout": dropout,
        },
        "gpt2": {"n_inner": 40, "resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout},
        "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
        "electra": {"embedding_size": 24},
    }
    config = CONFIG_MAPPING[model_type](
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=40,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        num_labels=labels,
        initializer_range=0.2,
        attn_implementation=attention,
        **own.get(model_type, {}),
    )
    if model_type not in ("distilbert", "gpt2"):
        config.intermediate_size = 40
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return config


def tiny_model(
    model_type: str = "bert",
    labels: int = 3,
    seed: int = 0,
    attention: str = "sdpa",
    task: str = "SequenceClassification",
    layers: int = 3,
    dropout: float = 0.0,
) -> PreTrainedModel:
    """Random weights, also in LayerNorms and biases, so that feature sums are not 0 and nothing cancels."""
    torch.manual_seed(seed)
    auto = getattr(transformers, f"AutoModelFor{task}" if task else "AutoModel")
    model = auto.from_config(tiny_config(model_type, labels, attention, layers, dropout))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
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


def random_keep(
    model: PreTrainedModel, share: float = 0.5, seed: int = 0, kinds: tuple[str, ...] = ("head", "ffn")
) -> Keep:
    """Keep of about `share` of the units; hidden dim 0 always stays."""
    structure = structure_of(model)
    stream = torch.Generator().manual_seed(seed)
    keep = {kind: torch.rand(structure.shape(kind), generator=stream) < share for kind in kinds}
    if "hidden" in keep:
        keep["hidden"][0] = True
    return keep


@st.composite
def keeps(draw: st.DrawFn, structure: Structure) -> Keep:
    """Keeps of any kinds: each row of units random, full, with one unit left or empty."""
    keep = {}
    for kind in draw(st.sets(st.sampled_from(KINDS), min_size=1)):
        shape = structure.shape(kind)
        stream = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
        units = torch.rand(shape, generator=stream) < draw(st.sampled_from([0.1, 0.5, 0.9]))
        rows = units.view(-1, shape[-1])
        for row in range(len(rows)):
            how = draw(st.sampled_from(["random", "random", "full", "one", "empty"]))
            rows[row] = {"random": rows[row], "full": True, "empty": False}.get(how, torch.arange(shape[-1]) == row)
        if kind == "hidden":
            units[draw(st.integers(0, structure.hidden - 1))] = True
        keep[kind] = units
    return keep


def linear_parameters(model: PreTrainedModel) -> int:
    """Weights and biases of the attention and FFN maps of the layers that are not 0, counted on the modules."""
    return sum(
        int(weight.count_nonzero()) for place in adapter_for(model).maps(model) for weight in place.module.parameters()
    )


def tiny_inputs() -> dict[str, torch.Tensor]:
    """Three sequences of different lengths, padded on the right."""
    tokens = torch.randint(5, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(2))
    attention_mask = (torch.arange(11) < torch.tensor([[11], [7], [4]])).long()
    return {"input_ids": tokens * attention_mask, "attention_mask": attention_mask}


@torch.no_grad()
def main_output(model: PreTrainedModel) -> torch.Tensor:
    """Logits, start and end logits side by side, or the last hidden states."""
    output = model.eval()(**tiny_inputs())
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output.logits if "logits" in output else output.last_hidden_state
