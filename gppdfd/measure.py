"""What a model weighs, computes and takes: parameters, FLOPs, latency, memory and file size.

Everything is asked of the real model; no formula stands in for a measurement. No module of an architecture is named
here: `adapter_for` says where the layers are.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from gppdfd.budget import prunable
from gppdfd.errors import UsageError
from gppdfd.memory import peak_memory
from gppdfd.passes import Forward, Shape, eager_attention, encoder_pass, forward_pass, longest_input, prepared
from gppdfd.structure import adapter_for, structure_of
from gppdfd.structure.base import Site
from gppdfd.timing import UNSTEADY, Machine, Rounds, Spread, TimingConfig, machine, pooled, ratio, times

Part = Literal["model", "encoder"]
"""The whole model, or its layers alone: no embeddings, no pooler, no head."""

CLEAR = 1 + UNSTEADY
"""Speed-up that is no accident: steady times may be as much apart by themselves."""


@dataclass(frozen=True)
class Parameters:
    """Weights and biases by part; tied ones count once, as embeddings.

    Attributes:
        attention, ffn: the linear maps of the layers, which are what pruning removes.
        layer_norms: those inside the layers.
        other: pooler, head and whatever else the model has.
        dense_encoder: `attention + ffn` of the model before pruning.
    """

    embeddings: int
    attention: int
    ffn: int
    layer_norms: int
    other: int
    dense_encoder: int

    @property
    def encoder(self) -> int:
        """Linear maps of attention and FFN: what the project's sparsity counts."""
        return self.attention + self.ffn

    @property
    def without_embeddings(self) -> int:
        return self.encoder + self.layer_norms + self.other

    @property
    def total(self) -> int:
        return self.embeddings + self.without_embeddings

    @property
    def sparsity(self) -> float:
        """Encoder sparsity in [0, 1]."""
        return 1 - self.encoder / self.dense_encoder


@dataclass(frozen=True)
class Flops:
    """FLOPs for one sequence of `length` tokens, a multiply-add counting 2."""

    length: int
    model: int
    encoder: int


@dataclass(frozen=True)
class Cost:
    """What one model costs apart from time.

    Attributes:
        file_bytes: size of the folder's safetensors; None for a model that is in no folder.
        dtype: of the weights, in words.
    """

    name: str
    parameters: Parameters
    flops: tuple[Flops, ...]
    dtype: str
    file_bytes: int | None = None


@dataclass(frozen=True)
class Timed:
    """Seconds of a forward pass, and the bytes that it needs at its peak on top of the weights."""

    seconds: Spread
    memory: int


@dataclass(frozen=True)
class Row:
    """One shape of input: the model, the one that it is compared with, and the speed-up beside the ratio of FLOPs."""

    shape: Shape
    model: Timed
    against: Timed | None = None
    speedup: Spread | None = None
    flops_ratio: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything that `measure` finds; `notes` are sentences for the reader."""

    machine: Machine
    part: Part
    timing: TimingConfig
    model: Cost
    against: Cost | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def measure(
    model: PreTrainedModel,
    shapes: Sequence[Shape],
    timing: TimingConfig,
    against: PreTrainedModel | None = None,
    part: Part = "model",
    progress: Callable[[Shape], object] = lambda shape: None,
) -> Report:
    """Measure `model`, and `against` in turn with it in the same process.

    Args:
        model: on the device where it is to be measured; its mode and attention implementation are left as they were.
        shapes: those longer than the positions of a model are left out, and a note says so.
        against: usually the dense model that `model` was made from, on the same device.
        part: what is timed and what memory is taken of; parameters and FLOPs are always given for both.
        progress: called with each shape before it is timed.

    Raises:
        UsageError: every shape is longer than the model's positions.
    """
    models = {"model": model} | ({"against": against} if against is not None else {})
    limit = min(map(longest_input, models.values()))
    fitting = [shape for shape in shapes if shape.length <= limit]
    if not fitting:
        raise UsageError(f"--length: the model has positions for {limit} tokens; give a length up to that")
    costs = {name: _cost(each, sorted({shape.length for shape in fitting})) for name, each in models.items()}
    rows = []
    for shape in fitting:
        progress(shape)
        rows.append(_row(models, costs, shape, part, timing))
    return Report(
        machine=machine(model.device, timing.threads),
        part=part,
        timing=timing,
        model=costs["model"],
        against=costs.get("against"),
        rows=tuple(rows),
        notes=(*_left_out(shapes, limit), *launch_bound(rows), *unsteady(rows)),
    )


# --- size ---


def parameters(model: PreTrainedModel) -> Parameters:
    """Parameters by part."""
    parts: dict[str, list[nn.Module]] = {"attention": [], "ffn": [], "layer_norms": []}
    for place in adapter_for(model).places(model):
        if place.layer is not None:
            parts[_part(place.site)].append(place.module)
    sizes = {part: _count(modules) for part, modules in parts.items()}
    embeddings = adapter_for(model).embedding_parameters(model)
    rest = _count([model]) - embeddings - sum(sizes.values())
    return Parameters(embeddings=embeddings, **sizes, other=rest, dense_encoder=prunable(structure_of(model)))


def file_bytes(folder: Path) -> int | None:
    """Bytes of the safetensors in a folder; None if there are none."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None


def _part(site: Site) -> str:
    """Part that a module within a layer belongs to."""
    if site.outputs == "norm":
        return "layer_norms"
    return "ffn" if site.outputs in ("up", "gated_up", "ffn") else "attention"


def _count(modules: Sequence[nn.Module]) -> int:
    """Parameters of all modules, shared ones once."""
    return sum({parameter: parameter.numel() for module in modules for parameter in module.parameters()}.values())


def _cost(model: PreTrainedModel, lengths: Sequence[int]) -> Cost:
    name = str(getattr(model.config, "name_or_path", "")) or type(model).__name__
    dtype = str(model.dtype).removeprefix("torch.")
    return Cost(name, parameters(model), flops(model, lengths), dtype, file_bytes(Path(name)))


# --- FLOPs ---


def flops(model: PreTrainedModel, lengths: Sequence[int]) -> tuple[Flops, ...]:
    """FLOPs for one sequence of each length, counted by torch under eager attention.

    Fused attention kernels of a CPU are invisible to the counter. The implementation in use comes back afterwards.
    """
    with prepared(model), eager_attention(model):
        return tuple(
            Flops(
                length,
                _counted(forward_pass(model, Shape(1, length))),
                _counted(encoder_pass(model, Shape(1, length))),
            )
            for length in lengths
        )


def _counted(forward: Forward) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops()


# --- latency ---


def latencies(
    models: Mapping[str, PreTrainedModel], shape: Shape, part: Part, timing: TimingConfig
) -> dict[str, tuple[Rounds, int]]:
    """Seconds per forward pass in interleaved rounds, and bytes at the peak of one pass, by name of the model."""
    with ExitStack() as states:
        for model in models.values():
            states.enter_context(prepared(model))
        forwards = {name: _pass(model, shape, part) for name, model in models.items()}
        memory = {name: peak_memory(forward, models[name].device) for name, forward in forwards.items()}
        return {name: (rounds, memory[name]) for name, rounds in times(forwards, timing).items()}


def _pass(model: PreTrainedModel, shape: Shape, part: Part) -> Forward:
    return encoder_pass(model, shape) if part == "encoder" else forward_pass(model, shape)


def _row(
    models: Mapping[str, PreTrainedModel], costs: Mapping[str, Cost], shape: Shape, part: Part, timing: TimingConfig
) -> Row:
    found = latencies(models, shape, part, timing)
    timed = {name: Timed(pooled(rounds), memory) for name, (rounds, memory) in found.items()}
    if "against" not in models:
        return Row(shape, timed["model"])
    speedup = ratio(found["against"][0], found["model"][0])
    work = {name: _flops_of(cost, shape.length, part) for name, cost in costs.items()}
    return Row(shape, timed["model"], timed["against"], speedup, work["against"] / max(1, work["model"]))


def _flops_of(cost: Cost, length: int, part: Part) -> int:
    found = next(each for each in cost.flops if each.length == length)
    return found.model if part == "model" else found.encoder


# --- notes ---


def launch_bound(rows: Sequence[Row]) -> list[str]:
    """A note per length whose speed-up with one sequence is under half of that with the largest batch.

    Unsteady times tell nothing, and without a clear speed-up there is none to be lost.
    """
    return [note for length in sorted({row.shape.length for row in rows}) if (note := _bound_at(rows, length))]


def _bound_at(rows: Sequence[Row], length: int) -> str | None:
    speedups = {
        row.shape.batch: row.speedup.median
        for row in rows
        if row.shape.length == length and row.speedup and row.speedup.steady and _steady(row)
    }
    largest = max(speedups, default=1)
    if 1 not in speedups or speedups[largest] < CLEAR or speedups[1] >= speedups[largest] / 2:
        return None
    return (
        f"Length {length}: {speedups[1]:.1f}x with one sequence, {speedups[largest]:.1f}x with {largest}. With one "
        "sequence the model is probably launch-bound: starting operators takes longer than the arithmetic that pruning "
        "saves."
    )


def unsteady(rows: Sequence[Row]) -> list[str]:
    """A note that names the shapes whose times varied too much to be trusted."""
    shaky = [row.shape for row in rows if not _steady(row)]
    if not shaky:
        return []
    named = ", ".join(f"{shape.batch} x {shape.length}" for shape in shaky)
    return [f"Unsteady: {named} varied by more than {UNSTEADY:.0%}; other processes kept the machine busy."]


def _steady(row: Row) -> bool:
    return all(each.seconds.steady for each in (row.model, row.against) if each)


def _left_out(shapes: Sequence[Shape], limit: int) -> list[str]:
    lengths = sorted({shape.length for shape in shapes if shape.length > limit})
    if not lengths:
        return []
    return [f"Left out: length {', '.join(map(str, lengths))}; the model has positions for {limit} tokens."]
