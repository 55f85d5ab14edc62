"""FCD: feature correlation distillation, on relations between features instead of features.

Huang, Guo, Wang: Towards Efficient Pre-Trained Language Model via Feature Correlation Distillation. NeurIPS 2023. The
formulas follow the loss that the same group published (github.com/alipay/POA, commit 00d9074, poa/loss/fcd_loss.py);
the paper's own setting is not public, so this is the FCD loss in a task-specific setting, no reproduction.

With features normalised over their dims, F [sequences B, tokens N, dims]:

    R_tok[b] = F_b F_b^T            [B, N, N]   one row per sequence
    R_seq[n] = F_{:,n} F_{:,n}^T    [N, B, B]   one row per position
    R_rand   = F_K F_K^T            [K, K]      of K tokens of the batch, one row per token
    PCL(S, T) = 1 - mean over rows of the Pearson correlation of S's and T's row
    L = mean over layer pairs of alpha PCL(tok) + beta PCL(seq) + gamma PCL(rand)

No projection: the widths of student and teacher may differ. Departures from the public code, which are options: padding
leaves every row (`mask_padding`), a row of the sequence relation is one position, not a chunk of the reshaped tensor
(`rows=chunk`). Always: features are normalised also with alpha=0, and rows of fewer than 3 real members are skipped,
since their correlation says nothing.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.nn.functional import normalize

from gppdfd.distilling import HiddenStateConfig, HiddenStateDistiller, Layers
from gppdfd.interface import DistillerConfig, NamedMethod, Setting, register_distiller, register_method
from gppdfd.structure import Structure
from gppdfd.views import layer_fractions, matched_layers

Rows = Literal["position", "chunk"]

LEAST = 3
"""Real members that a row needs: with two, the correlation is 1 whatever the features."""

UNIFORM = (3, 6, 9, 12)
"""Layers of `layers=uniform`, written for 12 layers."""


class FCDConfig(HiddenStateConfig):
    """Options of FCD; its weight in the paper is not known. `soft_weight=0` is the setting that DFD is compared in."""

    soft_weight: float = 1.0
    temperature: float = Field(2.0, gt=0)
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(1.0, ge=0)
    gamma: float = Field(0.0, ge=0)
    random_tokens: int = Field(128, ge=LEAST)
    layers: Literal["last", "uniform", "all"] = "last"
    rows: Rows = "position"
    include_diagonal: bool = True


def relations(features: torch.Tensor) -> torch.Tensor:
    """Inner products of all pairs: [..., members, dims] -> [..., members, members]."""
    return features @ features.transpose(-1, -2)


def pearson(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Pearson correlation of each row over the entries of weight 1; 1e-6 in the denominator: [rows, n] -> [rows]."""
    count = weights.sum(-1, keepdim=True).clamp(min=1)
    first, second = (values - (values * weights).sum(-1, keepdim=True) / count for values in (first, second))
    first, second = first * weights, second * weights
    return (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1) + 1e-6)


def correlation_loss(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """PCL over the valid rows, in [0, 2]; 0 without gradient if there is none.

    Args:
        student, teacher, weights: [rows, n]; entries of weight 0 are left out.
        valid: bool [rows].
    """
    rho = pearson(student, teacher, weights)
    return ((1 - rho) * valid).sum() / valid.sum().clamp(min=1)


def token_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, diagonal: bool = True, least: int = LEAST
) -> torch.Tensor:
    """PCL of the relations between tokens of one sequence.

    Args:
        student, teacher: normalised features [batch, tokens, dims].
        mask: 1 at real tokens, [batch, tokens].
        least: real tokens that a sequence needs.
    """
    weights = _pairs(mask, diagonal)
    own, target = relations(student), relations(teacher)
    return correlation_loss(own.flatten(1), target.flatten(1), weights.flatten(1), mask.sum(-1) >= least)


def sequence_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor,
    diagonal: bool = True,
    rows: Rows = "position",
    least: int = LEAST,
) -> torch.Tensor:
    """PCL of the relations between sequences at one position; arguments as in `token_loss`.

    With `rows=chunk` the [tokens, batch, batch] relation is read as `batch` rows of tokens * batch numbers.
    """
    own, target = (relations(features.transpose(0, 1)) for features in (student, teacher))
    weights = _pairs(mask.t(), diagonal)
    if rows == "position":
        return correlation_loss(own.flatten(1), target.flatten(1), weights.flatten(1), mask.sum(0) >= least)
    chunks = [part.reshape(len(mask), -1) for part in (own, target, weights)]
    enough = chunks[2].sum(-1) >= least**2
    return correlation_loss(chunks[0], chunks[1], chunks[2], enough & (len(mask) >= least))


def random_loss(student: torch.Tensor, teacher: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """PCL of the relations among `chosen` tokens (indices into batch * tokens), one row per token."""
    own, target = (relations(features.flatten(0, 1)[chosen]) for features in (student, teacher))
    enough = torch.full((len(chosen),), len(chosen) >= LEAST, device=own.device)
    return correlation_loss(own, target, torch.ones_like(own), enough)


def fcd_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor,
    config: FCDConfig,
    chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """FCD loss of one pair of layers: hidden states [batch, tokens, dims], `mask` [batch, tokens]."""
    own, target = normalize(student, dim=-1), normalize(teacher, dim=-1)
    mask = mask.to(own.dtype)
    total = own.sum() * 0
    if config.alpha:
        total = total + config.alpha * token_loss(own, target, mask, config.include_diagonal)
    if config.beta:
        total = total + config.beta * sequence_loss(own, target, mask, config.include_diagonal, config.rows)
    if config.gamma and chosen is not None:
        total = total + config.gamma * random_loss(own, target, chosen)
    return total


def layer_pairs(students: int, teachers: int, layers: str) -> list[tuple[int, int]]:
    """0-based pairs of student and teacher layers that are compared."""
    chosen = {"last": [students - 1], "all": list(range(students))}
    matched = matched_layers(students, teachers)
    return [(layer, matched[layer]) for layer in chosen.get(layers) or layer_fractions(UNIFORM, students)]


def _pairs(mask: torch.Tensor, diagonal: bool) -> torch.Tensor:
    """1 where both members are real: [rows, members] -> [rows, members, members]."""
    pairs = mask[:, :, None] * mask[:, None, :]
    if diagonal:
        return pairs
    return pairs * (1 - torch.eye(mask.shape[1], dtype=mask.dtype, device=mask.device))


@register_distiller("fcd")
class FCD(HiddenStateDistiller):
    """Feature correlation distillation, task-specific setting."""

    reference = "Huang et al. 2023, NeurIPS 36, FCD loss in a task-specific setting"
    reconstruction = "task-specific form; the paper's layers and the weight of the loss (1 here) are not known"
    skips_removed: ClassVar[bool] = True
    Config: ClassVar[type[DistillerConfig]] = FCDConfig

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        """Relations are as wide as the batch, whatever the widths of the features."""
        return None

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._stream = torch.Generator().manual_seed(setting.generator.initial_seed())
        self._batches = self._skipped = 0

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        mask = torch.ones(student[0].shape[:2], device=student[0].device) if mask is None else mask
        chosen = self._draw(mask) if self.config.gamma else None
        pairs = layer_pairs(len(student), len(teacher), self.config.layers)
        self._batches += 1
        self._skipped += len(mask) < LEAST
        losses = [fcd_loss(student[layer], teacher[matched], mask, self.config, chosen) for layer, matched in pairs]
        return torch.stack(losses).mean()

    def notes(self) -> dict[str, float]:
        return {"sequence_term_skipped": self._skipped / max(1, self._batches)}

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self._stream.get_state(), "batches": self._batches, "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.set_state(state["stream"])
        self._batches, self._skipped = state["batches"], state["skipped"]

    def _draw(self, mask: torch.Tensor) -> torch.Tensor:
        """Random real tokens of the batch, as indices into batch * tokens."""
        real = mask.flatten().nonzero().flatten()
        order = torch.randperm(len(real), generator=self._stream)[: self.config.random_tokens]
        return real[order.to(real.device)]


register_method("fcd", NamedMethod(spec="gpp+fcd", reference=FCD.reference))
register_method("fcd-depth", NamedMethod(spec="depth+fcd", reference=FCD.reference))
