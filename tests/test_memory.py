"""Peak memory against sums done by hand."""

import pytest
import torch

from gppdfd.memory import PeakMemory, peak_memory
from gppdfd.passes import Shape, forward_pass
from tests.tiny import tiny_model

CPU = torch.device("cpu")
SIDE = 100
MATRIX = 4 * SIDE * SIDE


def test_only_what_lives_at_once_counts() -> None:
    inputs = torch.rand(SIDE, SIDE)

    def chain() -> torch.Tensor:
        states = inputs
        for _ in range(5):
            states = states + 1
        return states

    assert peak_memory(chain, CPU) == 2 * MATRIX


def test_views_of_weights_are_no_new_memory() -> None:
    weight = torch.rand(SIDE, SIDE)
    assert peak_memory(lambda: weight.t()[:50].reshape(-1, SIDE) @ weight, CPU) == MATRIX // 2


def test_changes_in_place_are_no_new_memory() -> None:
    weight = torch.rand(SIDE, SIDE)
    assert peak_memory(lambda: (weight @ weight).add_(1).relu_(), CPU) == MATRIX


def test_grows_with_the_batch_and_repeats_exactly() -> None:
    model = tiny_model().eval()
    small, large, again = (peak_memory(forward_pass(model, Shape(batch, 16)), CPU) for batch in (2, 4, 4))
    assert 1.9 * small < large == again


def test_the_peak_of_a_process_is_counted_anew() -> None:
    """Linux writes the size of resident memory in pages, and not all at once: a few MB of slack."""
    size, slack = 200_000_000, 20_000_000
    first = PeakMemory(CPU)
    before = first.bytes
    if before is None:
        pytest.skip("this system does not count resident memory anew")
    large = torch.ones(size // 4)
    peak = first.bytes
    assert peak is not None
    assert peak - before > size - slack
    del large
    again = PeakMemory(CPU).bytes
    assert again is not None
    assert again < peak - size + slack
