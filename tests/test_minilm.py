"""MiniLM and MiniLMv2: relation heads, and which layer they are taken from."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.minilm import (
    attending_layer,
    default_relation_heads,
    relation_divergence,
    relation_heads,
    relation_scores,
)
from gppdfd.errors import UsageError
from gppdfd.structure import Structure, structure_of
from tests.one_distiller import begun, losses_on, pair, six_examples
from tests.tiny import tiny_model

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)


def states(seed: int, heads: int = 4, size: int = 6) -> torch.Tensor:
    return torch.randn(2, heads, 5, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_as_many_relation_heads_as_heads_are_the_heads() -> None:
    assert torch.equal(relation_heads(states(0), 4), states(0))
    assert relation_scores(relation_heads(states(0), 4)).shape == relation_scores(states(0)).shape == (2, 4, 5, 5)


@settings(max_examples=20, deadline=None)
@given(count=st.sampled_from([1, 2, 3, 4, 6, 12, 24]), heads=st.sampled_from([2, 3, 4, 6]))
def test_any_relation_heads_that_divide_both_widths(count: int, heads: int) -> None:
    student, teacher = states(0, heads, 24 // heads), states(1, 4, 12)
    own, target = (relation_scores(relation_heads(part, count)) for part in (student, teacher))
    loss = relation_divergence(own, target)
    assert own.shape == target.shape == (2, count, 5, 5)
    assert float(loss) > 0


def test_relation_heads_are_cut_from_the_heads_side_by_side() -> None:
    cut = relation_heads(states(0), 8)
    assert torch.equal(cut[:, 3], states(0)[:, 1, :, 3:])


def test_papers_relation_heads() -> None:
    assert default_relation_heads(BERT_BASE) == 48
    assert default_relation_heads(Structure(layers=2, hidden=24, heads=4, head_size=6, intermediate=8)) == 8


def test_divergence_is_that_of_the_definition() -> None:
    student, teacher = relation_scores(states(0)), relation_scores(states(1))
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(relation_divergence(student, teacher), (p * (p / q).log()).sum(-1).mean())


def test_padding_leaves_keys_and_queries() -> None:
    """Equal to the loss of the sequence cut to its real tokens."""
    student, teacher = relation_scores(states(0)), relation_scores(states(1))
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    found = relation_divergence(student, teacher, mask)
    torch.testing.assert_close(found, relation_divergence(student[..., :3, :3], teacher[..., :3, :3]))


def test_gradient_is_that_of_finite_differences() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    student = relation_scores(states(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda own: relation_divergence(own, relation_scores(states(1)), mask), student)


def there(*heads: list[bool]) -> dict[str, torch.Tensor]:
    return {
        "head": torch.tensor(heads),
        "mha_layer": torch.ones(len(heads), dtype=torch.bool),
        "ffn_layer": torch.ones(len(heads), dtype=torch.bool),
    }


def test_the_last_layer_with_heads_stands_for_the_last() -> None:
    left = there([True, True], [False, True], [False, False])
    assert attending_layer(left) == 1
    assert attending_layer(left, "none") is None
    assert attending_layer(there([True, False], [True, False]), "none") == 1
    assert attending_layer(there([False, False])) is None


def test_a_removed_layer_is_not_the_last() -> None:
    left = there([True, True], [True, True], [False, False])
    left["mha_layer"][2] = left["ffn_layer"][2] = False
    assert attending_layer(left, "none") == 1


@pytest.mark.parametrize("name", ["minilm", "minilmv2"])
def test_without_any_head_there_is_no_such_loss(name: str) -> None:
    student, teacher = pair()
    keep = {"head": torch.zeros(3, 4, dtype=torch.bool)}
    losses = losses_on(begun(name), student, teacher, six_examples(), keep)
    assert float(losses["features"]) == 0
    assert float(losses["soft"].detach()) > 0


def test_v1_compares_heads_of_the_same_index() -> None:
    """Only head 2 is left in the last layer; what the teacher's other heads do there does not matter."""
    student, teacher = pair()
    keep = {"head": torch.ones(3, 4, dtype=torch.bool)}
    keep["head"][2] = torch.arange(4) == 2
    distiller = begun("minilm")
    before = losses_on(distiller, student, teacher, six_examples(), keep)["features"].detach()
    for head, same in ((0, True), (2, False)):
        with torch.no_grad():
            teacher.base_model.encoder.layer[2].attention.self.value.weight[head * 8 : head * 8 + 8] += 1
        after = losses_on(distiller, student, teacher, six_examples(), keep)["features"].detach()
        assert torch.allclose(after, before) == same


def test_bad_head_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="does not divide the width of all heads, 32"):
        begun("minilmv2(relation_heads=5)")
    student, teacher = pair()
    fewer = tiny_model(seed=9).config
    fewer.num_attention_heads = 2
    other = type(teacher)(fewer).double().eval()
    structures = structure_of(student), structure_of(other)
    assert begun("minilm").unsuitable(*structures) == "it has 2 attention heads, the student 4"
    assert begun("minilmv2").unsuitable(*structures) is None
    assert losses_on(begun("minilmv2"), student, other, six_examples())["features"].isfinite()
    odd = replace(structures[1], head_size=15)
    reason = begun("minilmv2").unsuitable(structures[0], odd)
    assert reason == "relation_heads=16 does not divide the width of all heads, 30"
