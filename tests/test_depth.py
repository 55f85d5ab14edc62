"""Students of fixed depth: which layers stay, and which targets they reach."""

import pytest

from baselines.depth import Depth, depth_for, kept_layers
from gppdfd.budget import Target, sparsity
from gppdfd.structure import Structure

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)


def test_every_and_first_layers() -> None:
    assert kept_layers(12, 6, "every") == [1, 3, 5, 7, 9, 11]
    assert kept_layers(12, 4, "every") == [2, 5, 8, 11]
    assert kept_layers(6, 4, "every") == [1, 2, 4, 5]
    assert kept_layers(12, 3, "first") == [0, 1, 2]
    assert kept_layers(5, 5, "every") == list(range(5))


@pytest.mark.parametrize(("target", "depth"), [(0.5, 6), (0.75, 3), (0.0, 12), (2 / 3, 4), (0.8, None), (0.95, None)])
def test_only_whole_layers_are_reachable(target: float, depth: int | None) -> None:
    assert depth_for(BERT_BASE, Target(target)) == depth
    reason = Depth().unreachable(BERT_BASE, Target(target))
    assert (reason is None) == (depth is not None)
    if reason:
        assert "whole layers: sparsity 0, 0.0833" in reason


def test_other_targets_get_the_deepest_student_that_fits() -> None:
    layer = 7_084_800
    assert depth_for(BERT_BASE, Target(params=layer * 5 + 1)) == 5
    assert depth_for(BERT_BASE, Target(params=layer - 1)) is None


def test_sparsity_is_that_of_the_layers() -> None:
    from baselines.depth import whole_layers

    assert sparsity(BERT_BASE, whole_layers(BERT_BASE, [0, 5, 11])) == 0.75
