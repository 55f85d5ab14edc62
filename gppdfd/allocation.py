"""Which units go at a given share of the target, by what they are ranked against.

`per_type` ranks heads against heads and FFN dims against FFN dims, over all layers (GPP); `per_layer` takes the same
share from every layer; `joint` ranks all units together and counts them by their parameters (UPop, GRAIN).
"""

from typing import Literal

import torch

from gppdfd.budget import Target, expected_parameters, fit_to_target, largest, least_important, most_important
from gppdfd.structure import Keep, Masks, Structure

Allocation = Literal["per_type", "per_layer", "joint"]


def unit_costs(structure: Structure, kinds: tuple[str, ...] = ("head", "ffn")) -> dict[str, int]:
    """Parameters that go with one unit of each kind while all others are there."""
    masks = {kind: values.double().requires_grad_() for kind, values in structure.ones(kinds).items()}
    gradients = torch.autograd.grad(expected_parameters(structure, masks), list(masks.values()))
    return {kind: round(float(values.flatten()[0])) for kind, values in zip(masks, gradients, strict=True)}


def removed(structure: Structure, unimportance: Masks, share: float, allocation: Allocation = "per_type") -> Keep:
    """Units that are due when `share` of all units (`joint`: of their parameters) has to go.

    Args:
        unimportance: by kind, [layers, units]; the larger the sooner a unit goes.
        share: in [0, 1].
    """
    if allocation == "joint":
        return removed_jointly(unimportance, unit_costs(structure, tuple(unimportance)), share)
    ranked = _within_layers(unimportance) if allocation == "per_layer" else unimportance
    return {kind: least_important(values, int(share * values.numel())) for kind, values in ranked.items()}


def removed_jointly(unimportance: Masks, costs: dict[str, int], share: float) -> Keep:
    """One ranking of all kinds, cut at the unit whose cumulated cost lies nearest to `share` of the total.

    That unit and its equals stay (UPop, arXiv 2301.13741, public code).
    """
    values = torch.cat([part.flatten() for part in unimportance.values()])
    order = values.argsort(descending=True, stable=True)
    spent = torch.cat([torch.full_like(part, costs[kind], dtype=torch.double).flatten()
                       for kind, part in unimportance.items()])[order].cumsum(0)  # fmt: skip
    threshold = values[order[(spent - share * spent[-1]).abs().argmin()]]
    return {kind: part > threshold for kind, part in unimportance.items()}


def fitted(
    structure: Structure, keep: Keep, unimportance: Masks, target: Target, allocation: Allocation = "per_type"
) -> Keep:
    """Move the cut of `keep` along its own ranking until less than one FFN dim is missing to the target."""
    if allocation == "joint":
        return fitted_jointly(structure, unimportance, target)
    ranked = _within_layers(unimportance) if allocation == "per_layer" else unimportance
    return fit_to_target(structure, keep, ranked, target)


def fitted_jointly(structure: Structure, unimportance: Masks, target: Target) -> Keep:
    """The longest head of the joint ranking that meets the target, filled up with the FFN dims that come next.

    Args:
        unimportance: of `head` and `ffn`, comparable with each other.
    """
    values = torch.cat([part.flatten() for part in unimportance.values()])
    sizes = [part.numel() for part in unimportance.values()]

    def best(count: int) -> Keep:
        parts = most_important(values, count).split(sizes)
        return {kind: part.view_as(unimportance[kind]) for kind, part in zip(unimportance, parts, strict=True)}

    budget = target.budget(structure)
    count = largest(values.numel(), lambda count: target.cost(structure, best(count)) <= budget)
    keep = fit_to_target(structure, best(count), unimportance, target)
    if keep["ffn"].all() and not keep["head"].all():
        # No FFN dim is left to fill up with: take the next head, and give dims for it.
        heads = most_important(unimportance["head"], int(keep["head"].sum()) + 1)
        keep = fit_to_target(structure, {**keep, "head": heads}, unimportance, target)
    return keep


def _within_layers(unimportance: Masks) -> Masks:
    """Place of each unit among those of its layer, so that a cut through all layers takes as many from each."""
    places = {
        kind: values.argsort(dim=-1, descending=True, stable=True).argsort(-1) for kind, values in unimportance.items()
    }
    return {kind: -place.to(unimportance[kind]) for kind, place in places.items()}
