"""FCD beyond its golden cases: what the loss does not depend on, degenerate batches, and layer pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize, pad

from baselines.fcd import (
    FCD,
    FCDConfig,
    correlation_loss,
    fcd_loss,
    layer_pairs,
    pearson,
    random_loss,
    relations,
    sequence_loss,
    token_loss,
)
from gppdfd.budget import Target
from gppdfd.interface import Setting
from gppdfd.structure import Structure

EVERYTHING = FCDConfig()
STRUCTURE = Structure(layers=1, hidden=5, heads=1, head_size=5, intermediate=7)
SHAPE = (4, 6, 5)


def features(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def ones(batch: int = 4, tokens: int = 6) -> torch.Tensor:
    return torch.ones(batch, tokens, dtype=torch.double)


def test_rotated_and_rescaled_features_lose_nothing() -> None:
    rotation = torch.linalg.qr(features(9, (5, 5))).Q
    scales = features(8, (4, 6, 1)).abs() + 0.1
    assert float(fcd_loss(features(0), features(0), ones(), EVERYTHING)) < 1e-5
    assert float(fcd_loss(features(0) @ rotation * scales, features(0), ones(), EVERYTHING)) < 1e-5
    assert float(fcd_loss(features(1), features(0), ones(), EVERYTHING)) > 0.01


def test_correlation_is_that_of_numpy_and_blind_to_affine_maps() -> None:
    import numpy as np

    first, second = features(0, (3, 20)), features(1, (3, 20))
    found = pearson(first, second, torch.ones_like(first))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)
    rows, weights = torch.ones(3, dtype=torch.bool), torch.ones_like(first)
    assert float(correlation_loss(2 * first + 3, first, weights, rows)) == pytest.approx(0, abs=1e-6)
    assert float(correlation_loss(-2 * first + 3, first, weights, rows)) == pytest.approx(2, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(extra=st.integers(1, 4), seed=st.integers(0, 99))
def test_padding_changes_nothing(extra: int, seed: int) -> None:
    mask = ones()
    mask[1, 4:] = mask[2, 5:] = 0
    student, teacher = features(seed), features(seed + 1)
    expected = fcd_loss(student, teacher, mask, EVERYTHING)
    wider = [pad(part + 7 * (1 - mask[..., None]), (0, 0, 0, extra), value=3.0) for part in (student, teacher)]
    found = fcd_loss(*wider, pad(mask, (0, extra)), EVERYTHING)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_order_of_sequences_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    expected = fcd_loss(features(0), features(1), ones(), EVERYTHING)
    torch.testing.assert_close(fcd_loss(features(0)[order], features(1)[order], ones(), EVERYTHING), expected)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 6), (2, 6), (4, 2), (1, 1)])
def test_too_few_members_are_skipped(batch: int, tokens: int) -> None:
    """Finite, and without gradient where nothing can be said."""
    student = features(0, (batch, tokens, 5)).requires_grad_()
    own, target = normalize(student, dim=-1), normalize(features(1, (batch, tokens, 5)), dim=-1)
    mask = ones(batch, tokens)
    losses = {"tokens": token_loss(own, target, mask), "batch": sequence_loss(own, target, mask)}
    for size, name in ((tokens, "tokens"), (batch, "batch")):
        (gradient,) = torch.autograd.grad(losses[name], student, retain_graph=True)
        assert gradient.isfinite().all()
        assert (size >= 3) == bool(gradient.any())


def test_too_few_chosen_tokens_or_sequences_of_a_chunk_say_nothing() -> None:
    own, target = (normalize(features(seed, (4, 6, 5)), dim=-1) for seed in (0, 1))
    for count in (1, 2, 3):
        assert bool(random_loss(own, target, torch.arange(count))) == (count >= 3)
        assert bool(sequence_loss(own[:count], target[:count], ones(count), rows="chunk")) == (count >= 3)


def test_batches_without_a_sequence_term_are_counted() -> None:
    distiller = FCD()
    distiller.begin(Setting(torch.nn.Linear(1, 1), STRUCTURE, Target(0.0), 1, torch.Generator()))
    for batch in (4, 3, 2, 1, 2):
        distiller.features((features(0, (batch, 6, 5)),), (features(1, (batch, 6, 5)),), None)
    assert distiller.notes() == {"sequence_term_skipped": 3 / 5}


def test_collapsed_features_stay_finite() -> None:
    student = torch.ones(SHAPE, dtype=torch.double, requires_grad=True)
    loss = fcd_loss(student, features(1), ones(), EVERYTHING)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher, mask = features(0, (3, 4, 3)).requires_grad_(), features(1, (3, 4, 3)), ones(3, 4)
    mask[2, 3] = 0
    config = FCDConfig(include_diagonal=False)
    assert torch.autograd.gradcheck(lambda own: fcd_loss(own, teacher, mask, config), student)


def test_rows_of_chunks_are_those_of_the_reshaped_relation() -> None:
    student, teacher = features(0, (2, 3, 4)), features(1, (2, 3, 4))
    own, target = (relations(part.transpose(0, 1)).reshape(2, -1) for part in (student, teacher))
    expected = 1 - pearson(own, target, torch.ones_like(own)).mean()
    found = sequence_loss(student, teacher, ones(2, 3), rows="chunk", least=1)
    torch.testing.assert_close(found, expected)


def test_layer_lists_are_fractions() -> None:
    assert layer_pairs(12, 12, "uniform") == [(2, 2), (5, 5), (8, 8), (11, 11)]
    assert layer_pairs(6, 12, "uniform") == [(1, 3), (2, 5), (4, 9), (5, 11)]
    assert [student for student, _ in layer_pairs(4, 4, "uniform")] == [0, 1, 2, 3]
    assert layer_pairs(3, 12, "last") == [(2, 11)]
    assert layer_pairs(2, 4, "all") == [(0, 1), (1, 3)]
