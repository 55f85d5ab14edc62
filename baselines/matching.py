"""Which layer of a student learns from which layer of its teacher.

Layers are matched among those that still exist, so that one rule serves a student of fixed depth and a pruned one: with
M existing layers of the student, counted m = 1..M, and N layers of the teacher,

    uniform     g(m) = ceil(m N / M); the identity for M = N
    skip        the same without the student's last layer (PKD-skip)
    last        g(m) = N - M + m, without the student's last layer (PKD-last)
    identity    the layer of the same index, counted with those that are gone
    random      M teacher layers in order, drawn anew for every batch (after RAIL-KD, arXiv 2109.10164)
"""

from typing import Any, Literal

import torch

from gppdfd.distilling import FeatureDistiller, HiddenStateConfig
from gppdfd.errors import UsageError
from gppdfd.interface import Setting
from gppdfd.structure import adapter_for
from gppdfd.views import View, matched_layers

LayerMap = Literal["identity", "uniform", "skip", "last", "random"]

Tokens = Literal["sentence", "all"]
"""Compare only the token that the classifier reads ([CLS], or a decoder's last token), or every token."""


class MatchingConfig(HiddenStateConfig):
    """Options of every distiller with a layer map."""

    layer_map: LayerMap = "uniform"


def layer_pairs(
    existing: list[int], teachers: int, layer_map: LayerMap, stream: torch.Generator | None = None
) -> list[tuple[int, int]]:
    """0-based pairs of student and teacher layers.

    Args:
        existing: student layers that are still there, in order.
        teachers: number of teacher layers.
        stream: what `random` draws from.

    Raises:
        UsageError: the teacher is shallower than the student, and the map has no answer to that.
    """
    count = len(existing)
    if existing and existing[-1] >= teachers and layer_map not in ("uniform", "skip"):
        raise UsageError(f"layer_map={layer_map} needs a teacher of at least {existing[-1] + 1} layers, not {teachers}")
    if layer_map == "identity":
        return [(layer, layer) for layer in existing]
    if layer_map == "last":
        return list(zip(existing[:-1], range(teachers - count, teachers - 1), strict=True))
    matched = drawn_layers(count, teachers, stream) if layer_map == "random" else matched_layers(count, teachers)
    pairs = list(zip(existing, matched, strict=True))
    return pairs[:-1] if layer_map == "skip" else pairs


def drawn_layers(count: int, teachers: int, stream: torch.Generator | None) -> list[int]:
    """`count` of the teacher's layers in order, without repetition."""
    return sorted(torch.randperm(teachers, generator=stream)[:count].tolist())


def sentence_position(mask: torch.Tensor, last: bool) -> torch.Tensor:
    """Position of the token that a classifier reads, by sequence: the first, or the last real one; int64 [batch]."""
    if not last:
        return torch.zeros_like(mask[:, 0])
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)


def only_sentence(states: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """States at one position of each sequence: [layers, batch, tokens, dims] -> [layers, batch, 1, dims]."""
    return states[:, torch.arange(len(position), device=position.device), position][:, :, None]


class MatchingDistiller(FeatureDistiller):
    """Compares features of matched layers."""

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._stream = torch.Generator().manual_seed(setting.generator.initial_seed())

    def pairs(self, student: View, teacher: View) -> list[tuple[int, int]]:
        """0-based pairs of layers for this batch."""
        return layer_pairs(student.layers, len(teacher.hidden_states) - 1, self.config.layer_map, self._stream)

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self._stream.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.set_state(state["stream"])


def reads_last_token(setting: Setting) -> bool:
    """Whether the student's classifier reads the last token instead of the first."""
    return adapter_for(setting.student).sentence == "last"
