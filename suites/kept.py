"""What is left of a pruned model, counted: from the description in its config.json, else from its record."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from gppdfd.errors import DataError
from suites.records import Record
from suites.statistics import NAN

_FORMAT = 2
_REMOVED: dict[str, Any] = {}


class Kept(NamedTuple):
    """Counts of one model; NaN where they are unknown.

    `attention_layers` are the layers with at least one head; `qk` and `vo` the dims per kept head, `ffn` the dims per
    layer, layers without any included; `hidden` the hidden dims.
    """

    attention_layers: float
    heads: float
    qk: float
    vo: float
    ffn: float
    hidden: float


def read_kept(folder: Path, record: Record) -> Kept:
    """Counts of a run's model.

    Raises:
        DataError: its config.json is broken.
    """
    path = folder / "model" / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return counted(record.kept)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); delete the run's folder and launch again") from error
    structure = config.get("pruned_structure")
    if structure is None:
        return _uncut(counted(record.kept), config)
    return described(structure, config) if structure.get("format") == _FORMAT else counted(record.kept)


def _uncut(kept: Kept, config: Mapping[str, Any]) -> Kept:
    """Counts of a model that lost no units: its heads are whole."""
    width, size = _sizes(config)
    return kept._replace(qk=size, vo=size, hidden=width)


def _sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """Hidden dims, and dims of a head."""
    width = _first(config, ("hidden_size", "n_embd", "dim"))
    return width, width // _first(config, ("num_attention_heads", "n_head", "n_heads"))


def described(structure: Mapping[str, Any], config: Mapping[str, Any]) -> Kept:
    """Counts from `pruned_structure` (`gppdfd/structure/kept.py` says how it is written)."""
    width, size = _sizes(config)
    attentions = [layer["attention"] or _REMOVED for layer in structure["layers"]]
    heads = [_count(attention.get("heads", "")) for attention in attentions]
    hidden = structure.get("hidden")
    return Kept(
        attention_layers=sum(count > 0 for count in heads),
        heads=sum(heads),
        qk=_per_head(attentions, heads, "qk", size),
        vo=_per_head(attentions, heads, "vo", size),
        ffn=fmean(layer["ffn"] or 0 for layer in structure["layers"]),
        hidden=width if hidden is None else _count(hidden),
    )


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first of these settings that a config has: architectures call them differently."""
    return next(int(config[name]) for name in names if name in config)


def _per_head(attentions: list[Mapping[str, Any]], heads: list[int], kind: str, size: int) -> float:
    """Mean number of dims over all kept heads; a layer that lists none keeps all dims of its heads."""
    dims = [
        count * size if attention.get(kind) is None else sum(map(_count, attention[kind]))
        for attention, count in zip(attentions, heads, strict=True)
    ]
    return sum(dims) / sum(heads) if sum(heads) else NAN


def _count(ranges: str) -> int:
    """Number of indices in a text such as `0-2,5`."""
    parts = [part.partition("-") for part in ranges.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in parts)


def counted(kept: Mapping[str, tuple[int, ...]]) -> Kept:
    """Counts from a record's units per layer, which do not tell the heads of single dims."""
    heads, ffn = kept.get("head"), kept.get("ffn")
    return Kept(
        attention_layers=sum(count > 0 for count in heads) if heads else NAN,
        heads=sum(heads) if heads else NAN,
        qk=NAN,
        vo=NAN,
        ffn=fmean(ffn) if ffn else NAN,
        hidden=sum(kept["hidden"]) if "hidden" in kept else NAN,
    )
