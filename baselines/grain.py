"""GRAIN: gradient-based pruning of dims inside heads and of FFN dims, all in one ranking.

Yang, Cui, Yao, Wang: Gradient-based Intra-attention Pruning on Pre-trained Language Models. ACL 2023, arXiv
2212.07634; public code github.com/airaria/GRAIN (commit 8d02105). With a gate z = 1 at every unit that is left
(query-key dims `qk`, value-output dims `vo`, FFN dims) and the soft labels' loss alone, after search step t of T:

    u_i = |dL_soft / dz_i| * tanh(D_i / alpha)          D_i: share of its head's value dims that are left; vo only
    S_i = beta S_i + (1 - beta) u_i                     smoothed importance, from the first step on
    s_t = s + (1 - s) (1 - (t - a) / (b - a))^3         density due for a <= t <= b; 1 before, s after
    drop the least important units of all kinds together while the dropped share of parameters is below 1 - s_t

The gate's gradient is the sum of weight times gradient over a unit that the authors' code takes. A unit that went
does not come back; a head without value dims loses its queries and keys. The scores see the soft labels (and hard ones,
where the distiller has any) but not the loss on hidden states: gradient separation.

Distillation: cross-entropy to the teacher's probabilities at temperature 8, without the factor T^2, plus the squared
error of hidden states 0, 2, .., 12 (0 is the embedding output), each sent through a linear map that starts as the
identity.

beta = .998 remembers 500 steps and was chosen for runs of 42,080 steps and more. In a search of a few hundred steps S
is nearly the mean over all steps so far, and the structure regularisation acts late. The default stays: one batch says
little about a unit, and on the embedded benchmark (100 search steps, CoLA and STS-B at sparsity .95, one seed) memories
of 3 to 50 steps did no better (at best .1 points). Correcting for the start at S = 0 would be one factor for all units.

Departures from the public code, which are options where a number could depend on them:

* The window is given in shares of the search, which ends where the structure is final: .5 to 1 of a search that takes
  the first 40 % of the steps is the paper's .2 to .4 of all steps.
* The last cut is made, at exactly the target (`last_cut=released`: the density of one step before).
* The final keep meets the suite's own target: the cut moves in the FFN dims until less than one is missing.
* The maps of the hidden states are in the learning-rate schedule and clipped with the rest; there, they had a constant
  rate, which current libraries refuse. Scores carry no loss scale. Scores per example are not offered.
* An epoch's last, smaller batch is taken, and Adam's epsilon is 1e-8, as for all methods here; there 1e-6.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import log_softmax, mse_loss
from transformers import PreTrainedModel

from gppdfd.budget import Target, fit_to_target, least_important, parameters, prunable
from gppdfd.distilling import HiddenStateConfig, HiddenStateDistiller, Layers, identity_map, mapped
from gppdfd.factorise import factorise
from gppdfd.interface import (
    LOSS_PARTS,
    Config,
    DistillerConfig,
    NamedMethod,
    Pruner,
    Setting,
    register_distiller,
    register_method,
    register_pruner,
)
from gppdfd.structure import Keep, Masks, Structure
from gppdfd.tasks.base import Batch
from gppdfd.views import View, layer_fractions, matched_layers

REFERENCE = "Yang et al. 2023, ACL, arXiv 2212.07634"

STATES = (0, 2, 4, 6, 8, 10, 12)
"""Hidden states that are compared, written for 12 layers; 0 is the embedding output."""

# --- pruning ---


class GrainConfig(Config):
    """Options of the pruner.

    Attributes:
        units: dims inside heads and FFN dims, or whole heads and FFN dims (the paper's ablation).
        ranking: all kinds together by parameters, or the same share of each kind.
        start, end: window in which units go, in shares of the search steps.
        beta: smoothing of the scores; 0 takes the last batch alone.
        structreg: alpha of the structure regularisation by value dims left in the head; 0 is off.
        structreg_layer, structreg_ffn: the same by value dims left in the layer and by FFN dims left in it.
        scores: first-order ones, or one random draw per unit, which neither smoothing nor structure changes.
        separation: scores see the loss on labels, not the one on hidden states.
        drop_dead_queries: a head without value dims loses its queries and keys at once.
        last_cut: whether the end of the window is reached, or the last cut is the one before.
        embedding_rank: of the factorised word embeddings; `quarter` of their width is the paper's 192 of 768.
    """

    units: Literal["dims", "heads"] = "dims"
    ranking: Literal["global", "per_kind"] = "global"
    start: float = Field(0.5, ge=0, lt=1)
    end: float = Field(1.0, gt=0, le=1)
    beta: float = Field(0.998, ge=0, lt=1)
    structreg: float = Field(0.3, ge=0)
    structreg_layer: float = Field(0.0, ge=0)
    structreg_ffn: float = Field(0.0, ge=0)
    scores: Literal["gradient", "random"] = "gradient"
    separation: bool = True
    drop_dead_queries: bool = True
    last_cut: Literal["target", "released"] = "target"
    embedding_rank: Literal["quarter"] | int | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "GrainConfig":
        if self.start >= self.end:
            raise ValueError(f"start {self.start} must be before end {self.end}")
        return self


def density(step: int, start: int, end: int, final: float) -> float:
    """Share of the units' parameters that may be left after `step` steps of a window from `start` to `end`."""
    if step <= start:
        return 1.0
    if step >= end:
        return final
    return final + (1 - final) * (1 - (step - start) / (end - start)) ** 3


def structure_factor(left: torch.Tensor, alpha: float) -> torch.Tensor:
    """tanh(D / alpha) for the share D of units left along the last dimension, which stays as 1; alpha 0 gives 1."""
    share = left.double().mean(-1, keepdim=True)
    return (share / alpha).tanh() if alpha else torch.ones_like(share)


def regularised(scores: Masks, left: Keep, config: GrainConfig) -> Masks:
    """Scores times their structure factors, by kind."""
    factors = {"ffn": structure_factor(left["ffn"], config.structreg_ffn)}
    if "vo" in left:
        layer = structure_factor(left["vo"].flatten(1), config.structreg_layer)
        factors["vo"] = structure_factor(left["vo"], config.structreg) * layer[..., None]
    return {kind: values * factors[kind].to(values) if kind in factors else values for kind, values in scores.items()}


def unit_parameters(structure: Structure, kind: str) -> int:
    """Weights and biases that go with one unit: 1,537 per FFN or value dim and 1,538 per query-key dim of BERT-base."""
    keep = structure.keep_all((kind,))
    keep[kind].view(-1)[0] = False
    return prunable(structure) - parameters(structure, keep)


def global_cut(importance: Masks, sizes: dict[str, int], density: float) -> Keep:
    """Units that go, by kind: the least important first, while less than 1 - `density` of all parameters has gone.

    Args:
        importance: by kind, any shape; among equals the earlier goes first.
        sizes: parameters of one unit.
    """
    flat = torch.cat([values.flatten() for values in importance.values()])
    costs = torch.cat([torch.full_like(values.flatten(), sizes[kind]).double() for kind, values in importance.items()])
    order = flat.argsort(stable=True)
    gone = torch.empty_like(flat, dtype=torch.bool)
    gone[order] = costs[order].cumsum(0) / costs.sum() < 1 - density
    parts = gone.split([values.numel() for values in importance.values()])
    return {kind: part.view_as(values) for part, (kind, values) in zip(parts, importance.items(), strict=True)}


def cut_per_kind(importance: Masks, density: float) -> Keep:
    """Units that go, by kind: all but the floor(density * n) most important of each."""
    return {
        kind: least_important(-values, values.numel() - int(values.numel() * density))
        for kind, values in importance.items()
    }


def without_dead_queries(left: Keep) -> Keep:
    """Query-key dims go with the last value dim of their head; not the other way round."""
    return {**left, "qk": left["qk"] & left["vo"].any(-1, keepdim=True)}


def final_density(structure: Structure, target: Target) -> float:
    """Share of what units cost that the target leaves; what no unit owns, such as output biases, is taken off first."""
    if target.count == "published":
        return 1 - target.share(structure)
    nothing = {kind: torch.zeros(structure.shape(kind), dtype=torch.bool) for kind in ("head", "ffn")}
    least = target.cost(structure, nothing)
    share = (target.budget(structure) - least) / (target.cost(structure, {}) - least)
    return min(1.0, max(0.0, share))


@register_pruner("grain")
class Grain(Pruner):
    """Ranks dims inside heads and FFN dims together, by smoothed first-order scores; see the module."""

    reference = REFERENCE
    revision = 2
    at_extraction: ClassVar[Literal["restart", "continue"]] = "continue"
    Config: ClassVar[type[Config]] = GrainConfig

    @property
    def gradient_parts(self) -> frozenset[str]:
        if self.config.scores == "random":
            return frozenset()
        return frozenset({"task", "soft"} if self.config.separation else LOSS_PARTS)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of units that compete."""
        return ("qk", "vo", "ffn") if self.config.units == "dims" else ("head", "ffn")

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        rank = self.config.embedding_rank
        if isinstance(rank, int) and not 1 <= rank <= structure.hidden:
            return f"embedding_rank must be from 1 to {structure.hidden} on this model, or quarter"
        return super().unreachable(structure, target)

    def prepare(self, model: PreTrainedModel) -> None:
        """Factorise the word embeddings, if that is asked for."""
        rank = self.config.embedding_rank
        if rank == "quarter":
            rank = max(1, model.get_input_embeddings().embedding_dim // 4)
        if rank is not None:
            factorise(model, rank)

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        structure, steps = setting.structure, setting.search_steps
        self._window = int(self.config.start * steps), int(self.config.end * steps)
        self._final = final_density(structure, setting.target)
        self._sizes = {kind: unit_parameters(structure, kind) for kind in self.kinds}
        self._left = {kind: ones.bool() for kind, ones in structure.ones(self.kinds, setting.device).items()}
        self._scores = {kind: self._first_scores(left) for kind, left in self._left.items()}

    def sparsity(self, step: int) -> float:
        return 1 - density(step, *self._window, self._final)

    def masks(self, step: int) -> Masks:
        self._cut(step)
        return {kind: left.float() for kind, left in self._left.items()}

    def observe(self, step: int, masks: Masks, gradients: Masks) -> None:
        beta = self.config.beta
        # A batch with a gradient that is no number says nothing; that it was there still counts in the average.
        finite = torch.stack([gradient.isfinite().all() for gradient in gradients.values()]).all()
        scores = {kind: torch.where(finite, gradient, 0).abs() for kind, gradient in gradients.items()}
        for kind, new in regularised(scores, self._left, self.config).items():
            smooth = beta * self._scores[kind] + (1 - beta) * new
            self._scores[kind] = torch.where(self._left[kind], smooth, self._scores[kind])

    def importance(self) -> Masks:
        """S by kind; minus infinity where the unit has gone."""
        return {kind: scores.where(self._left[kind], -torch.inf) for kind, scores in self._scores.items()}

    def keep(self) -> Keep:
        self._cut(self.setting.search_steps)
        left = {kind: units.cpu() for kind, units in self._left.items()}
        unimportance = {kind: -_alive_first(self._scores[kind].cpu(), left[kind]) for kind in left}
        if "vo" in left:
            left["head"] = left["vo"].any(-1)
            unimportance["head"] = (unimportance["vo"] * left["vo"]).sum(-1)
        if self.setting.target.count == "published":
            return left
        return fit_to_target(self.setting.structure, left, unimportance, self.setting.target)

    def state_dict(self) -> dict[str, Any]:
        return {"left": dict(self._left), "scores": dict(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._left, self._scores = dict(state["left"]), dict(state["scores"])

    def _first_scores(self, left: torch.Tensor) -> torch.Tensor:
        if self.config.scores == "gradient":
            return torch.zeros_like(left, dtype=torch.float)
        return torch.rand(left.shape, generator=self.setting.generator).to(left.device)

    @property
    def _together(self) -> bool:
        return bool(self.config.ranking == "global")

    def _cut(self, step: int) -> None:
        """Drop what is due after `step` steps."""
        start, end = self._window
        if not start <= step <= end or (step == end and self.config.last_cut == "released"):
            return
        due, importance = density(step, start, end, self._final), self.importance()
        gone = global_cut(importance, self._sizes, due) if self._together else cut_per_kind(importance, due)
        self._left = {kind: left & ~gone[kind] for kind, left in self._left.items()}
        if self.config.drop_dead_queries and "vo" in self._left:
            self._left = without_dead_queries(self._left)


def _alive_first(scores: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Scores by which every unit that is left comes before every one that has gone, at any size of the scores."""
    # In float32 the sum would make equals of scores that are smaller than its rounding.
    shares = scores.double() / scores.max().double().clamp_min(torch.finfo(torch.float).tiny)
    return shares + 2 * left


# --- distillation ---


class GrainDistillerConfig(HiddenStateConfig):
    """Options of the distiller.

    Attributes:
        states: which hidden states are compared: every second one, as published, all, or the last.
        maps: whether each of them has a linear map of its own.
    """

    task_weight: float = 0.0
    soft_weight: float = 1.0
    temperature: float = Field(8.0, gt=0)
    states: Literal["even", "all", "last"] = "even"
    maps: bool = True


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """-sum_c softmax(teacher / T)_c log softmax(student / T)_c, mean over all but the last dimension."""
    return -((teacher / temperature).softmax(-1) * log_softmax(student / temperature, -1)).sum(-1).mean()


def state_pairs(students: int, teachers: int, states: str = "even") -> list[tuple[int, int]]:
    """Pairs of hidden states, 0 being the embedding output, of a student and a teacher of so many layers."""
    matched = [0, *(layer + 1 for layer in matched_layers(students, teachers))]
    even = [layer + 1 for layer in layer_fractions(STATES, students)]
    chosen = {"even": even, "all": list(range(students + 1)), "last": [students]}[states]
    return [(state, matched[state]) for state in chosen]


def state_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean squared error over real tokens and dims of two [batch, tokens, hidden]; `mask` is 1 at real tokens."""
    per_token = (student - teacher).square().mean(-1)
    return per_token.mean() if mask is None else (per_token * mask).sum() / mask.sum()


@register_distiller("grain")
class GrainDistiller(HiddenStateDistiller):
    """Soft labels at a high temperature, and hidden states through maps that start as the identity."""

    reference = REFERENCE
    first: ClassVar[int] = 0
    Config: ClassVar[type[DistillerConfig]] = GrainDistillerConfig

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        pairs = state_pairs(setting.structure.layers, setting.structure.layers, self.config.states)
        width = setting.structure.hidden
        self._maps = nn.ModuleDict({str(state): identity_map(width) for state, _ in pairs if self.config.maps})
        self._maps.to(setting.device)

    def features(self, student: Layers, teacher: Layers, mask: torch.Tensor | None) -> torch.Tensor:
        pairs = state_pairs(len(student) - 1, len(teacher) - 1, self.config.states)
        losses = [state_loss(self._mapped(own, student[own]), teacher[theirs], mask) for own, theirs in pairs]
        return torch.stack(losses).sum()

    def soft(self, student: View, teacher: View, batch: Batch) -> torch.Tensor:
        if self.setting.regression:
            return mse_loss(student.logits, teacher.logits)
        return soft_cross_entropy(student.logits, teacher.logits, self.config.temperature)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._maps.parameters())

    def state_dict(self) -> dict[str, Any]:
        return dict(self._maps.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._maps.load_state_dict(state)

    def _mapped(self, state: int, values: torch.Tensor) -> torch.Tensor:
        if not self.config.maps:
            return values
        own: Any = self._maps[str(state)]
        return mapped(own, values)


register_method("grain", NamedMethod(spec="grain+grain", reference=REFERENCE))
register_method(
    "grain-released",
    NamedMethod(
        spec="grain(last_cut=released,embedding_rank=quarter)+grain",
        reference=f"{REFERENCE}, settings of the released code",
    ),
)
