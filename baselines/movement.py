"""Movement pruning: learned scores whose gradient is that of the mask.

Sanh, Wolf, Rush: Movement Pruning: Adaptive Sparsity by Fine-Tuning. NeurIPS 2020, arXiv 2005.07683; public code in
huggingface/transformers, examples/research_projects/movement-pruning. With T search steps, scores S = 0 at the start:

    dL/dS := dL/dM                                   straight-through; an optimiser of their own, lr 1e-2, no decay
    v(t) = v_f + (v_i - v_f)(1 - (t - t_i) / (T - t_i - t_f))^3      v_i before t_i, v_f in the last t_f steps
    movement:       M = 1 for the top v(t) of the scores              v from 1 to the share kept
    soft movement:  M = 1 where sigmoid(S) > tau(t), at least .5 %    tau from 0 to tau_f = .1
                    loss += lambda(t) R,  R = mean of sigmoid(S),  lambda(t) = lambda_f tau(t) / tau_f

Under plain SGD at a constant rate, S = -lr * sum of dL/dM: the ranking of GPP. `granularity=weight` is the published
setting: the masks multiply single weights, so dL/dM = dL/dW' * W, and each matrix keeps int(v * n). The default is
ours: heads and FFN dims, ranked as GPP ranks them. Departures: t_i and t_f are shares of the search, and windows that
leave no step to ramp are refused (the public code then jumps); the scores' learning rate falls linearly, without a
warm-up; soft movement ends with a top-k, so that it meets the target (`finish=free` leaves the size open); equal
scores go by index.

`freeze_weights` trains scores and classifier only, after SMP (Jiang et al., arXiv 2210.06210).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch.nn.utils.parametrize import is_parametrized

from gppdfd.allocation import Allocation, fitted, removed
from gppdfd.budget import Target, prunable
from gppdfd.errors import UsageError
from gppdfd.interface import LOSS_PARTS, Config, Pruner, Setting, register_pruner
from gppdfd.structure import WEIGHT, Keep, Masks, Structure, adapter_for

FLOOR = 0.005
"""Share of each matrix that soft movement always keeps."""


class TopConfig(Config):
    """Options of pruners that keep the top of their scores on the cubic schedule.

    Attributes:
        granularity: heads and FFN dims, or single weights.
        allocation: what is ranked together; None: all units of a kind over the layers, or the weights of each matrix.
        start, hold: shares of the search before and after the ramp.
    """

    granularity: Literal["unit", "weight"] = "unit"
    allocation: Allocation | None = None
    start: float = Field(0.1, ge=0, lt=1)
    hold: float = Field(0.2, ge=0, lt=1, validate_default=True)

    @field_validator("hold")
    @classmethod
    def _ramps(cls, hold: float, info: ValidationInfo) -> float:
        if info.data.get("start", 0) + hold >= 1:
            raise ValueError(f"with start={info.data['start']:g} no step is left for the schedule to ramp")
        return hold

    @field_validator("allocation")
    @classmethod
    def _ranks(cls, allocation: Allocation | None, info: ValidationInfo) -> Allocation | None:
        if allocation == "per_type" and info.data.get("granularity") == "weight":
            raise ValueError("single weights are ranked per_layer, each matrix by itself, or joint")
        return allocation


class MovementConfig(TopConfig):
    """Options of movement pruning; the scores' learning rate falls linearly to 0 over the search, or stays."""

    learning_rate: float = Field(1e-2, gt=0)
    decay: Literal["linear", "constant"] = "linear"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    freeze_weights: bool = False


class SoftMovementConfig(MovementConfig):
    """Options of soft movement pruning: tau_f, lambda_f, and whether the target is met in the end.

    Adam moves a score by `learning_rate` per step at most, so the default threshold of .1 takes more than 220 steps to
    reach (440 while the rate falls); in a shorter search all units stay until the top-k takes over.
    """

    threshold: float = Field(0.1, gt=0, lt=1)
    regularisation: float = Field(1.0, ge=0)
    finish: Literal["topk", "free"] = "topk"


def cubic(step: int, steps: int, start: int, hold: int, initial: float, final: float) -> float:
    """Value before search step `step` of `steps`: `initial` for `start` steps, in the end `final` for `hold` steps."""
    if step <= start:
        return initial
    if step > steps - hold:
        return final
    return final + (initial - final) * (1 - (step - start) / (steps - start - hold)) ** 3


def top_share(scores: torch.Tensor, share: float, groups: Sequence[int]) -> torch.Tensor:
    """Bool tensor with the int(share * n) highest scores of each group.

    Args:
        groups: sizes n of consecutive runs of the flat scores, each ranked by itself.
    """
    parts = [_highest(part, int(share * len(part))) for part in scores.flatten().split(list(groups))]
    return torch.cat(parts).view_as(scores)


def _highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """As `most_important(-scores, count)`, without sorting: matrices are large, and every step asks."""
    if count in (0, len(scores)):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    edge = scores.kthvalue(len(scores) - count + 1).values
    above, equal = scores > edge, scores == edge
    later = equal.flip(0).cumsum(0).flip(0) <= count - above.sum()
    return above | (equal & later)


def above_threshold(scores: torch.Tensor, threshold: float, groups: Sequence[int]) -> torch.Tensor:
    """Bool tensor of sigmoid(scores) > threshold, or of the int(.005 n) + 1 highest of a group where fewer are."""
    parts = [_above_or_floor(part, threshold) for part in scores.flatten().split(list(groups))]
    return torch.cat(parts).view_as(scores)


def _above_or_floor(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    above, least = scores.sigmoid() > threshold, int(FLOOR * len(scores)) + 1
    return above if int(above.sum()) >= least else _highest(scores, least)


def score_regulariser(groups: Iterable[torch.Tensor]) -> torch.Tensor:
    """R: mean over groups of the mean sigmoid of their scores; a scalar."""
    return torch.stack([scores.sigmoid().mean() for scores in groups]).mean()


def weight_share(structure: Structure, target: Target) -> float:
    """Share of all single weights that may stay; the biases stay dense. Below 0 if these alone exceed the target."""
    return (target.budget(structure) - (prunable(structure) - structure.weights)) / structure.weights


def single_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    """Weights of the attention and FFN maps as they are without masks, in the order of kind `weight`."""
    modules = [place.module for place in adapter_for(model).maps(model)]
    return [
        module.parametrizations.weight.original if is_parametrized(module, "weight") else module.weight
        for module in modules
    ]


class Top(Pruner):
    """Keeps the top of its scores on the cubic schedule; subclasses say the scores."""

    Config: ClassVar[type[Config]] = TopConfig

    def scores(self) -> Masks:
        """By kind, the higher the longer a unit stays."""
        raise NotImplementedError

    @property
    def kinds(self) -> tuple[str, ...]:
        return (WEIGHT,) if self.by_weight else super().kinds

    @property
    def by_weight(self) -> bool:
        return bool(self.config.granularity == "weight")

    @property
    def allocation(self) -> Allocation:
        return self.config.allocation or ("per_layer" if self.by_weight else "per_type")

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        if not self.by_weight:
            return super().unreachable(structure, target)
        if target.flops is not None or target.latency is not None:
            dense = target.cost(structure, {}) <= target.budget(structure)
            return None if dense else "zeros among single weights save neither FLOPs nor time"
        return None if weight_share(structure, target) >= 0 else "the biases, which stay dense, exceed it"

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        steps = setting.search_steps
        self._start, self._hold = round(self.config.start * steps), round(self.config.hold * steps)
        if self._start + self._hold >= steps:
            raise UsageError(f"a search of {steps} steps leaves none to ramp: raise training.search_epochs")
        self._share = self._final_share()
        self._groups = self._ranked_together()

    def sparsity(self, step: int) -> float | None:
        return 1 - self._scheduled(step, 1.0, self._share)

    def masks(self, step: int) -> Masks:
        return {kind: units.float() for kind, units in self._top(self._scheduled(step, 1.0, self._share)).items()}

    def keep(self) -> Keep:
        keep = {kind: units.cpu() for kind, units in self._top(self._share).items()}
        target = self.setting.target
        if self.by_weight or target.count == "published":
            return keep
        unimportance = {kind: -scores.cpu() for kind, scores in self.scores().items()}
        return fitted(self.setting.structure, keep, unimportance, target, self.allocation)

    def _scheduled(self, step: int, initial: float, final: float) -> float:
        return cubic(step, self.setting.search_steps, self._start, self._hold, initial, final)

    def _top(self, share: float) -> Keep:
        """Units that stay at this share."""
        scores = self.scores()
        if self.by_weight:
            return {WEIGHT: top_share(scores[WEIGHT], share, self._groups[WEIGHT])}
        unimportance = {kind: -values for kind, values in scores.items()}
        gone = removed(self.setting.structure, unimportance, 1 - share, self.allocation)
        return {kind: ~units for kind, units in gone.items()}

    def _final_share(self) -> float:
        structure, target = self.setting.structure, self.setting.target
        if self.by_weight and target.count == "to_target":
            return min(1.0, weight_share(structure, target))
        return 1 - target.share(structure)

    def _ranked_together(self) -> dict[str, list[int]]:
        """Sizes of the groups that a rule per matrix applies to, by kind."""
        structure = self.setting.structure
        if not self.by_weight:
            rows = structure.layers if self.allocation == "per_layer" else 1
            return {kind: [math.prod(structure.shape(kind)) // rows] * rows for kind in self.kinds}
        if self.allocation == "joint":
            return {WEIGHT: [structure.weights]}
        return {WEIGHT: [weight.numel() for weight in single_weights(self.setting.student)]}


@register_pruner("movement")
class Movement(Top):
    """Movement pruning: scores follow the gradient of their masks."""

    reference = "Sanh et al. 2020, NeurIPS 33, arXiv 2005.07683"
    reconstruction = "heads and FFN dims for single weights (granularity=weight is the paper's)"
    Config: ClassVar[type[Config]] = MovementConfig

    @property
    def gradient_parts(self) -> frozenset[str]:
        return frozenset(LOSS_PARTS)

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        ones = setting.structure.ones(self.kinds, setting.device)
        self._scores = {kind: torch.zeros_like(values).requires_grad_() for kind, values in ones.items()}
        self._optimizer = self._own_optimizer()
        if self.config.freeze_weights:
            setting.student.base_model.requires_grad_(False)

    def scores(self) -> Masks:
        return {kind: values.detach() for kind, values in self._scores.items()}

    def observe(self, step: int, masks: Masks, gradients: Masks) -> None:
        """Hand the gradients of the masks to the scores, beside those of the regulariser."""
        for kind, gradient in gradients.items():
            scores = self._scores[kind]
            scores.grad = gradient if scores.grad is None else scores.grad + gradient

    def masks(self, step: int) -> Masks:
        self._set_rate(step)
        return super().masks(step)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._optimizer]

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for kind, values in state["scores"].items():
                self._scores[kind].copy_(values)
        self._optimizer.load_state_dict(state["optimizer"])

    def _set_rate(self, step: int) -> None:
        factor = 1.0 if self.config.decay == "constant" else 1 - step / self.setting.search_steps
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def _own_optimizer(self) -> torch.optim.Optimizer:
        scores, rate = list(self._scores.values()), self.config.learning_rate
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(scores, lr=rate)
        return torch.optim.AdamW(scores, lr=rate, weight_decay=0.0)


@register_pruner("soft-movement")
class SoftMovement(Movement):
    """Soft movement pruning: a rising threshold on the scores, and a regulariser that pushes them down."""

    reconstruction = "heads and FFN dims for single weights; a top-k meets the target (finish=free is the paper's)"
    Config: ClassVar[type[Config]] = SoftMovementConfig

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._threshold = 0.0

    def sparsity(self, step: int) -> float | None:
        """Unknown while the threshold decides."""
        return 1 - self._share if self._finished(step) else None

    def masks(self, step: int) -> Masks:
        self._set_rate(step)
        self._threshold = self._scheduled(step, 0.0, self.config.threshold)
        units = self._top(self._share) if self._finished(step) else self._above(self._threshold)
        return {kind: there.float() for kind, there in units.items()}

    def loss(self, masks: Masks | None) -> torch.Tensor | None:
        if masks is None:  # outside the search
            return None
        groups = [part for kind, scores in self._scores.items() for part in scores.flatten().split(self._groups[kind])]
        weight = self.config.regularisation * self._threshold / self.config.threshold
        return weight * score_regulariser(groups)

    def keep(self) -> Keep:
        if self.config.finish == "topk":
            return super().keep()
        return {kind: units.cpu() for kind, units in self._above(self.config.threshold).items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "threshold": self._threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._threshold = state["threshold"]

    def _finished(self, step: int) -> bool:
        """Whether the top-k has taken over from the threshold."""
        return bool(self.config.finish == "topk" and step > self.setting.search_steps - self._hold)

    def _above(self, threshold: float) -> Keep:
        return {kind: above_threshold(scores, threshold, self._groups[kind]) for kind, scores in self.scores().items()}
