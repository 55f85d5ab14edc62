"""Parameters and FLOPs of a keep, targets, and the step that makes a keep meet its target.

Encoder sparsity = 1 - kept / original over weights and biases of the attention and FFN linear maps; embeddings,
LayerNorm, pooler and head are outside (the count of CoFi, arXiv 2204.00408).
"""

from dataclasses import dataclass
from typing import Literal

import torch

from gppdfd.structure import Keep, Structure

Count = Literal["to_target", "published"]


@dataclass(frozen=True)
class Target:
    """What must remain: a share `1 - sparsity` of the encoder's parameters.

    With `count="to_target"` the last cut of a method moves until less than one smallest unit is missing;
    `count="published"` keeps the counts that its paper's rule gives.
    """

    sparsity: float
    count: Count = "to_target"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), not {self.sparsity}")

    def parameters(self, structure: Structure) -> int:
        """Parameters that may remain."""
        return int(structure.prunable * (1 - self.sparsity))


def kept_parameters(structure: Structure, keep: Keep) -> int:
    """Weights and biases of the attention and FFN maps that `keep` leaves."""
    return structure.fixed + sum(int(units.sum()) * structure.cost(kind) for kind, units in keep.items())


def sparsity(structure: Structure, keep: Keep) -> float:
    """Encoder sparsity of a keep, in [0, 1]."""
    return 1 - kept_parameters(structure, keep) / structure.prunable


def forward_flops(structure: Structure, keep: Keep, tokens: int) -> int:
    """FLOPs of the encoder layers' matrix products on one sequence, a multiply-add counting 2.

    Equal to what `torch.utils.flop_counter` counts for the layers under eager attention.
    """
    heads, dims = int(keep["head"].sum()), int(keep["ffn"].sum())
    projections = 4 * structure.hidden * structure.head_size * heads
    attention = 2 * tokens * structure.head_size * heads
    feed_forward = 2 * structure.hidden * dims
    return 2 * tokens * (projections + attention + feed_forward)


def fit_to_target(structure: Structure, keep: Keep, unimportance: dict[str, torch.Tensor], target: Target) -> Keep:
    """Move the cut in the FFN dims, along the method's own ranking, until less than one FFN dim is missing.

    Heads stay as the method chose them, unless they alone exceed the target; then the least important of them go first.

    Args:
        keep: the method's own decision, bool by kind.
        unimportance: by kind, the larger the sooner a unit goes; same shapes as `keep`.
    """
    budget = target.parameters(structure) - structure.fixed
    heads = min(int(keep["head"].sum()), max(0, budget // structure.cost("head")))
    dims = (budget - heads * structure.cost("head")) // structure.cost("ffn")
    dims = min(max(0, dims), keep["ffn"].numel())
    return {
        "head": keep["head"] & most_important(unimportance["head"].masked_fill(~keep["head"], torch.inf), heads),
        "ffn": most_important(unimportance["ffn"], dims),
    }


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
    if target.parameters(structure) < structure.fixed:
        highest = 1 - structure.fixed / structure.prunable
        return f"output biases alone exceed it: at most {highest:.4f} sparsity on this model"
    return None
