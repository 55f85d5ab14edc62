"""GPP: gradient progressive pruning of attention heads and FFN dims.

Zhang, Lu, Wang, Wei, Wei: Joint Dual Feature Distillation and Gradient Progressive Pruning for BERT compression. Neural
Networks (2024), article 106533. Formulas follow the authors' public code (github.com/ZhouZhangll/GPP-DFD, commit
002be91); the paper's text is not public.

With T search steps and target sparsity s, before step t of the search (and once more at t = T):

    s_t = s * ((1 - cos(pi t / T)) / 2)^2           schedule
    k_t = floor(s_t * n)                            units to lower, per kind: heads among heads, FFN dims among FFN dims
    U_t = the k_t units of largest unimportance     ranking, over all layers together
    z_j = 1 - s_t / s  for j in U_t,  1 otherwise   smooth path from real values to binary ones

Unimportance is the mean of the signed gradient dL/dz_j over all search steps so far: a large positive gradient means
that lowering z_j lowers the loss. Masks take gradients but are set, never learned.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator

from gppdfd.budget import fit_to_target, least_important
from gppdfd.interface import (
    LOSS_PARTS,
    Config,
    NamedMethod,
    Pruner,
    Setting,
    register_method,
    register_pruner,
)
from gppdfd.structure import Keep, Masks
from gppdfd.structure.norms import unit_norms

Schedule = Literal["cos2", "cos_half", "linear", "cubic"]
MaskPath = Literal["progressive", "hard_gradual", "hard_once"]
Importance = Literal["signed_mean", "abs_mean_with_l1", "abs_mean", "current_step", "taylor", "magnitude", "random"]

KINDS = ("head", "ffn")


class PathConfig(Config):
    """How masks move from 1 to their final values."""

    mask: MaskPath = "progressive"
    schedule: Schedule = "cos2"


class GPPConfig(PathConfig):
    """Options of GPP; `importance=abs_mean_with_l1` is what the released code does."""

    importance: Importance = "signed_mean"
    l1: float = 0.5
    gradient: Literal["total", "task"] = "total"

    @model_validator(mode="after")
    def _l1_is_observed(self) -> "GPPConfig":
        if self.importance == "abs_mean_with_l1" and self.gradient == "task":
            raise ValueError("importance abs_mean_with_l1 needs gradient total: the one of the task has no L1 term")
        return self


def scheduled_share(step: int, steps: int, schedule: Schedule = "cos2") -> float:
    """s_t / s: share of the target sparsity due before search step `step` of `steps`; exactly 0 and 1 at the ends."""
    if step >= steps:
        return 1.0
    time = step / steps
    cosine = (1 - math.cos(math.pi * time)) / 2
    return {"cos2": cosine**2, "cos_half": cosine**0.5, "linear": time, "cubic": 1 - (1 - time) ** 3}[schedule]


def update_interval(steps: int, sparsity: float) -> int:
    """Search steps between two updates: about one update per percent of sparsity."""
    return max(1, int(steps / (100 * sparsity)))


def update_due(step: int, steps: int, sparsity: float) -> bool:
    """Whether masks are set before search step `step`; always at the end."""
    return step == steps or step % update_interval(steps, sparsity) == 0


def low_value(share: float, mask: MaskPath = "progressive") -> float:
    """Mask of a unit that is due: `progressive` 1 - share, `hard_gradual` 0, `hard_once` 1 until the share is 1."""
    return {"progressive": 1 - share, "hard_gradual": 0.0, "hard_once": 0.0 if share == 1 else 1.0}[mask]


def indicators(
    unimportance: torch.Tensor, sparsity: float, share: float, mask: MaskPath = "progressive"
) -> torch.Tensor:
    """Masks of one kind at a given share of the target sparsity.

    Args:
        unimportance: [layers, units]; all layers are ranked together, ties by index.
        sparsity: target share of units to remove.
        share: s_t / s in [0, 1].
        mask: what due units get (`low_value`).
    """
    due = least_important(unimportance, int(sparsity * share * unimportance.numel()))
    return torch.ones_like(unimportance).masked_fill(due, low_value(share, mask))


def l1_term(masks: Masks, weight: float = 0.5) -> torch.Tensor:
    """L1 term of the released search loss: weight * (||z_head||_1 + ||z_ffn||_1); adds `weight` to each gradient."""
    # No mask is negative. The gradient of |z| would be 0 at the masks that are 0.
    return weight * torch.stack([values.sum() for values in masks.values()]).sum()


def uniform_draw(setting: Setting) -> Masks:
    """One uniform number per unit, from the pruner's own random stream."""
    shapes = {kind: setting.structure.shape(kind) for kind in KINDS}
    return {kind: torch.rand(shape, generator=setting.generator).to(setting.device) for kind, shape in shapes.items()}


def negative_norms(setting: Setting) -> Masks:
    """Unimportance by magnitude: minus the norm of each unit, with the student's weights as they are now."""
    return {kind: -values for kind, values in unit_norms(setting.student).items()}


class PathPruner(Pruner):
    """Search path of GPP under any ranking: subclasses say how unimportant each unit is."""

    Config: ClassVar[type[Config]] = PathConfig

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._masks = setting.structure.ones(KINDS, setting.device)
        self._target = setting.target.share(setting.structure)

    def unimportance(self) -> Masks:
        """By kind, the larger the sooner a unit goes."""
        raise NotImplementedError

    def sparsity(self, step: int) -> float:
        return self._target * self._share(step)

    def masks(self, step: int) -> Masks:
        # Without gradients there is nothing to rank by; the schedule is 0 then anyway.
        if self._target > 0 and step > 0 and update_due(step, self.setting.search_steps, self._target):
            self._masks = self._indicators(step)
        return self._masks

    def keep(self) -> Keep:
        unimportance = {kind: values.cpu() for kind, values in self.unimportance().items()}
        share = {kind: indicators(values, self._target, 1.0) > 0 for kind, values in unimportance.items()}
        if self.setting.target.count == "published":
            return share
        return fit_to_target(self.setting.structure, share, unimportance, self.setting.target)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self._masks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._masks = state["masks"]

    def _share(self, step: int) -> float:
        return scheduled_share(step, self.setting.search_steps, self.config.schedule)

    def _indicators(self, step: int) -> Masks:
        share = self._share(step)
        return {
            kind: indicators(values, self._target, share, self.config.mask)
            for kind, values in self.unimportance().items()
        }


@register_pruner("gpp")
class GPP(PathPruner):
    """Gradient progressive pruning: ranks units by their mean mask gradient since the search began."""

    reference = "Zhang et al. 2024, Neural Networks, 106533"
    Config: ClassVar[type[Config]] = GPPConfig

    @property
    def gradient_parts(self) -> frozenset[str]:
        if self.config.importance in ("magnitude", "random"):
            return frozenset()
        return frozenset({"task"} if self.config.gradient == "task" else LOSS_PARTS)

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._steps = 0
        self._sums = {kind: torch.zeros_like(values) for kind, values in self._masks.items()}
        self._draw = uniform_draw(setting)

    def loss(self, masks: Masks | None) -> torch.Tensor | None:
        if masks is None or self.config.importance != "abs_mean_with_l1":
            return None
        return l1_term(masks, self.config.l1)

    def observe(self, step: int, masks: Masks, gradients: Masks) -> None:
        self._steps += 1
        for kind, gradient in gradients.items():
            if self.config.importance == "current_step":
                self._sums[kind] = gradient * self._steps
            elif self.config.importance == "taylor":
                self._sums[kind] += (gradient * masks[kind].detach()).abs()
            else:
                self._sums[kind] += gradient

    def unimportance(self) -> Masks:
        if self.config.importance == "random":
            return self._draw
        if self.config.importance == "magnitude":
            return negative_norms(self.setting)
        means = {kind: values / max(1, self._steps) for kind, values in self._sums.items()}
        if self.config.importance in ("abs_mean", "abs_mean_with_l1"):
            return {kind: values.abs() for kind, values in means.items()}
        sign = -1 if self.config.importance == "taylor" else 1
        return {kind: sign * values for kind, values in means.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self._steps, "sums": self._sums, "draw": self._draw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._steps, self._sums, self._draw = state["steps"], state["sums"], state["draw"]


register_method(
    "gpp+dfd-released",
    NamedMethod(
        spec="gpp(importance=abs_mean_with_l1)+dfd(weighting=sum_ratio_raw,mask_padding=off)",
        training={"carry_weight_grads": True, "task_forward": "separate"},
        reference="Zhang et al. 2024, settings of the released code",
    ),
)
