"""Counting, against the modules themselves, torch's own FLOP counter and finite differences; targets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from gppdfd.budget import (
    Target,
    expected_flops,
    expected_parameters,
    fit_to_target,
    forward_flops,
    parameters,
    prunable,
    unreachable,
)
from gppdfd.extraction import extract
from gppdfd.structure import KINDS, Keep, Structure, adapter_for, structure_of
from gppdfd.structure.heads import heads_of
from tests.tiny import MODEL_TYPES, keeps, linear_parameters, random_keep, tiny_model

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)
TOKENS = 9


def without(kind: str, *unit: int) -> Keep:
    keep = BERT_BASE.keep_all((kind,))
    keep[kind][unit] = False
    return keep


def test_bert_base_has_the_published_number_of_prunable_parameters() -> None:
    assert prunable(BERT_BASE) == 85_017_600
    assert prunable(BERT_BASE) - parameters(BERT_BASE, without("head", 3, 1)) == 196_800
    assert prunable(BERT_BASE) - parameters(BERT_BASE, without("ffn", 0, 7)) == 1_537
    assert prunable(BERT_BASE) - parameters(BERT_BASE, without("mha_layer", 5)) == 4 * 768 * 768 + 4 * 768
    assert prunable(BERT_BASE) - parameters(BERT_BASE, without("ffn_layer", 5)) == 2 * 768 * 3072 + 3072 + 768
    assert prunable(BERT_BASE) - parameters(BERT_BASE, without("qk", 0, 0, 0)) == 2 * 769
    assert prunable(BERT_BASE) - parameters(BERT_BASE, without("vo", 0, 0, 0)) == 2 * 768 + 1


@settings(max_examples=25, deadline=None)
@given(model_type=st.sampled_from(MODEL_TYPES), data=st.data())
def test_counts_equal_those_of_the_extracted_model(model_type: str, data: st.DataObject) -> None:
    """To the last parameter and the last FLOP, for any keep of any kinds, extreme ones among them."""
    model = tiny_model(model_type, attention="eager", task="").eval()
    structure = structure_of(model)
    keep = data.draw(keeps(structure))
    small = extract(model, keep)
    assert linear_parameters(model) == prunable(structure)
    assert linear_parameters(small) == parameters(structure, keep)
    inputs = torch.randint(5, 50, (1, TOKENS))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(input_ids=inputs)
    outside = sum(
        2 * place.module.weight.numel() * (1 if place.path.endswith("pooler.dense") else TOKENS)
        for place in adapter_for(small).places(small)
        if place.layer is None and place.module.weight.ndim == 2 and not isinstance(place.module, torch.nn.Embedding)
    )
    # Older versions of transformers compute rotary angles by a matrix product; the angles are no weights.
    angles = sum(
        sum(counts.values()) for name, counts in counter.get_flop_counts().items() if name.endswith("rotary_emb")
    )
    assert counter.get_total_flops() - angles == forward_flops(structure, keep, TOKENS) + outside


@settings(max_examples=25, deadline=None)
@given(model_type=st.sampled_from(MODEL_TYPES), data=st.data())
def test_expected_counts_of_certain_masks_are_the_exact_ones(model_type: str, data: st.DataObject) -> None:
    """FLOPs up to the padding of odd sizes, which only the exact count knows."""
    structure = structure_of(tiny_model(model_type))
    keep = data.draw(keeps(structure))
    certain = {kind: units.double() for kind, units in keep.items()}
    assert float(expected_parameters(structure, certain)) == parameters(structure, keep)
    settled = structure.settled(keep)
    whole = all(heads_of(structure, settled, layer).whole for layer in range(structure.layers))
    exact, expected = forward_flops(structure, keep, TOKENS), float(expected_flops(structure, certain, TOKENS))
    assert expected <= exact
    assert expected == exact or not whole or (settled["ffn"].sum(-1) % 8).any()


def test_expected_counts_are_means_over_independent_draws() -> None:
    structure = Structure(layers=2, hidden=6, heads=2, head_size=4, intermediate=5)
    stream = torch.Generator().manual_seed(0)
    shares = {kind: torch.rand(structure.shape(kind), generator=stream) * 0.8 + 0.1 for kind in KINDS}
    draws = []
    for _ in range(4000):
        drawn = {kind: (torch.rand(share.shape, generator=stream) < share).double() for kind, share in shares.items()}
        draws.append(torch.stack([expected_parameters(structure, drawn), expected_flops(structure, drawn, 3)]))
    sampled = torch.stack(draws)
    expected = torch.stack([expected_parameters(structure, shares), expected_flops(structure, shares, 3)]).double()
    error = 5 * sampled.std(0) / len(draws) ** 0.5
    assert bool(((sampled.mean(0) - expected).abs() < error).all())


def test_expected_counts_are_differentiable_in_every_kind() -> None:
    structure = Structure(layers=2, hidden=6, heads=2, head_size=4, intermediate=5, gated=True, qkv_bias=False)
    shares = tuple(torch.rand(structure.shape(kind), dtype=torch.double).requires_grad_() for kind in KINDS)

    def counts(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masks = dict(zip(KINDS, values, strict=True))
        return expected_parameters(structure, masks), expected_flops(structure, masks, 4)

    assert torch.autograd.gradcheck(counts, shares)


@pytest.mark.parametrize(
    "target",
    [Target(0.9), Target(params=3_000), Target(flops=40_000, tokens=7), Target(flops=200_000)],
    ids=["sparsity", "params", "flops", "flops at 128"],
)
def test_every_target_is_met_within_one_ffn_dim(target: Target) -> None:
    structure = structure_of(tiny_model())
    stream = torch.Generator().manual_seed(4)
    ranking = {kind: torch.randn(structure.shape(kind), generator=stream) for kind in ("head", "ffn")}
    half = {kind: values < 0 for kind, values in ranking.items()}
    keep = fit_to_target(structure, half, ranking, target)
    assert target.cost(structure, keep) <= target.budget(structure)
    more = {**keep, "ffn": keep["ffn"].clone()}
    worst = ranking["ffn"].masked_fill(keep["ffn"], torch.inf).argmin()
    more["ffn"].view(-1)[worst] = True
    assert target.cost(structure, more) > target.budget(structure)


class Seconds:
    """A latency table whose answer is known: 1 second per head, 0.01 per FFN dim, 0.5 per emptied sublayer."""

    def seconds(self, structure: Structure, keep: Keep) -> float:
        return 0.5 * structure.layers + float(keep["head"].sum()) + 0.01 * float(keep["ffn"].sum())


def test_latency_target_follows_its_table() -> None:
    structure, target = structure_of(tiny_model()), Target(latency=4.0, table=Seconds())
    ranking = {
        kind: torch.arange(units.numel()).view(units.shape) * 1.0 for kind, units in structure.keep_all().items()
    }
    keep = fit_to_target(structure, {kind: units < 2 for kind, units in ranking.items()}, ranking, target)
    assert (int(keep["head"].sum()), int(keep["ffn"].sum())) == (2, 50)
    assert target.share(structure) == pytest.approx(1 - 4 / (1.5 + 12 + 1.2))


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_budget_is_whole_and_never_above_its_share(share: float) -> None:
    budget = Target(share).budget(BERT_BASE)
    assert isinstance(budget, int)
    assert 0 <= prunable(BERT_BASE) * (1 - share) - budget < 1


def test_a_budget_above_the_dense_model_removes_nothing() -> None:
    assert Target(params=2 * prunable(BERT_BASE)).share(BERT_BASE) == 0
    assert Target(flops=1e-9).share(BERT_BASE) == pytest.approx(1)


def test_a_target_is_exactly_one_of_four() -> None:
    for arguments in ({}, {"sparsity": 0.5, "params": 3}, {"flops": 1.0, "latency": 1.0, "table": Seconds()}):
        with pytest.raises(ValueError, match="a target is one of"):
            Target(**arguments)
    with pytest.raises(ValueError, match="latency table"):
        Target(latency=1.0)
    with pytest.raises(ValueError, match="must be above 0"):
        Target(params=0)
    for value in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match="sparsity must be in"):
            Target(value)


def test_unreachable_target_says_why() -> None:
    assert unreachable(BERT_BASE, Target(0.95)) is None
    assert "output biases alone" in str(unreachable(Structure(1, 8, 1, 8, 1), Target(0.99)))
    assert "still cost" in str(unreachable(BERT_BASE, Target(params=10)))


def test_a_keep_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        parameters(BERT_BASE, {"head": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no hidden dim is left"):
        parameters(BERT_BASE, {"hidden": torch.zeros(768, dtype=torch.bool)})


def test_random_keep_counts_less_than_everything() -> None:
    model = tiny_model()
    assert parameters(structure_of(model), random_keep(model)) < prunable(structure_of(model))
