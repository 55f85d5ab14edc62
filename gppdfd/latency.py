"""Measured latency of sublayers by what is left of them: what a target in seconds is read from.

`LatencyTable.measure` times one attention sublayer for every number of heads and one FFN sublayer for a grid of widths,
on random weights; `table.seconds(structure, keep)` adds up what a keep leaves. That is the time of the layers;
embeddings, pooler and head are outside, as in the counts of parameters.

Times are made monotone by isotonic regression, the least-squares fit that pools neighbours in the wrong order. The
running maximum would be monotone too, but lets one value that came out too high lift all larger sizes.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from gppdfd.errors import DataError, UsageError
from gppdfd.files import write_json
from gppdfd.passes import Shape
from gppdfd.structure import Keep, Structure
from gppdfd.timing import UNSTEADY, Machine, Spread, TimingConfig, machine, pooled, times

FORMAT = 1
WIDTHS = 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DType = Literal["float32", "bfloat16", "float16"]

_KINDS = frozenset({"head", "ffn", "mha_layer", "ffn_layer"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curve:
    """Seconds of one sublayer by the number of its units, both ascending, the first for none.

    None left is an emptied sublayer: bias, residual and LayerNorm remain. A removed sublayer takes no time.
    """

    units: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.units) != len(self.seconds) or self.units[:1] != (0,) or len(set(self.units)) != len(self.units):
            raise ValueError("a curve needs different numbers of units from 0 on, and as many seconds")
        if not _ascends(self.units) or not _ascends((0.0, *self.seconds)):
            raise ValueError("neither units nor seconds of a curve may fall")

    def at(self, counts: np.ndarray) -> np.ndarray:
        """Seconds at any numbers of units, linear between measured ones."""
        return np.interp(counts, self.units, self.seconds)


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of attention by kept heads and of FFN by kept dims, for one shape of input on one machine.

    Attributes:
        sizes: of the layers that were timed, see `layer_sizes`.
        device: `cpu`, `cuda` or, of several GPUs, one such as `cuda:1`; `machine` says its name.
    """

    sizes: Mapping[str, int]
    attention: Curve
    ffn: Curve
    shape: Shape
    machine: Machine
    device: str = "cpu"
    dtype: DType = "float32"

    @classmethod
    def measure(
        cls,
        structure: Structure,
        shape: Shape,
        timing: TimingConfig,
        device: str = "cpu",
        dtype: DType = "float32",
        widths: Sequence[int] | None = None,
    ) -> "LatencyTable":
        """Time sublayers of the sizes of `structure`; all of them take turns, so that a busy minute hits all alike.

        Args:
            widths: FFN dims to time; default `width_grid(structure.intermediate)`. Those in between are interpolated.
        """
        place = torch.device(device)
        states = torch.randn(shape.batch, shape.length, structure.hidden, dtype=DTYPES[dtype], device=place)
        grid = sorted({0, structure.intermediate, *(widths or width_grid(structure.intermediate))})
        modules = _attentions(structure) | {("ffn", width): FeedForward(structure, width) for width in grid}
        passes = {key: _pass(module.to(states).eval(), states) for key, module in modules.items()}
        with _current(place):
            found = {key: pooled(rounds) for key, rounds in times(passes, timing).items()}
        _warn_if_unsteady(list(found.values()))
        return cls(
            sizes=layer_sizes(structure),
            attention=_curve(found, "attention"),
            ffn=_curve(found, "ffn"),
            shape=shape,
            machine=machine(place, timing.threads),
            device=device,
            dtype=dtype,
        )

    def seconds(self, structure: Structure, keep: Keep) -> float:
        """Time of one forward pass through the layers that `keep` leaves; never more for a smaller keep.

        Args:
            keep: kinds `head`, `ffn`, `mha_layer`, `ffn_layer`; a kind that is missing is kept whole.

        Raises:
            UsageError: the table was made for other sizes, or `keep` prunes a kind that it does not know.
        """
        self._check(structure)
        check_kinds(keep)
        attention = self.attention.at(_kept(keep, "head", structure.layers, structure.heads))
        feed_forward = self.ffn.at(_kept(keep, "ffn", structure.layers, structure.intermediate))
        there = (_kept(keep, kind, structure.layers, 1) for kind in ("mha_layer", "ffn_layer"))
        return float(sum(np.sum(each * exists) for each, exists in zip((attention, feed_forward), there, strict=True)))

    def dense(self, structure: Structure) -> float:
        """Time of the layers of the dense model."""
        return self.seconds(structure, {})

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path, threads: int | None = None) -> "LatencyTable":
        """A table written by `save`, if it was measured on this machine.

        Args:
            threads: number of threads that its times are wanted for; default torch's present one.

        Raises:
            DataError: no readable table, or times of another machine or number of threads.
        """
        table = cls._read(path)
        table._check_machine(path, torch.get_num_threads() if threads is None else threads)
        return table

    @classmethod
    def _read(cls, path: Path) -> "LatencyTable":
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(stored, dict) or stored.get("format") != FORMAT:
                raise ValueError(f"this version reads tables of format {FORMAT}")
            return TypeAdapter(cls).validate_python(stored)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is no latency table: {_reason(error)}; write one with LatencyTable.save"
            ) from error

    def _check_machine(self, path: Path, threads: int) -> None:
        again = "times do not carry over: measure it again with LatencyTable.measure"
        place = torch.device(self.device)
        if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
            missing = f"no GPU {place.index}" if place.index else "no GPU"
            raise DataError(f"{path} was measured on {self.machine.device}; torch finds {missing} here, and {again}")
        here = machine(place, threads)
        if here.device != self.machine.device:
            raise DataError(f"{path} was measured on {self.machine.device}, this is {here.device}; {again}")
        if here.threads != self.machine.threads:
            raise DataError(
                f"{path} was measured with {self.machine.threads} threads, {here.threads} are in use; "
                f"call torch.set_num_threads({self.machine.threads}), or {again}"
            )
        if here.torch != self.machine.torch:
            _log.warning("%s was measured with torch %s, this is %s", path, self.machine.torch, here.torch)

    def _check(self, structure: Structure) -> None:
        sizes = layer_sizes(structure)
        if sizes != self.sizes:
            raise UsageError(f"this latency table is for layers of {_told(self.sizes)}; the model has {_told(sizes)}")


def layer_sizes(structure: Structure) -> dict[str, int]:
    """Everything about a layer that its time depends on, `gated` being 1 for an FFN with two up projections."""
    sizes = {size: getattr(structure, size) for size in ("hidden", "heads", "head_size", "intermediate")}
    return sizes | {"gated": int(structure.gated)}


def width_grid(intermediate: int, count: int = WIDTHS, multiple: int = 1) -> list[int]:
    """At most `count` FFN widths: 0, geometric steps, the full one.

    Geometric, because pruned models live at the small end; between two points time is close to linear in the width.

    Args:
        multiple: what the widths of the models to come are multiples of. With 1, odd widths stand for all of them:
            float32 products of a CPU take some 15 to 25 percent longer there than at multiples of 8, which few hit.
    """
    first = max(multiple, 8 if intermediate >= 8 * count else 1)
    steps = np.geomspace(min(first, intermediate), intermediate, count - 1)[:-1]
    inner = {round(float(width) / multiple) * multiple | (multiple == 1) for width in steps}
    return sorted({0, *(width for width in inner if width < intermediate), intermediate})


def check_kinds(keep: Keep) -> None:
    """Refuse a keep that prunes what a latency table has no times for.

    Raises:
        UsageError: naming the kinds.
    """
    unknown = sorted(kind for kind in keep if kind not in _KINDS and _prunes(keep, kind))
    if unknown:
        raise UsageError(
            f"a latency table knows times by heads and FFN dims, and this keep prunes {', '.join(unknown)} too: heads "
            "of unequal size and narrower hidden states have times of their own. Use a target in parameters or FLOPs"
        )


def monotone(seconds: Sequence[float]) -> tuple[float, ...]:
    """The closest non-decreasing sequence in least squares."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression().fit_transform(np.arange(len(seconds)), np.asarray(seconds))
    return tuple(map(float, fitted))


# --- what is timed ---


class Attention(nn.Module):
    """Attention sublayer with `heads` heads, output bias, residual and LayerNorm; post-LayerNorm like BERT's."""

    def __init__(self, structure: Structure, heads: int) -> None:
        super().__init__()
        context = heads * structure.head_size
        self.inputs = nn.ModuleList(nn.Linear(structure.hidden, context) for _ in range(3 if heads else 0))
        self.output = nn.Linear(context, structure.hidden) if heads else None
        self.bias = nn.Parameter(torch.zeros(structure.hidden))
        self.norm = nn.LayerNorm(structure.hidden)
        self.head_size = structure.head_size

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.norm(states + self._attended(states))

    def _attended(self, states: torch.Tensor) -> torch.Tensor:
        if self.output is None:
            return self.bias
        query, key, value = (
            linear(states).unflatten(-1, (-1, self.head_size)).transpose(1, 2) for linear in self.inputs
        )
        context = functional.scaled_dot_product_attention(query, key, value)
        output: torch.Tensor = self.output(context.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """FFN sublayer with `width` dims, GELU, gated or not, output bias, residual and LayerNorm."""

    def __init__(self, structure: Structure, width: int) -> None:
        super().__init__()
        self.gated = bool(layer_sizes(structure)["gated"])
        self.up = nn.Linear(structure.hidden, width * (1 + self.gated)) if width else None
        self.down = nn.Linear(width, structure.hidden) if width else None
        self.bias = nn.Parameter(torch.zeros(structure.hidden))
        self.norm = nn.LayerNorm(structure.hidden)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.up is None or self.down is None:
            return self.norm(states + self.bias)
        return self.norm(states + self.down(self._activated(self.up(states))))

    def _activated(self, mapped: torch.Tensor) -> torch.Tensor:
        if not self.gated:
            return functional.gelu(mapped)
        inner, gate = mapped.chunk(2, dim=-1)
        return functional.gelu(inner) * gate


def _attentions(structure: Structure) -> dict[tuple[str, int], nn.Module]:
    return {("attention", heads): Attention(structure, heads) for heads in range(structure.heads + 1)}


def _pass(module: nn.Module, states: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: module(states)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one, for which torch's timer waits."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _curve(found: Mapping[tuple[str, int], Spread], sublayer: str) -> Curve:
    own = sorted((units, spread.median) for (name, units), spread in found.items() if name == sublayer)
    return Curve(tuple(units for units, _ in own), monotone([seconds for _, seconds in own]))


def _warn_if_unsteady(found: Sequence[Spread]) -> None:
    shaky = sum(not spread.steady for spread in found)
    if shaky > len(found) / 4:
        _log.warning(
            "%d of %d times of the latency table varied by more than %.0f %%: other processes keep the machine busy; "
            "measure again when it is quiet",
            *(shaky, len(found), 100 * UNSTEADY),
        )


def _prunes(keep: Keep, kind: str) -> bool:
    """Whether units of a kind are gone whose head, if they have one, is still there."""
    units = keep[kind]
    if kind in ("qk", "vo") and "head" in keep:
        units = units.reshape(*keep["head"].shape, -1) | ~keep["head"].unsqueeze(-1)
    return not bool(units.all())


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} {number}" for size, number in sizes.items())


def _reason(error: Exception) -> str:
    """One line; pydantic would give a page."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _ascends(values: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(values))


def _kept(keep: Keep, kind: str, layers: int, units: int) -> np.ndarray:
    """Number of kept units of a kind in every layer, [layers]."""
    if kind not in keep:
        return np.full(layers, units)
    return keep[kind].reshape(layers, units).sum(dim=1).cpu().numpy()
