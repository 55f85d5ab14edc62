"""Rankings of units: what goes at a share of the target, and that the final cut meets it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gppdfd.allocation import fitted, removed, removed_jointly, unit_costs
from gppdfd.budget import Target, parameters
from gppdfd.structure import Masks, Structure

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)
SMALL = Structure(layers=3, hidden=32, heads=4, head_size=8, intermediate=40)
GATED = Structure(layers=2, hidden=24, heads=3, head_size=8, intermediate=30, gated=True, up_bias=False)


def random_ranking(structure: Structure, seed: int = 0) -> Masks:
    stream = torch.Generator().manual_seed(seed)
    return {kind: torch.randn(structure.shape(kind), generator=stream) for kind in ("head", "ffn")}


def test_costs_of_the_specification() -> None:
    assert unit_costs(BERT_BASE) == {"head": 196_800, "ffn": 1_537}


@pytest.mark.parametrize("structure", [SMALL, GATED])
def test_costs_are_what_a_missing_unit_saves(structure: Structure) -> None:
    for kind, cost in unit_costs(structure).items():
        keep = structure.keep_all()
        keep[kind][1, 2] = False
        assert parameters(structure, {}) - parameters(structure, keep) == cost


def test_per_type_takes_one_share_over_the_layers_and_per_layer_from_each() -> None:
    ranking = {"head": torch.arange(12.0).view(3, 4), "ffn": torch.arange(120.0).view(3, 40)}
    over = removed(SMALL, ranking, 0.25)
    assert over["head"].sum(1).tolist() == [0, 0, 3]
    assert over["ffn"].sum(1).tolist() == [0, 0, 30]
    each = removed(SMALL, ranking, 0.25, "per_layer")
    assert each["head"].sum(1).tolist() == [1, 1, 1]
    assert each["ffn"].sum(1).tolist() == [10, 10, 10]
    assert each["ffn"][:, 30:].all()


def test_equal_units_go_by_index_in_every_layer() -> None:
    flat = {kind: torch.zeros(SMALL.shape(kind)) for kind in ("head", "ffn")}
    assert removed(SMALL, flat, 0.5, "per_layer")["head"].tolist() == [[True, True, False, False]] * 3


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_joint_cut_lies_within_a_unit_and_a_half_of_the_share(share: float, seed: int) -> None:
    """The nearest cumulated cost is off by half of a unit at most, and the boundary unit itself stays."""
    ranking, costs = random_ranking(SMALL, seed), unit_costs(SMALL)
    due = removed_jointly(ranking, costs, share)
    total = sum(costs[kind] * units.numel() for kind, units in due.items())
    gone = sum(costs[kind] * int(units.sum()) for kind, units in due.items())
    assert -0.5 * costs["head"] <= share * total - gone <= 1.5 * costs["head"]


@settings(max_examples=60, deadline=None)
@given(
    sparsity=st.floats(0.02, 0.93),
    seed=st.integers(0, 99),
    bias=st.sampled_from([-3.0, 0.0, 3.0]),
    allocation=st.sampled_from(["per_type", "per_layer", "joint"]),
)
def test_the_fitted_keep_misses_less_than_one_ffn_dim(sparsity: float, seed: int, bias: float, allocation: str) -> None:
    """Also where one kind is much more important than the other."""
    ranking = random_ranking(SMALL, seed)
    if allocation == "joint":
        ranking["head"] += bias
    target = Target(sparsity)
    keep = {kind: ~units for kind, units in removed(SMALL, ranking, sparsity, allocation).items()}
    found = fitted(SMALL, keep, ranking, target, allocation)
    missing = target.budget(SMALL) - parameters(SMALL, found)
    assert 0 <= missing < unit_costs(SMALL)["ffn"]


def test_the_fitted_cut_follows_the_allocation() -> None:
    ranking = {"head": torch.arange(12.0).view(3, 4), "ffn": torch.arange(120.0).view(3, 40)}
    target = Target(0.5)
    keep = {kind: ~units for kind, units in removed(SMALL, ranking, 0.5, "per_layer").items()}
    widths = fitted(SMALL, keep, ranking, target, "per_layer")["ffn"].sum(1)
    assert int(widths.max() - widths.min()) <= 1
    joint = fitted(SMALL, keep, ranking, target, "joint")
    kept = torch.cat([ranking[kind][units] for kind, units in joint.items()])
    gone = torch.cat([ranking[kind][~units] for kind, units in joint.items()])
    assert (gone < kept.max()).sum() <= 1  # at most the unit that was too large
