"""L0 pruning with hard-concrete masks on coarse and fine units: the pruner of CoFi.

Xia, Zhong, Chen: Structured Pruning Learns Compact and Accurate Models. ACL 2022 (arXiv 2204.00408), with the
distribution of Louizos, Welling, Kingma: Learning Sparse Neural Networks through L0 Regularization. ICLR 2018 (arXiv
1712.01312). Constants follow the authors' public code (github.com/princeton-nlp/CoFiPruning, commit da855a8).

Every unit has a trainable log-alpha a. With u uniform and beta = 2/3, gamma = -0.1, zeta = 1.1:

    sample       v = sigmoid((ln u - ln(1 - u) + a) / beta),   z = clip(gamma + (zeta - gamma) v, 0, 1)
    presence     q(a) = 1 - P(z = 0) = 1 - sigmoid(beta ln(-gamma / zeta) - a)
    size         s^ = 1 - E[parameters | q] / parameters,      analytic, no sampling
    Lagrangian   L = lam1 (s^ - t) + lam2 (s^ - t)^2           a descends, lam1 and lam2 ascend
    ramp         t(step) = s min(1, step / ramp steps)
    decision     in each layer the round(n - sum q) units of smallest a go, the others keep sigmoid(0.8 a / beta)

Kinds: heads, FFN dims, hidden dims (one mask for all layers), whole attention and FFN sublayers; any subset (`units`).

Departures from the public code: the size counts every bias (`size=released` has its formulas), FFN dims start as the
other units do (`ffn_init_mean=0`: half dropped), multipliers are bounded (`multiplier_bound=null`: not), the decision
is brought to the target, and the last masks are taken, not the best checkpoint near the target. In a search shorter
than any published one, masks learn faster (`mask_learning_rate=0.01`: never) and the ramp takes a larger share
(`ramp=0.2`: never), so that the student follows: on the embedded benchmark (MRPC at sparsity .95, 100 search steps,
soft labels) F1 is .83 instead of 0.
"""

import math
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from gppdfd.budget import Target, expected_flops, expected_parameters, fit_kind, fit_to_target, most_important
from gppdfd.interface import Config, Pruner, Setting, register_pruner
from gppdfd.structure import Keep, Masks, Structure

Unit = Literal["heads", "ffn", "hidden", "layers"]

KINDS: dict[Unit, tuple[str, ...]] = {
    "heads": ("head",),
    "ffn": ("ffn",),
    "hidden": ("hidden",),
    "layers": ("mha_layer", "ffn_layer"),
}
"""Kinds of each member of `units`."""

FINEST = ("ffn", "head", "hidden", "mha_layer")
"""The first of these that has masks is where a decision is brought to the target."""

BETA, GAMMA, ZETA, EPSILON = 2 / 3, -0.1, 1.1, 1e-6
BOUND = math.log(100)
"""Log-alphas stay in [-BOUND, BOUND]."""

SHARPNESS = 0.8
RAMP, LONGEST_RAMP, RAMP_STEPS = 0.2, 0.8, 1560
"""Published share of the ramp, its largest, and the steps of the shortest ramp published (20 epochs of RTE)."""

PUBLISHED_RATE, CROSSINGS = 0.01, 8
"""Learning rate of the authors; range of log-alphas that all steps of a search can at least go through, in times."""


class L0Config(Config):
    """Options of the pruner.

    `units` is written `heads+ffn`; `ramp` is the share of the search in which the scheduled sparsity rises;
    `mask_learning_rate` is that of log-alphas and multipliers; null chooses both by the length of the search. Without
    `multiplier_bound` the multipliers can wind up, and the sparsity runs past its target.
    """

    units: tuple[Unit, ...] = tuple(KINDS)
    size: Literal["exact", "released"] = "exact"
    ramp: float | None = Field(None, ge=0, le=1)
    mask_learning_rate: float | None = Field(None, gt=0)
    multiplier_bound: float | None = Field(30.0, gt=0)
    ffn_init_mean: float = 10.0

    @field_validator("units", mode="before")
    @classmethod
    def _listed(cls, units: Any) -> Any:
        return units.split("+") if isinstance(units, str) else units

    @field_validator("units")
    @classmethod
    def _in_order(cls, units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        if not units:
            raise ValueError("name at least one of heads, ffn, hidden, layers")
        return tuple(unit for unit in KINDS if unit in units)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that have masks."""
        return tuple(kind for unit in self.units for kind in KINDS[unit])


def zero_probability(logits: torch.Tensor) -> torch.Tensor:
    """P(z = 0) of log-alphas, kept off 0 and 1 by 1e-6."""
    return torch.sigmoid(BETA * math.log(-GAMMA / ZETA) - logits).clamp(EPSILON, 1 - EPSILON)


def presence(logits: Masks) -> Masks:
    """Probability q of each unit that its mask is not 0."""
    return {kind: 1 - zero_probability(values) for kind, values in logits.items()}


def sampled_masks(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Hard-concrete sample for uniform numbers in (0, 1); exact zeros and ones occur."""
    soft = torch.sigmoid((uniform.log() - (1 - uniform).log() + logits) / BETA)
    return (GAMMA + (ZETA - GAMMA) * soft).clamp(0, 1)


def soft_values(logits: torch.Tensor) -> torch.Tensor:
    """Mask of a unit that stays, in (0, 1): at most 0.996."""
    return torch.sigmoid(SHARPNESS * logits / BETA)


def deterministic_keep(logits: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    """Which units of each row stay: all but the round(n - sum q) of smallest log-alpha.

    A larger `shift`, added to the log-alphas for counting, keeps a superset.

    Args:
        logits: [rows, units].
    """
    expected_zeros = logits.shape[-1] - (1 - zero_probability(logits + shift)).sum(-1, keepdim=True)
    ranks = logits.argsort(dim=-1, stable=True).argsort(-1)
    return ranks >= expected_zeros.round()  # half to even, as Python's round


def decision(logits: Masks, shift: float = 0.0) -> Keep:
    """Deterministic keep of all kinds: counted per layer, hidden dims globally; one hidden dim always stays."""
    keep = {}
    for kind, values in logits.items():
        rows = values[None] if kind == "hidden" else values.view(len(values), -1)
        keep[kind] = deterministic_keep(rows, shift).view_as(values)
    if "hidden" in keep:
        keep["hidden"] |= most_important(-logits["hidden"], 1)
    return keep


def deterministic_masks(logits: Masks) -> Masks:
    """Masks of the decision: 0 where a unit goes, its soft value where it stays."""
    return {kind: soft_values(logits[kind]) * units for kind, units in decision(logits).items()}


def decision_at_target(structure: Structure, logits: Masks, target: Target) -> Keep:
    """The decision with its boundary moved to the target.

    One shift of all log-alphas, the largest that fits, moves the cuts of all kinds and leaves every ranking as it is.
    What one more unit would overrun is then filled, or cut back, in the finest units.
    """
    budget = target.budget(structure)

    def fits(keep: Keep) -> bool:
        return target.cost(structure, keep) <= budget

    low, high = -4 * BOUND, 4 * BOUND
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(decision(logits, middle)) else (low, middle)
    around = [decision(logits, shift) for shift in (low, high)]
    candidates = [around[0], *(_fit(structure, keep, logits, target) for keep in around)]
    return max(filter(fits, candidates), key=lambda keep: target.cost(structure, keep))


def _fit(structure: Structure, keep: Keep, logits: Masks, target: Target) -> Keep:
    """`keep` filled or cut back to the target, unit by unit of the finest kind."""
    # Units that the decision keeps come before all others; among them log-alpha ranks.
    unimportance = {kind: -values - 10 * BOUND * keep[kind] for kind, values in logits.items()}
    if {"ffn", "ffn_layer"} <= set(keep) and not keep["ffn_layer"].any():
        keep = {**keep, "ffn_layer": most_important(unimportance["ffn_layer"], 1)}  # somewhere to put single dims
    if {"head", "ffn"} <= set(keep):
        return fit_to_target(structure, keep, unimportance, target)
    finest = next(kind for kind in FINEST if kind in keep)
    return fit_kind(structure, keep, finest, unimportance[finest], target)


def released_costs(structure: Structure) -> tuple[int, int, int]:
    """Parameters of a head, of an FFN dim and of the dense encoder, by the public code's formulas.

    Both divisions round down, and the bias of the up projection is taken to have 4 * hidden entries.
    """
    hidden, inner = structure.hidden, structure.intermediate
    head = (4 * hidden**2 + 4 * hidden) // structure.heads
    ffn = 2 * hidden * inner + hidden + 4 * hidden
    return head, ffn // inner, structure.layers * (structure.heads * head + ffn)


def released_size(structure: Structure, present: Masks) -> torch.Tensor:
    """Expected parameters by the public code's formulas, which lose the FFN's biases where hidden dims are masked."""
    head_cost, dim_cost, _ = released_costs(structure)
    device = next(iter(present.values())).device
    full = structure.ones(tuple(kind for kinds in KINDS.values() for kind in kinds), device) | present
    heads = (full["mha_layer"][:, None] * full["head"]).sum()
    dims = (full["ffn_layer"][:, None] * full["ffn"]).sum()
    if "hidden" not in present:
        return head_cost * heads + dim_cost * dims
    return (head_cost / structure.hidden * heads + 2 * dims) * full["hidden"].sum()


def expected_sparsity(structure: Structure, present: Masks, target: Target, size: str = "exact") -> torch.Tensor:
    """s^ of presence probabilities, in what the target counts (parameters stand in for latency); differentiable."""
    if size == "released":
        return 1 - released_size(structure, present) / released_costs(structure)[-1]
    if target.flops is not None:
        return 1 - expected_flops(structure, present, target.tokens) / expected_flops(structure, {}, target.tokens)
    return 1 - expected_parameters(structure, present) / expected_parameters(structure, {})


def lagrangian(gap: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
    """lam1 gap + lam2 gap^2; signed, so that too much sparsity pulls back as too little pushes on."""
    return multipliers[0] * gap + multipliers[1] * gap.square()


def ramp_share(steps: int) -> float:
    """Share of a search of so many steps that the ramp takes: .2, or more where that is shorter than any published."""
    return min(LONGEST_RAMP, max(RAMP, RAMP_STEPS / steps))


def ramped(step: int, ramp_steps: float) -> float:
    """Share of the target sparsity that is due at `step`: linear from 0, then 1."""
    return min(1.0, step / ramp_steps) if ramp_steps else 1.0


def adam_settings(steps: int) -> dict[str, Any]:
    """Adam for log-alphas and multipliers: the authors' 0.01 and usual memory, or the same sped up for a short search.

    `steps` steps can go through the range of log-alphas `CROSSINGS` times at least. Faster steps come with a memory as
    much shorter: with the usual one the multipliers still push when the target has long been passed, and the sparsity
    swings until the end.
    """
    speed = max(1.0, CROSSINGS * 2 * BOUND / (PUBLISHED_RATE * steps))
    return {"lr": PUBLISHED_RATE * speed, "betas": (max(0.0, 1 - 0.1 * speed), max(0.9, 1 - 0.001 * speed))}


@register_pruner("l0")
class L0(Pruner):
    """Learns masks under a Lagrangian on the expected sparsity, and folds their soft values in the end."""

    revision = 3
    reference = "Xia et al. 2022, ACL, arXiv 2204.00408"
    Config: ClassVar[type[Config]] = L0Config

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.config.kinds

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        least = {kind: torch.zeros(structure.shape(kind), dtype=torch.bool) for kind in self.kinds}
        if "hidden" in least:
            least["hidden"][0] = True
        if (cost := target.cost(structure, least)) <= (budget := target.budget(structure)):
            return None
        return f"without any of its {', '.join(self.config.units)} the encoder still costs {cost:.6g} of {budget:.6g}"

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._stream = torch.Generator().manual_seed(setting.generator.initial_seed())
        self._target = setting.target.share(setting.structure)
        self._logits = {kind: nn.Parameter(self._initial(kind)) for kind in self.kinds}
        self._multipliers = nn.Parameter(torch.zeros(2, device=setting.device))
        rate = self.config.mask_learning_rate
        adam = adam_settings(setting.search_steps) if rate is None else {"lr": rate}
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(self._logits.values(), **adam),
            torch.optim.Adam([self._multipliers], maximize=True, **adam),
        ]

    def restart(self, step: int) -> int | None:
        """The search has an optimiser and a schedule of its own."""
        return self.setting.search_steps if step == 0 else None

    def sparsity(self, step: int) -> float:
        steps = self.setting.search_steps
        share = ramp_share(steps) if self.config.ramp is None else self.config.ramp
        return self._target * ramped(step, share * steps)

    def masks(self, step: int) -> Masks:
        self._bound()
        self._due = self.sparsity(step)
        return {kind: sampled_masks(values, self._uniform(kind)) for kind, values in self._logits.items()}

    def evaluation_masks(self) -> Masks:
        """The deterministic ones: a draw would score a model that nobody gets."""
        return _on(self.setting.device, deterministic_masks(self._final()))

    def loss(self, masks: Masks | None) -> torch.Tensor | None:
        if masks is None:
            return None
        structure, target = self.setting.structure, self.setting.target
        found = expected_sparsity(structure, presence(dict(self._logits)), target, self.config.size)
        return lagrangian(found - self._due, self._multipliers)

    def keep(self) -> Keep:
        logits, structure, target = self._final(), self.setting.structure, self.setting.target
        keep = decision(logits) if target.count == "published" else decision_at_target(structure, logits, target)
        settled = structure.settled(keep)
        return {kind: settled[kind] for kind in keep}

    def folded(self) -> Masks:
        return _on(self.setting.device, {kind: soft_values(values) for kind, values in self._final().items()})

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return self._optimizers

    def state_dict(self) -> dict[str, Any]:
        return {
            "logits": {kind: values.detach().clone() for kind, values in self._logits.items()},
            "multipliers": self._multipliers.detach().clone(),
            "optimizers": [deepcopy(optimizer.state_dict()) for optimizer in self._optimizers],
            "stream": self._stream.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for kind, values in self._logits.items():
            values.data.copy_(state["logits"][kind])
        self._multipliers.data.copy_(state["multipliers"])
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self._stream.set_state(state["stream"])

    def _initial(self, kind: str) -> torch.Tensor:
        mean = self.config.ffn_init_mean if kind == "ffn" else L0Config.model_fields["ffn_init_mean"].default
        noise = torch.randn(self.setting.structure.shape(kind), generator=self._stream)
        return (mean + 0.01 * noise).clamp(-BOUND, BOUND).to(self.setting.device)

    def _uniform(self, kind: str) -> torch.Tensor:
        uniform = torch.rand(self.setting.structure.shape(kind), generator=self._stream)
        return (EPSILON + (1 - 2 * EPSILON) * uniform).to(self.setting.device)

    @torch.no_grad()
    def _bound(self) -> None:
        """Bring back what the last optimiser step took out of bounds."""
        for values in self._logits.values():
            values.clamp_(-BOUND, BOUND)
        if (bound := self.config.multiplier_bound) is not None:
            self._multipliers.clamp_(-bound, bound)

    def _final(self) -> Masks:
        """Log-alphas in bounds, in float64 on the CPU: counts hang on their sums."""
        self._bound()
        return {kind: values.detach().double().cpu() for kind, values in self._logits.items()}


def _on(device: torch.device, masks: Masks) -> Masks:
    return {kind: values.float().to(device) for kind, values in masks.items()}
