"""TinyBERT: heads that are gone, its maps, and its prediction loss."""

import pytest
import torch

from baselines.tinybert import soft_cross_entropy
from gppdfd.distilling import soft_labels
from gppdfd.interface import parse_method
from gppdfd.masks import masked
from gppdfd.projections import attention_scores
from gppdfd.tasks.base import Batch
from gppdfd.views import Observed
from tests.one_distiller import begun, losses_on, pair, six_examples

HEADS = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])


def scores(model: torch.nn.Module, batch: Batch) -> list[torch.Tensor]:
    view = Observed(model, frozenset({"projections"}))(batch)
    return [attention_scores(query, key) for query, key in zip(view.queries, view.keys, strict=True)]


def test_attention_is_compared_between_heads_of_the_same_index_that_both_have() -> None:
    (student, teacher), batch = pair(), six_examples()
    whole, without = (
        losses_on(begun(spec), student, teacher, batch, {"head": HEADS})["features"]
        for spec in ("tinybert", "tinybert(attention=off)")
    )
    with masked(student, {"head": HEADS.double()}):
        own = scores(student, batch)
    pairs = (batch.attention_mask[:, :, None] * batch.attention_mask[:, None, :]).bool()
    errors = [(first - second).square() for first, second in zip(own, scores(teacher, batch), strict=True)]
    expected = [errors[layer][:, HEADS[layer]].transpose(0, 1)[:, pairs].mean() for layer in (0, 2)]
    torch.testing.assert_close(whole - without, sum(expected))


@pytest.mark.parametrize(("projection", "count"), [("none", 0), ("shared", 2), ("per_pair", 8)])
def test_maps_start_as_the_identity(projection: str, count: int) -> None:
    """One weight and one bias each; per pair one for the embedding output and one for each of three layers."""
    (student, teacher), distiller = pair(), begun(f"tinybert(projection={projection})")
    assert len(list(distiller.parameters())) == count
    torch.testing.assert_close(
        losses_on(distiller, student, teacher, six_examples()),
        losses_on(begun("tinybert"), student, teacher, six_examples()),
    )


def test_each_map_of_a_pair_learns_its_own() -> None:
    (student, teacher), distiller = pair(), begun("tinybert(projection=per_pair)")
    losses_on(distiller, student, teacher, six_examples())["features"].backward()
    gradients = [weight.grad for weight in distiller.parameters()]
    assert all(gradient.any() for gradient in gradients)
    assert not torch.equal(gradients[0], gradients[2])


def test_soft_cross_entropy_has_the_gradient_of_soft_labels() -> None:
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    (found,) = torch.autograd.grad(soft_cross_entropy(student, teacher), student)
    (expected,) = torch.autograd.grad(soft_labels(student, teacher, 1.0, regression=False), student)
    torch.testing.assert_close(found, expected)


def test_regression_learns_from_the_labels() -> None:
    student, teacher = pair(labels=1)
    batch = six_examples(labels=1)
    found = losses_on(begun("tinybert", labels=1), student, teacher, batch)["soft"]
    logits = Observed(student)(batch).logits
    torch.testing.assert_close(found, (logits[:, 0] - batch.labels).square().mean())


def test_hard_labels_have_no_weight() -> None:
    assert parse_method("tinybert").distiller_config.task_weight == 0
