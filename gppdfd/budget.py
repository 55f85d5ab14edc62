"""Parameters and FLOPs of masks, keep-probabilities or a keep; targets, and the step that makes a keep meet its target.

Encoder sparsity = 1 - kept / original over weights and biases of the attention and FFN linear maps; embeddings,
LayerNorm, pooler and head are outside (the count of CoFi, arXiv 2204.00408): 85,017,600 parameters in BERT-base.

One formula counts everything: `expected_parameters` and `expected_flops` of independent keep-probabilities are
differentiable, and of a keep they are exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from gppdfd.padding import padded_size
from gppdfd.structure import KINDS, WEIGHT, Keep, Masks, Structure
from gppdfd.structure.heads import heads_of

Count = Literal["to_target", "published"]
TOKENS = 128
"""Length that a FLOPs target is meant for, unless it says another."""


class LatencyModel(Protocol):
    """Predicted seconds of a forward pass on one machine (`gppdfd.latency`)."""

    def seconds(self, structure: Structure, keep: Keep) -> float: ...


@dataclass(frozen=True)
class Target:
    """What must remain of the encoder; exactly one of `sparsity`, `params`, `flops` and `latency` is given.

    With `count="to_target"` the last cut of a method moves until less than one smallest unit is missing;
    `count="published"` keeps the counts that its paper's rule gives.

    Attributes:
        sparsity: share of the encoder's parameters that goes, in [0, 1).
        params: encoder parameters that may remain.
        flops: FLOPs of the encoder layers on one sequence of `tokens` tokens that may remain.
        latency: seconds that a forward pass may take by the measured `table`.
    """

    sparsity: float | None = None
    count: Count = "to_target"
    params: int | None = None
    flops: float | None = None
    tokens: int = TOKENS
    latency: float | None = None
    table: LatencyModel | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("sparsity", "params", "flops", "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a target is one of sparsity, params, flops and latency, not {given or 'nothing'}")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), not {self.sparsity}")
        if self.sparsity is None and getattr(self, given[0]) <= 0:
            raise ValueError(f"{given[0]} must be above 0, not {getattr(self, given[0])}")
        if self.latency is not None and self.table is None:
            raise ValueError("a latency target needs the latency table of this machine")

    @property
    def described(self) -> dict[str, float]:
        """What was asked for, as plain values."""
        given = {name: getattr(self, name) for name in ("sparsity", "params", "flops", "latency")}
        tokens = {"tokens": self.tokens} if self.flops is not None else {}
        return {name: value for name, value in given.items() if value is not None} | tokens

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in self.described.items())

    def budget(self, structure: Structure) -> float:
        """Highest cost that meets the target: parameters, FLOPs or seconds."""
        if self.sparsity is not None:
            return int(prunable(structure) * (1 - self.sparsity))
        return next(value for value in (self.params, self.flops, self.latency) if value is not None)

    def cost(self, structure: Structure, keep: Keep) -> float:
        """What the target counts, of a keep."""
        if self.flops is not None:
            return forward_flops(structure, keep, self.tokens)
        if self.latency is not None and self.table is not None:
            return self.table.seconds(structure, keep)
        return parameters(structure, keep)

    def share(self, structure: Structure) -> float:
        """Share of all units that a method with one share per kind has to remove: in [0, 1].

        For `sparsity` the papers' own rule (the sparsity itself); for other targets, the budget's share of the
        dense encoder's cost, which the last step (`fit_to_target`) then makes exact.
        """
        if self.sparsity is not None:
            return self.sparsity
        dense = self.cost(structure, structure.keep_all())
        return min(1.0, max(0.0, 1 - self.budget(structure) / dense))


def expected_parameters(structure: Structure, masks: Masks) -> torch.Tensor:
    """Expected prunable parameters of independent keep-probabilities; a scalar, differentiable in all of them.

    A head's queries and keys count while the head has any value dim: without one it computes nothing. Of single weights
    (kind `weight`) those that are not zero count, with all biases.
    """
    if WEIGHT in masks:
        return masks[WEIGHT].sum() + (prunable(structure) - structure.weights)
    sizes = _Sizes(structure, masks)
    hidden, biases = sizes.hidden, structure
    queries = 2 * sizes.qk * (hidden + biases.qkv_bias)
    values = sizes.vo * (2 * hidden + biases.qkv_bias)
    attention = queries + values + biases.attention_bias * hidden
    ups = 2 if structure.gated else 1
    ffn = sizes.ffn * (ups * (hidden + biases.up_bias) + hidden) + biases.down_bias * hidden
    return (sizes.mha_layer * attention + sizes.ffn_layer * ffn).sum()


def expected_flops(structure: Structure, masks: Masks, tokens: int) -> torch.Tensor:
    """Expected FLOPs of the layers' matrix products on one sequence, without the padding of odd sizes; a scalar.

    A multiply-add counts 2, as in `torch.utils.flop_counter`.
    """
    sizes = _Sizes(structure, masks)
    return _flops(sizes, tokens, sizes.qk, sizes.vo, (sizes.qk + sizes.vo) / 2)


def parameters(structure: Structure, keep: Keep) -> int:
    """Weights and biases of the attention and FFN maps that `keep` leaves: what the extracted model holds.

    Raises:
        ValueError: single weights and units are pruned together.
    """
    if WEIGHT in keep:
        _check_alone(keep)
        return int(keep[WEIGHT].sum()) + prunable(structure) - structure.weights
    return round(float(expected_parameters(structure, _exact(structure, keep))))


def forward_flops(structure: Structure, keep: Keep, tokens: int) -> int:
    """FLOPs of the extracted layers' matrix products on one sequence, padding of odd sizes included.

    Equal to what `torch.utils.flop_counter` counts for the layers under eager attention. Zeros among single weights
    save none.
    """
    if WEIGHT in keep:
        return forward_flops(structure, {}, tokens)
    settled = structure.settled(keep)
    layers = [heads_of(structure, settled, layer) for layer in range(structure.layers)]
    attending = torch.tensor([heads.attending_size for heads in layers], dtype=torch.double)
    values = attending + torch.tensor([heads.averaged_size for heads in layers])
    widths = [padded_size(width, structure.intermediate) for width in settled["ffn"].sum(-1).tolist()]
    sizes = _Sizes(structure, {kind: units.double() for kind, units in settled.items()})
    sizes.ffn = torch.tensor(widths, dtype=torch.double)
    return round(float(_flops(sizes, tokens, attending, values, values)))


def prunable(structure: Structure) -> int:
    """Parameters of the dense encoder's attention and FFN maps."""
    return parameters(structure, {})


def sparsity(structure: Structure, keep: Keep) -> float:
    """Encoder sparsity of a keep, in [0, 1]."""
    return 1 - parameters(structure, keep) / prunable(structure)


def fit_to_target(structure: Structure, keep: Keep, unimportance: dict[str, torch.Tensor], target: Target) -> Keep:
    """Move the cut in the FFN dims, along the method's own ranking, until less than one FFN dim is missing.

    Heads stay as the method chose them, unless they alone exceed the target; then the least important of them go first.

    Args:
        keep: the method's own decision, bool by kind; kinds other than `head` and `ffn` stay as they are.
        unimportance: by kind, the larger the sooner a unit goes; same shapes as `keep`.
    """
    budget = target.budget(structure)
    heads = unimportance["head"].masked_fill(~keep["head"], torch.inf)
    empty = {**keep, "ffn": torch.zeros_like(keep["ffn"])}

    def with_heads(count: int) -> Keep:
        return {**empty, "head": keep["head"] & most_important(heads, count)}

    count = largest(int(keep["head"].sum()), lambda count: target.cost(structure, with_heads(count)) <= budget)
    return fit_kind(structure, with_heads(count), "ffn", unimportance["ffn"], target)


def fit_kind(structure: Structure, keep: Keep, kind: str, unimportance: torch.Tensor, target: Target) -> Keep:
    """`keep` with as many units of one kind as the target allows, the most important ones; other kinds stay.

    At least one hidden dim stays; else none of the kind may be left.
    """
    budget, least = target.budget(structure), int(kind == "hidden")

    def with_units(count: int) -> Keep:
        return {**keep, kind: most_important(unimportance, max(count, least))}

    count = largest(unimportance.numel(), lambda count: target.cost(structure, with_units(count)) <= budget)
    return with_units(count)


def most_important(unimportance: torch.Tensor, count: int) -> torch.Tensor:
    """Bool tensor with the `count` units of smallest unimportance; among equals the later index stays."""
    return ~least_important(unimportance, unimportance.numel() - count)


def least_important(unimportance: torch.Tensor, count: int) -> torch.Tensor:
    """Bool tensor with exactly the `count` units of largest unimportance; among equals the earlier index goes first."""
    order = unimportance.flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros(unimportance.numel(), dtype=torch.bool, device=unimportance.device)
    chosen[order[:count]] = True
    return chosen.view_as(unimportance)


def unreachable(structure: Structure, target: Target) -> str | None:
    """Why no choice of heads and FFN dims meets the target, or None."""
    nothing = {kind: torch.zeros(structure.shape(kind), dtype=torch.bool) for kind in ("head", "ffn")}
    least, budget = target.cost(structure, nothing), target.budget(structure)
    if least <= budget:
        return None
    if target.sparsity is None:
        return f"layers without heads and FFN dims still cost {least:.6g}, more than {budget:.6g}"
    return f"output biases alone exceed it: at most {sparsity(structure, nothing):.4f} sparsity on this model"


class _Sizes:
    """Expected sizes of each layer, by independent keep-probabilities: tensors [layers], `hidden` a scalar."""

    def __init__(self, structure: Structure, masks: Masks) -> None:
        self.structure = structure
        some = next(iter(masks.values()), torch.ones(()))
        dtype, device = some.dtype, some.device
        shares = {
            kind: masks.get(kind, torch.ones(structure.shape(kind), dtype=dtype, device=device)) for kind in KINDS
        }
        alive = shares["head"]
        if "vo" in masks:
            alive = alive * (1 - (1 - shares["vo"]).prod(-1))
        self.hidden = shares["hidden"].sum()
        self.qk = (alive * shares["qk"].sum(-1)).sum(-1) * structure.pair
        self.vo = (shares["head"] * shares["vo"].sum(-1)).sum(-1)
        self.ffn = shares["ffn"].sum(-1)
        self.mha_layer, self.ffn_layer = shares["mha_layer"], shares["ffn_layer"]


def _flops(
    sizes: "_Sizes", tokens: int, queries: torch.Tensor, values: torch.Tensor, products: torch.Tensor
) -> torch.Tensor:
    """Sum over the layers.

    Args:
        queries, values: dims that the projections give, over all heads: [layers].
        products: dims of the score product, and as many of the context product.
    """
    attention = 2 * sizes.hidden * (queries + values) + 2 * tokens * products
    ffn = (3 if sizes.structure.gated else 2) * sizes.hidden * sizes.ffn
    return 2 * tokens * (sizes.mha_layer * attention + sizes.ffn_layer * ffn).sum()


def _check_alone(keep: Keep) -> None:
    others = [kind for kind, units in keep.items() if kind != WEIGHT and not units.all()]
    if others:
        raise ValueError(f"single weights cannot be pruned together with units of kind {', '.join(others)}")


def _exact(structure: Structure, keep: Keep) -> Masks:
    return {kind: units.double() for kind, units in structure.settled(keep).items()}


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """Largest number up to `limit` that fits, if all below a fitting one fit; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
