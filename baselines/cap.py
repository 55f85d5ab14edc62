"""CAP-f: first-order pruning of attention heads and FFN dims in ten-percent steps; and the same ranking in one shot.

Xu, Luo, Wang, Chang, Huang, Huang, Huang: From Dense to Sparse: Contrastive Pruning for Better Pre-trained Language
Model Compression. AAAI 2022, arXiv 2112.07198. What it does follows the authors' public code
(github.com/RunxinXu/ContrastivePruning, commit eae11d6); its contrastive loss is in `baselines.contrastive`.

Units go in cuts of 10, 20, ... percent, with re-training under a new optimiser and schedule after each:

    I_u  = sum over batches of |dL_batch / dz_u|      one pass over the training set, evaluation mode, total loss
    I_u  = I_u / (||I_layer||_2 + 1e-20)              norm of its layer
    the floor(p n) units of smallest I go             heads among heads, FFN dims among FFN dims, over all layers

What is gone stays gone, and one head per layer stays. The search is all phases but the last, which is the recovery of
the extracted model. `first-order` makes a single cut after a dense phase (or at the start) and ranks in the same way.

A scoring pass never takes more batches than a phase trains: with the paper's two epochs per phase that is the whole
training set, and in a short search scoring takes at most half of the budget.

Departures, each with the released behaviour as an option: the head that is kept in each layer is the best live one, not
the best one, which may be gone already (`head_floor`); the norm of a layer is over its live units (`norm`). The first
cut is made before any training, as released, thus by a new classifier; `first_step=finetuned` trains for half a phase
before.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from gppdfd import budget
from gppdfd.budget import Target, fit_to_target, least_important
from gppdfd.interface import LOSS_PARTS, Config, Pruner, Setting, register_pruner
from gppdfd.structure import Keep, Masks, Structure

KINDS = ("head", "ffn")

MANY = 10**6
"""Steps of a search that is long enough for any number of phases."""

Floor = Literal["live", "released", "none"]


class FirstOrderConfig(Config):
    """Options of pruning by first-order scores.

    Attributes:
        first_step: whether the first cut is made before training or after a dense phase.
        scoring_share: share of the training batches that a scoring pass takes; never more batches than a phase trains.
        head_floor: which head of each layer stays: its best `live` one, its best one as `released`, or `none`.
        norm: units whose scores make up a layer's norm.
    """

    first_step: Literal["pretrained", "finetuned"] = "finetuned"
    scoring_share: float = Field(1.0, gt=0, le=1)
    head_floor: Floor = "live"
    norm: Literal["live", "all"] = "live"


class CAPFConfig(FirstOrderConfig):
    """Options of CAP-f; `step_size` is the share of units that goes in each phase."""

    first_step: Literal["pretrained", "finetuned"] = "pretrained"
    step_size: float = Field(0.1, gt=0, le=1)


@dataclass(frozen=True)
class Cut:
    """Before search step `step`, or after the search if that is its length, `share` of the units is gone."""

    step: int
    share: float


def phase_shares(target: float, step_size: float, most: int) -> list[float]:
    """Share of units gone in each phase: multiples of `step_size`, then `target`; if too many, `most` equal steps."""
    count = max(1, math.ceil(round(target / step_size, 6)))
    if count > most:
        return [target * phase / most for phase in range(1, most + 1)]
    return [*(round(step_size * phase, 6) for phase in range(1, count)), target]


def planned_cuts(shares: list[float], steps: int, dense: float) -> list[Cut]:
    """Cuts at equal distances; the last is made after `steps` search steps, the first after `dense` phases."""
    phases = len(shares) - 1 + dense
    if not phases:
        return [Cut(0, shares[0])]
    times = [math.floor(steps * (index + dense) / phases + 0.5) for index in range(len(shares))]
    return [Cut(time, share) for time, share in zip(times, shares, strict=True)]


def unit_count(share: float, units: int) -> int:
    """Units that are gone: floor(share * units), safe from shares such as .29 of 100."""
    return int(share * units + 1e-9)


def summed_sizes(gradients: Iterable[Masks]) -> Masks:
    """First-order scores: the sum over batches of the absolute gradient of each unit's mask."""
    total: Masks = {}
    for batch in gradients:
        total = {kind: total[kind] + values.abs() if total else values.abs() for kind, values in batch.items()}
    return total


def normalised(scores: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Scores [layers, units] over their layer's L2 norm; of the units in bool `counted` only, if it is given."""
    norms = (scores if counted is None else scores * counted).norm(dim=-1, keepdim=True)
    return scores / (norms + 1e-20)


def protected(scores: torch.Tensor, alive: torch.Tensor, floor: Floor) -> torch.Tensor:
    """Bool [layers, units]: the unit of each layer that must not go."""
    held = torch.zeros_like(alive)
    if floor == "none":
        return held
    eligible = scores.masked_fill(~alive, -torch.inf) if floor == "live" else scores
    return held.scatter(-1, eligible.argmax(-1, keepdim=True), True)


def pruned_to(scores: torch.Tensor, alive: torch.Tensor, gone: int, floor: Floor = "none") -> torch.Tensor:
    """Units alive after the least important of all layers went, `gone` in all, or as many as the floor allows.

    Args:
        scores: [layers, units], small ones go first.
        alive: bool of the same shape; what is gone stays so.
    """
    movable = alive & ~protected(scores, alive, floor)
    more = min(gone - int((~alive).sum()), int(movable.sum()))
    return alive & ~least_important((-scores).masked_fill(~movable, -torch.inf), max(0, more))


class FirstOrderPruner(Pruner):
    """Cuts units by first-order scores at planned times; subclasses plan."""

    reference = "Xu et al. 2022, AAAI, arXiv 2112.07198"
    reconstruction = "after the released code; the paper's text was not at hand"

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._alive = setting.structure.keep_all(KINDS)
        self._cuts = self.cuts(setting.target.share(setting.structure), setting.search_steps)
        self._made = 0

    def cuts(self, target: float, steps: int) -> list[Cut]:
        """What goes when, for a target share of units and a number of search steps."""
        raise NotImplementedError

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        reason = budget.unreachable(structure, target)
        if reason is not None or self.config.head_floor == "none":
            return reason
        least = {kind: torch.zeros(structure.shape(kind), dtype=torch.bool) for kind in KINDS}
        least["head"][:, 0] = True
        if target.cost(structure, least) <= target.budget(structure):
            return None
        return f"one head per layer stays: at most {budget.sparsity(structure, least):.4f} sparsity on this model"

    def scoring_epochs(self, structure: Structure, target: Target, search_epochs: float) -> float:
        passes = len(self.cuts(target.share(structure), MANY))
        return min(self.config.scoring_share * passes, search_epochs / 2)

    def restart(self, step: int) -> int | None:
        steps = self.setting.search_steps
        starts = sorted({0, steps, *(cut.step for cut in self._cuts)})
        return starts[starts.index(step) + 1] - step if step in starts[:-1] else None

    def masks(self, step: int) -> Masks:
        while self._made < len(self._cuts) and self._cuts[self._made].step <= step:
            self._cut(self._cuts[self._made].share)
        return self._live_masks()

    def sparsity(self, step: int) -> float:
        return self._cuts[self._made - 1].share if self._made else 0.0

    def keep(self) -> Keep:
        self.masks(self.setting.search_steps)
        return self._alive

    def state_dict(self) -> dict[str, Any]:
        return {"alive": self._alive, "made": self._made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._alive = {kind: units.cpu() for kind, units in state["alive"].items()}
        self._made = state["made"]

    def _live_masks(self) -> Masks:
        return {kind: units.to(self.setting.device, torch.float32) for kind, units in self._alive.items()}

    def _cut(self, share: float) -> None:
        scores = self._scores()
        floors: dict[str, Floor] = {"head": self.config.head_floor, "ffn": "none"}
        left = {
            kind: pruned_to(scores[kind], alive, unit_count(share, alive.numel()), floors[kind])
            for kind, alive in self._alive.items()
        }
        self._made += 1
        if self._made == len(self._cuts) and self.setting.target.count == "to_target":
            left = self._fitted(left, scores)
        self._alive = left

    def _fitted(self, left: Keep, scores: Masks) -> Keep:
        """Move the last cut to the target: what was gone before goes first, the protected heads last."""
        order = {kind: (-values).masked_fill(~self._alive[kind], torch.inf) for kind, values in scores.items()}
        held = protected(scores["head"], left["head"], self.config.head_floor)
        order["head"] = order["head"].masked_fill(held, -torch.inf)
        return fit_to_target(self.setting.structure, left, order, self.setting.target)

    def _scores(self) -> Masks:
        loop = self.setting.loop
        assert loop is not None  # the training loop gives it
        trained = max(1, self.setting.search_steps // len(self._cuts))
        batches = min(math.ceil(self.config.scoring_share * loop.batches), trained)
        scores = summed_sizes(loop.mask_gradients(self._live_masks(), frozenset(LOSS_PARTS), batches))
        counted = self._alive if self.config.norm == "live" else {}
        return {kind: normalised(values.cpu(), counted.get(kind)) for kind, values in scores.items()}


@register_pruner("first-order")
class FirstOrder(FirstOrderPruner):
    """One cut by first-order scores, after a dense search or before it."""

    reference = "control: CAP-f's ranking (Xu et al. 2022, arXiv 2112.07198) in one shot"
    Config: ClassVar[type[Config]] = FirstOrderConfig

    def cuts(self, target: float, steps: int) -> list[Cut]:
        return planned_cuts([target], steps, float(self.config.first_step == "finetuned"))


@register_pruner("cap-f")
class CAPF(FirstOrderPruner):
    """First-order cuts in ten-percent steps, with re-training after each."""

    Config: ClassVar[type[Config]] = CAPFConfig

    def cuts(self, target: float, steps: int) -> list[Cut]:
        dense = 0.5 if self.config.first_step == "finetuned" else 0.0
        most = max(1, steps if dense else steps + 1)
        return planned_cuts(phase_shares(target, self.config.step_size, most), steps, dense)

    def snapshot_due(self, step: int) -> bool:
        """After each re-training, before the next cut."""
        return step in [cut.step for cut in self._cuts[1:]]
