"""Students of uniform width: equal layers, exact targets, chosen units."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.uniform import Uniform, UniformConfig, heads_per_layer, turns
from gppdfd.budget import Target, parameters
from gppdfd.interface import Setting, parse_method
from gppdfd.structure import Structure, structure_of
from gppdfd.structure.norms import unit_norms
from tests.tiny import tiny_model

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)
MICRO = Structure(layers=4, hidden=128, heads=8, head_size=16, intermediate=512)


def kept(structure: Structure, target: Target, model: torch.nn.Module | None = None, which: str = "first"):
    pruner = Uniform(UniformConfig(which=which))
    pruner.begin(Setting(model or torch.nn.Linear(1, 1), structure, target, 0, torch.Generator()))
    return pruner.keep()


@settings(max_examples=30, deadline=None)
@given(sparsity=st.floats(0, 0.98), structure=st.sampled_from([BERT_BASE, MICRO]))
def test_every_target_is_met_to_one_dim_by_equal_layers(sparsity: float, structure: Structure) -> None:
    keep = kept(structure, Target(sparsity))
    missing = Target(sparsity).budget(structure) - parameters(structure, keep)
    assert 0 <= missing < 2 * structure.hidden + 1 or keep["ffn"].all()
    for kind in ("head", "ffn"):
        counts = keep[kind].sum(-1)
        assert int(counts.max() - counts.min()) <= 1
        assert torch.equal(counts, counts.sort(descending=True).values)
        assert torch.equal(keep[kind], torch.arange(keep[kind].shape[1]) < counts[:, None])


def test_other_targets_are_met_as_well() -> None:
    for target in (Target(params=1_000_000), Target(flops=4e8)):
        keep = kept(BERT_BASE, target)
        assert target.cost(BERT_BASE, keep) <= target.budget(BERT_BASE)
        assert int(keep["ffn"].sum(-1).max() - keep["ffn"].sum(-1).min()) <= 1


def test_heads_are_the_targets_share_and_at_least_one() -> None:
    assert [heads_per_layer(12, share) for share in (0.0, 0.5, 0.8, 0.97)] == [12, 6, 2, 1]
    assert kept(MICRO, Target(0.97))["head"].sum(-1).tolist() == [1, 1, 0, 0]


def test_layers_take_turns_from_the_last() -> None:
    order = turns(torch.tensor([[0.0, 0.0], [5.0, 1.0]]))
    assert order.flatten().argsort(descending=True).tolist() == [2, 1, 3, 0]


def test_by_magnitude_the_largest_units_of_each_layer_stay() -> None:
    model = tiny_model()
    keep = kept(structure_of(model), Target(0.5), model, "magnitude")
    for kind, norms in unit_norms(model).items():
        for layer, units in enumerate(keep[kind]):
            assert float(norms[layer][units].min()) >= float(norms[layer][~units].max())


@pytest.mark.parametrize(("name", "training"), [("dense-small", {"init": "random"}), ("dense-small-kept", {})])
def test_controls_start_from_scratch_or_from_kept_layers(name: str, training: dict) -> None:
    method = parse_method(name)
    assert method.training == training
    assert method.pruner is parse_method("uniform+logits").pruner
