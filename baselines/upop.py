"""UPop: unified and progressive pruning, here on whole heads and FFN dims of one encoder.

Shi, Tao, Jin, Yang, Yuan, Wang: UPop: Unified and Progressive Pruning for Compressing Vision-Language Transformers.
ICML 2023, PMLR 202:31292-31311, arXiv 2301.13741; public code github.com/sdc17/UPop (commit cfbc4ea). With T search
steps and compression ratio p, before step t of the search (and once more at t = T):

    pi_t = p * sqrt((1 - cos(pi t / T)) / 2)                     schedule, exactly p at the end
    G_j  = gradient of mask j accumulated since the search began, standardised within its kind
    U_t  = units above the entry of the joint ranking whose cumulated parameters are nearest to pi_t of all
    z_j  = 1 - pi_t / p  for j in U_t,  1 otherwise              binary at the end

So it walks GPP's path with another ranking and schedule; with `allocation=per_type, schedule=cos2` it is GPP.
Departures: units are whole heads instead of attention dims that all heads of a layer share, so that tables compare;
each counts with its true parameters (published: constants); masks are set about once per percent of sparsity, as in GPP
(`interval`: after the first step and every so many); nothing is kept by force (`floor`: the best unit of each layer and
kind always stays).
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from gppdfd.allocation import Allocation, fitted, removed
from gppdfd.budget import Target
from gppdfd.gpp import PathConfig, PathPruner, Schedule, low_value
from gppdfd.interface import LOSS_PARTS, Config, Setting, register_pruner
from gppdfd.structure import Keep, Masks, Structure


class UPopConfig(PathConfig):
    """Options of UPop; `statistic=current_step` is what its mixed-precision scripts do."""

    schedule: Schedule = "cos_half"
    statistic: Literal["accumulated", "current_step"] = "accumulated"
    allocation: Allocation = "joint"
    interval: int | None = Field(None, ge=1)
    floor: bool = False


def standardised(values: torch.Tensor) -> torch.Tensor:
    """(x - mean) / std over all entries, with the unbiased deviation; zeros where all are equal."""
    centred = values - values.mean()
    return centred / values.std().clamp(min=torch.finfo(values.dtype).tiny)


def set_after(step: int, steps: int, interval: int) -> bool:
    """Whether masks are set after 0-based search step `step`: the first, every `interval`-th and the last."""
    return step % interval == 0 or step == steps - 1


def spared(due: torch.Tensor, unimportance: torch.Tensor) -> torch.Tensor:
    """`due` without the units of smallest unimportance of each layer: bool [layers, units]."""
    return due & (unimportance > unimportance.amin(-1, keepdim=True))


@register_pruner("upop")
class UPop(PathPruner):
    """UPop's joint ranking and schedule, on whole heads and FFN dims."""

    reference = "Shi et al. 2023, ICML, arXiv 2301.13741"
    reconstruction = "whole heads of one text encoder; published for dims that all heads of a layer share"
    Config: ClassVar[type[Config]] = UPopConfig

    @property
    def gradient_parts(self) -> frozenset[str]:
        return frozenset(LOSS_PARTS)

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        if not self.config.floor:
            return super().unreachable(structure, target)
        one = {kind: torch.zeros(structure.shape(kind), dtype=torch.bool) for kind in ("head", "ffn")}
        for units in one.values():
            units[:, 0] = True
        fits = target.cost(structure, one) <= target.budget(structure)
        return None if fits else "one head and one FFN dim per layer alone exceed it"

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._sums = {kind: torch.zeros_like(values) for kind, values in self._masks.items()}

    def observe(self, step: int, masks: Masks, gradients: Masks) -> None:
        carried = 0 if self.config.statistic == "current_step" else 1
        self._sums = {kind: carried * self._sums[kind] + gradient for kind, gradient in gradients.items()}

    def unimportance(self) -> Masks:
        if self.config.allocation != "joint":
            return self._sums  # standardising changes no order within a kind
        return {kind: standardised(values) for kind, values in self._sums.items()}

    def masks(self, step: int) -> Masks:
        if self.config.interval is None:
            return super().masks(step)
        if self._target > 0 and step > 0 and set_after(step - 1, self.setting.search_steps, self.config.interval):
            self._masks = self._indicators(step)
        return self._masks

    def keep(self) -> Keep:
        unimportance = {kind: values.cpu() for kind, values in self.unimportance().items()}
        keep = {kind: ~units for kind, units in self._due(unimportance, 1.0).items()}
        if self.setting.target.count == "published":
            return keep
        if self.config.floor:
            best = {kind: values == values.amin(-1, keepdim=True) for kind, values in unimportance.items()}
            unimportance = {kind: values.masked_fill(best[kind], -torch.inf) for kind, values in unimportance.items()}
        return fitted(self.setting.structure, keep, unimportance, self.setting.target, self.config.allocation)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._sums = state["sums"]

    def _indicators(self, step: int) -> Masks:
        low = low_value(self._share(step), self.config.mask)
        due = self._due(self.unimportance(), self._share(step))
        return {kind: torch.ones_like(self._sums[kind]).masked_fill(units, low) for kind, units in due.items()}

    def _due(self, unimportance: Masks, share: float) -> Keep:
        due = removed(self.setting.structure, unimportance, self._target * share, self.config.allocation)
        if not self.config.floor:
            return due
        return {kind: spared(units, unimportance[kind]) for kind, units in due.items()}
