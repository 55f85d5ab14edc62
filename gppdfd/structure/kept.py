"""What is left of a pruned model, as its config.json says it."""

from itertools import chain, groupby, islice
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from gppdfd.errors import DataError
from gppdfd.structure.base import Keep, Structure

FORMAT: Literal[2] = 2
MOST_UNITS = 1_000_000
"""In one list: a damaged file must not ask for more memory than a model could."""


def write_ranges(indices: list[int]) -> str:
    """Increasing indices as text: [0, 1, 2, 5] -> "0-2,5"."""
    runs = [list(run) for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)


def read_ranges(text: Any) -> list[int]:
    """Counterpart of `write_ranges`; `ValueError` for anything that it does not write."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.40} is no text such as '0-2,5'")
    numbers = chain.from_iterable(map(_range, filter(None, text.split(","))))
    indices = list(islice(numbers, MOST_UNITS))
    if write_ranges(indices) != text or indices != sorted(set(indices)):
        raise ValueError(f"{text!r:.40} is no list of increasing ranges such as '0-2,5'")
    return indices


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


Indices = Annotated[list[int], BeforeValidator(read_ranges), PlainSerializer(write_ranges)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class KeptAttention(_Part):
    """Kept heads by original index and, for each of them, its kept `qk` and `vo` units; None: all."""

    heads: Indices
    qk: list[Indices] | None = None
    vo: list[Indices] | None = None


class KeptLayer(_Part):
    """One layer: its attention and the number of its FFN dims; None where the sublayer has been removed."""

    attention: KeptAttention | None
    ffn: Annotated[int, Field(ge=0)] | None


class Kept(_Part):
    """Structure of a pruned model; None: all hidden dims, and word embeddings that are one table."""

    format: Literal[2] = 2
    hidden: Indices | None = None
    embedding_rank: Annotated[int, Field(ge=1)] | None = None
    layers: list[KeptLayer]


def describe(structure: Structure, keep: Keep, embedding_rank: int | None = None) -> dict[str, Any]:
    """A keep as the plain data of config.json. Which FFN dims they were is not told: nothing depends on it.

    `embedding_rank` is told only where the word embeddings are factorised.
    """
    settled = structure.settled(keep)
    layers = [_describe_layer(settled, layer) for layer in range(structure.layers)]
    hidden = None if settled["hidden"].all() else _indices(settled["hidden"])
    description = Kept.model_construct(hidden=hidden, layers=layers).model_dump(mode="json", exclude={"embedding_rank"})
    return description if embedding_rank is None else description | {"embedding_rank": embedding_rank}


def described_rank(description: dict[str, Any]) -> int | None:
    """Rank of the word embeddings in a description that `read` accepts; None where they are one table."""
    return description.get("embedding_rank")


def read(description: Any, structure: Structure, name: str) -> Keep:
    """The keep that a description tells, with all kinds; of the FFN dims, the first ones are kept.

    Raises:
        DataError: it is of another version, damaged, or does not fit the model called `name`.
    """
    check_format(description, name)
    try:
        kept = Kept.model_validate(description)
        return structure.settled(_keep(kept, structure))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{name}: pruned_structure in config.json is damaged at {where}: {first['msg']}") from None
    except (IndexError, ValueError) as error:
        raise DataError(f"{name}: pruned_structure in config.json does not fit the model: {error}") from None


def check_format(description: Any, name: str) -> None:
    """`DataError` if the model called `name` was written by another version of this package."""
    version = description.get("format") if isinstance(description, dict) else None
    if version != FORMAT:
        raise DataError(f"{name}: pruned_structure has format {version!r}; this version reads format {FORMAT}")


def _describe_layer(settled: Keep, layer: int) -> KeptLayer:
    attention = _describe_attention(settled, layer) if settled["mha_layer"][layer] else None
    ffn = int(settled["ffn"][layer].sum()) if settled["ffn_layer"][layer] else None
    return KeptLayer.model_construct(attention=attention, ffn=ffn)


def _describe_attention(settled: Keep, layer: int) -> KeptAttention:
    heads = settled["head"][layer]
    dims = {kind: settled[kind][layer][heads] for kind in ("qk", "vo")}
    lists: dict[str, Any] = {
        kind: None if units.all() else [_indices(head) for head in units] for kind, units in dims.items()
    }
    return KeptAttention.model_construct(heads=_indices(heads), **lists)


def _keep(kept: Kept, structure: Structure) -> Keep:
    if len(kept.layers) != structure.layers:
        raise ValueError(f"{len(kept.layers)} layers, the model has {structure.layers}")
    if (kept.embedding_rank or 0) > structure.hidden:
        raise ValueError(f"embeddings of rank {kept.embedding_rank}, the model has {structure.hidden} hidden dims")
    keep = structure.keep_all(("head", "qk", "vo", "ffn", "hidden", "mha_layer", "ffn_layer"))
    if kept.hidden is not None:
        keep["hidden"] = _chosen(kept.hidden, structure.hidden)
    for index, layer in enumerate(kept.layers):
        keep["mha_layer"][index] = layer.attention is not None
        keep["ffn_layer"][index] = layer.ffn is not None
        if layer.attention is not None:
            _read_attention(layer.attention, keep, index)
        if layer.ffn is not None:
            keep["ffn"][index] = _chosen(list(range(layer.ffn)), structure.intermediate)
    return keep


def _read_attention(attention: KeptAttention, keep: Keep, layer: int) -> None:
    keep["head"][layer] = _chosen(attention.heads, keep["head"].shape[1])
    for kind, lists in (("qk", attention.qk), ("vo", attention.vo)):
        if lists is not None and len(lists) != len(attention.heads):
            raise ValueError(f"layer {layer} has {len(attention.heads)} heads but {kind} dims of {len(lists)}")
        for head, units in zip(attention.heads, lists or [], strict=False):
            keep[kind][layer, head] = _chosen(units, keep[kind].shape[2])


def _indices(units: torch.Tensor) -> list[int]:
    return units.nonzero().flatten().tolist()


def _chosen(indices: list[int], size: int) -> torch.Tensor:
    if indices and not 0 <= indices[0] <= indices[-1] < size:
        raise ValueError(f"units {write_ranges(indices)} of {size}")
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[indices] = True
    return chosen
