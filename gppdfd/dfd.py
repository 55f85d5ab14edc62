"""DFD: dual feature distillation.

Zhang, Lu, Wang, Wei, Wei: Joint Dual Feature Distillation and Gradient Progressive Pruning for BERT compression. Neural
Networks (2024), article 106533. Formulas follow the authors' public code (github.com/ZhouZhangll/GPP-DFD, commit
002be91).

With hidden states H_l [batch, tokens, hidden] of layers l = 1..L and Sum(X) the sum of all entries of X:

    global teacher fusion   G_L = H^T_L,  G_l = a_l H^T_l + (1 - a_l) G_{l+1},
                            a_l = Sum(H^T_l) / (Sum(H^T_l) + Sum(G_{l+1}))
    local student fusion    P_l = sum_j b_{l,j} H^S_{l+j},  j = 0..w-1,
                            b_{l,j} = Sum(H^S_{l+j}) / sum_j' Sum(H^S_{l+j'})
    loss                    L_DFD = sum_l mean((G_l - P_l)^2)

The student's list is padded at its end with copies of the last layer. Weights b stay in the graph. Padding tokens leave
sums and means (`mask_padding`; the released code keeps them in). A student of fixed depth with M of N layers takes
G_{g(m)}, g(m) = ceil(m N / M), after the fusion over all N.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch.nn.functional import cosine_similarity

from gppdfd.distilling import HiddenStateConfig, HiddenStateDistiller, Layers
from gppdfd.interface import DistillerConfig, Setting, register_distiller
from gppdfd.views import matched_layers

Weighting = Literal["sum_ratio", "sum_ratio_raw", "abs_sum", "softmax_mean", "uniform"]

GUARD = 0.1
"""`sum_ratio` falls back to equal weights where |sum x| < GUARD * sum|x|, so that no weight exceeds 1 / GUARD."""


class DFDConfig(HiddenStateConfig):
    """Options of DFD; `weighting=sum_ratio_raw, mask_padding=off` is what the released code does."""

    teacher_fusion: bool = True
    student_fusion: bool = True
    window: int = Field(3, ge=1, le=5)
    weighting: Weighting = "sum_ratio"
    direction: Literal["deep_to_shallow", "shallow_to_deep"] = "deep_to_shallow"
    distance: Literal["mse", "cosine"] = "mse"


def layer_sums(states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of all entries of each layer: [layers, batch, tokens, hidden] -> [layers]; padding left out under `mask`."""
    if mask is not None:
        states = states * mask[None, :, :, None]
    return states.flatten(1).sum(1)


def fusion_weights(
    sums: torch.Tensor, weighting: Weighting = "sum_ratio", entries: float | torch.Tensor = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the parts of one or many fusions, and where the guard fired.

    Args:
        sums: [..., parts], the sum of each part's entries.
        entries: number of entries of a part, which turns a sum into a mean for `softmax_mean`.

    Returns:
        [..., parts] weights that sum to 1 over the parts, and a bool tensor [...].
    """
    uniform = torch.full_like(sums, 1 / sums.shape[-1])
    unguarded = torch.zeros(sums.shape[:-1], dtype=torch.bool, device=sums.device)
    if weighting == "uniform":
        return uniform, unguarded
    if weighting == "softmax_mean":
        return (sums / entries).softmax(-1), unguarded
    if weighting == "abs_sum":
        sums = sums.abs()
    total = sums.sum(-1)
    if weighting == "sum_ratio_raw":
        return sums / total[..., None], unguarded
    fired = total.abs() <= GUARD * sums.abs().sum(-1)
    # The inner `where` keeps the unused branch finite: its gradient would be NaN otherwise.
    safe = torch.where(fired, torch.ones_like(total), total)
    return torch.where(fired[..., None], uniform, sums / safe[..., None]), fired


def teacher_mixing(
    sums: torch.Tensor, weighting: Weighting = "sum_ratio", entries: float | torch.Tensor = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Global fusion as a matrix: omega with G_l = sum_k omega_{l,k} H^T_k, and how often the guard fired.

    Fusing is linear, so Sum(G_l) is mixed with the weights of G_l: the recursion runs over numbers, not over tensors.

    Args:
        sums: [layers], from `layer_sums`.

    Returns:
        omega [layers, layers], upper triangular, rows sum to 1.
    """
    own = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
    rows, count = [own[-1]], torch.zeros((), device=sums.device)
    for layer in reversed(range(len(sums) - 1)):
        weights, fired = fusion_weights(torch.stack([sums[layer], rows[0] @ sums]), weighting, entries)
        rows.insert(0, weights[0] * own[layer] + weights[1] * rows[0])
        count = count + fired
    return torch.stack(rows), count


def student_mixing(
    sums: torch.Tensor, window: int = 3, weighting: Weighting = "sum_ratio", entries: float | torch.Tensor = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local fusion as a matrix [layers, layers] with P_l = sum_k mixing_{l,k} H^S_k, and how often the guard fired."""
    index = student_windows(len(sums), window).to(sums.device)
    weights, fired = fusion_weights(sums[index], weighting, entries)
    return torch.zeros_like(sums).expand(len(sums), -1).scatter_add(1, index, weights), fired.sum()


def student_windows(layers: int, window: int) -> torch.Tensor:
    """Layer indices of every window, int64 [layers, window]; past the end the last layer repeats."""
    return (torch.arange(layers)[:, None] + torch.arange(window)).clamp(max=layers - 1)


def mix(mixing: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Fused features: [layers, layers] x [layers, batch, tokens, hidden]."""
    return (mixing @ states.flatten(1)).view_as(states)


def feature_distance(
    targets: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None = None, distance: str = "mse"
) -> torch.Tensor:
    """Sum over layers of the mean distance over valid tokens (and dims) of two [layers, batch, tokens, hidden]."""
    if distance == "cosine":
        per_token = 1 - cosine_similarity(targets, features, dim=-1)
    else:
        per_token = (targets - features).square().mean(-1)
    if mask is None:
        return per_token.flatten(1).mean(1).sum()
    return (per_token * mask).flatten(1).sum(1).sum() / mask.sum()


class Mixings(NamedTuple):
    """Fusions of one batch as matrices [layers, layers], None where a fusion is off, and how often the guard fired."""

    teacher: torch.Tensor | None
    student: torch.Tensor | None
    fired: torch.Tensor


def dfd_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], mask: torch.Tensor | None, config: DFDConfig
) -> tuple[torch.Tensor, Mixings]:
    """L_DFD of two lists of hidden states without the embedding output, and what mixed them."""
    features, targets = torch.stack(tuple(student)), torch.stack(tuple(teacher))
    mask = mask.to(features.dtype) if mask is not None else None
    mixings = _mixings(features, targets, mask, config)
    if mixings.teacher is not None:
        targets = mix(mixings.teacher, targets)
    if mixings.student is not None:
        features = mix(mixings.student, features)
    matched = matched_layers(len(features), len(targets))
    return feature_distance(targets[matched], features, mask, config.distance), mixings


def _mixings(features: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor | None, config: DFDConfig) -> Mixings:
    teacher = student = None
    fired = torch.zeros((), device=features.device)
    if config.teacher_fusion:
        teacher, count = _teacher_mixing(targets, mask, config)
        fired = fired + count
    if config.student_fusion and config.window > 1:
        sums = layer_sums(features, mask)
        entries = _entries(features, mask, config.weighting)
        student, count = student_mixing(sums, config.window, config.weighting, entries)
        fired = fired + count
    return Mixings(teacher, student, fired)


def _teacher_mixing(
    states: torch.Tensor, mask: torch.Tensor | None, config: DFDConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    sums, entries = layer_sums(states, mask), _entries(states, mask, config.weighting)
    if config.direction == "deep_to_shallow":
        return teacher_mixing(sums, config.weighting, entries)
    omega, fired = teacher_mixing(sums.flip(0), config.weighting, entries)
    return omega.flip(0, 1), fired


def _entries(states: torch.Tensor, mask: torch.Tensor | None, weighting: Weighting) -> float | torch.Tensor:
    """Number of entries of a layer, for the weighting that reads it; on the states' device, which no step waits for."""
    if weighting != "softmax_mean":
        return 1
    tokens = states[0, :, :, 0].numel() if mask is None else mask.sum()
    return tokens * states.shape[-1]


class RecentMean:
    """Mean of a matrix over the last steps: the plain one up to `steps`, from then on an exponential one."""

    def __init__(self, steps: int = 100) -> None:
        self._steps, self._count = steps, 0
        self.value: torch.Tensor | None = None

    def add(self, matrix: torch.Tensor | None) -> None:
        if matrix is None:
            return
        matrix = matrix.detach().float()
        self._count = min(self._count + 1, self._steps)
        self.value = matrix if self.value is None else torch.lerp(self.value, matrix, 1 / self._count)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self._count = state["value"], state["count"]


def matrix_notes(name: str, matrix: torch.Tensor | None) -> dict[str, float]:
    """The entries of a matrix that are not 0, as `name[row,column]`, counted from 1."""
    if matrix is None:
        return {}
    places = matrix.nonzero().tolist()
    return {f"{name}[{row + 1},{column + 1}]": float(matrix[row, column]) for row, column in places}


@register_distiller("dfd")
class DFD(HiddenStateDistiller):
    """Dual feature distillation; with `soft_weight` also soft labels."""

    reference = "Zhang et al. 2024, Neural Networks, 106533"
    skips_removed: ClassVar[bool] = True
    Config: ClassVar[type[DistillerConfig]] = DFDConfig

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._fired = torch.zeros((), device=setting.device)
        self._means = {"teacher_fusion": RecentMean(), "student_fusion": RecentMean()}

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        loss, mixings = dfd_loss(student, teacher, mask, self.config)
        self._fired += mixings.fired
        self._means["teacher_fusion"].add(mixings.teacher)
        self._means["student_fusion"].add(mixings.student)
        return loss

    def notes(self) -> dict[str, float]:
        """How often the guard fired, and the fusion weights over the last steps of training."""
        notes = {"fusion_guard_fired": float(self._fired)}
        for name, mean in self._means.items():
            notes |= matrix_notes(name, mean.value)
        return notes

    def state_dict(self) -> dict[str, Any]:
        return {"fired": self._fired, "means": {name: mean.state_dict() for name, mean in self._means.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._fired = state["fired"]
        for name, mean in self._means.items():
            mean.load_state_dict(state["means"][name])
