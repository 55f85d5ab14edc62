"""Word embeddings as two factors: a narrow table and a map that widens its rows.

GRAIN (Yang, Cui, Yao, Wang 2023, arXiv 2212.07634) factorises before it prunes: with the singular values in falling
order, W = U S V^T [vocabulary, width] becomes the table U_r S_r [vocabulary, rank] and the map V_r^T, without a bias;
both are trained on. No other product of rank r is closer to W. Position and token-type embeddings stay.

The decomposition is the economic one: a full U of BERT-base would take 3.7 GB and give the same factors.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from gppdfd.errors import UsageError

WIDENING = "widening"
"""Name of the map inside a factorised embedding."""


class FactorisedEmbedding(nn.Embedding):
    """Embedding whose rows are widened by a linear map.

    Args:
        table: [vocabulary, rank], the embedding's own weight.
        widening: [width, rank].
    """

    def __init__(self, table: torch.Tensor, widening: torch.Tensor, padding_idx: int | None = None) -> None:
        tokens, rank = table.shape
        super().__init__(tokens, rank, padding_idx=padding_idx, _weight=table)
        self.widening = nn.utils.skip_init(nn.Linear, rank, len(widening), bias=False, device="meta")
        self.widening.weight = nn.Parameter(widening)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids: int64 [...] -> [..., width]."""
        return self.widening(super().forward(ids))


def factors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Table [vocabulary, rank] and map [width, rank] whose product table @ map^T is nearest to `weight`.

    Args:
        weight: [vocabulary, width]; one without memory (device `meta`) gives factors without memory.
    """
    if weight.is_meta:
        return weight.new_empty(len(weight), rank), weight.new_empty(weight.shape[1], rank)
    exact = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    left, values, right = torch.linalg.svd(exact, full_matrices=False)
    table, widening = left[:, :rank] * values[:rank], right[:rank].t()
    return table.to(weight.dtype).contiguous(), widening.to(weight.dtype).contiguous()


def factorise(model: PreTrainedModel, rank: int) -> None:
    """Factorise the word embeddings of `model` in place.

    An output embedding that was tied to them keeps a full table of its own, and the config says so.

    Raises:
        UsageError: they are factorised already, or have fewer than `rank` dims or tokens.
    """
    embedding: Any = model.get_input_embeddings()
    if isinstance(embedding, FactorisedEmbedding):
        raise UsageError("the word embeddings are factorised already")
    highest = min(embedding.weight.shape)
    if not 1 <= rank <= highest:
        raise UsageError(f"embeddings of rank {rank} cannot be: choose from 1 to {highest} on this model")
    untie(model)
    model.set_input_embeddings(FactorisedEmbedding(*factors(embedding.weight, rank), embedding.padding_idx))


def embedding_rank(model: PreTrainedModel) -> int | None:
    """Rank of the word embeddings of `model`, or None where they are one table."""
    embedding: Any = model.get_input_embeddings()
    return embedding.embedding_dim if isinstance(embedding, FactorisedEmbedding) else None


def untie(model: PreTrainedModel) -> None:
    """Give every weight of `model` that was tied to another a copy of its own; nothing to do where none is."""
    ties = model.all_tied_weights_keys
    if not ties:
        return
    parameters = dict(model.named_parameters(remove_duplicate=False))
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    for target in ties:
        owner, _, name = target.rpartition(".")
        tied = parameters[target]
        setattr(model.get_submodule(owner), name, nn.Parameter(tied.detach().clone(), tied.requires_grad))
