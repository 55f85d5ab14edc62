"""DFD: exact properties from section 12 of its specification, and its guard."""

from typing import get_args

import pytest
import torch

from baselines.one_to_one import OneToOneConfig, hierarchical_context_loss, one_to_one_loss
from gppdfd.dfd import (
    DFDConfig,
    RecentMean,
    Weighting,
    dfd_loss,
    fusion_weights,
    layer_sums,
    matrix_notes,
    student_mixing,
    teacher_mixing,
)
from gppdfd.views import matched_layers


def states(layers: int = 12, seed: int = 0, shift: float = 1.0) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(layers, 2, 5, 6, generator=stream, dtype=torch.float64) + shift


def test_teacher_rows_sum_to_one_and_the_last_layer_is_itself() -> None:
    omega, fired = teacher_mixing(layer_sums(states()))
    torch.testing.assert_close(omega.sum(1), torch.ones(12, dtype=torch.float64))
    assert torch.equal(omega[-1], torch.eye(12, dtype=torch.float64)[-1])
    assert torch.equal(omega, omega.triu())
    assert fired == 0


def test_equal_sums_halve_the_teacher_weights() -> None:
    omega, _ = teacher_mixing(torch.full((6,), 3.0, dtype=torch.float64))
    for layer in range(5):
        expected = [2.0 ** -(k - layer + 1) for k in range(layer, 5)] + [2.0 ** -(5 - layer)]
        assert omega[layer, layer:].tolist() == pytest.approx(expected)


def test_sum_of_a_fusion_follows_the_formula() -> None:
    sums = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    omega, _ = teacher_mixing(sums)
    fused = omega @ sums
    x, y = sums[0], fused[1]
    assert float(fused[0]) == pytest.approx(float((x * x + y * y) / (x + y)))


def test_equal_sums_average_the_student_window() -> None:
    mixing, _ = student_mixing(torch.ones(12, dtype=torch.float64), window=3)
    assert mixing[0, :3].tolist() == pytest.approx([1 / 3] * 3)
    assert mixing[10, 10:].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert mixing[11, 11] == 1


def test_without_both_fusions_it_is_the_control_to_the_last_bit() -> None:
    student, teacher = states(seed=1), states(seed=2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    config = DFDConfig(teacher_fusion=False, window=1)
    loss, _ = dfd_loss(list(student), list(teacher), mask, config)
    assert torch.equal(loss, one_to_one_loss(tuple(student), tuple(teacher), mask))


def test_student_equal_to_the_teacher_still_pays_for_the_fusion() -> None:
    same = states()
    assert dfd_loss(list(same), list(same), None, DFDConfig())[0] > 0
    assert dfd_loss(list(same), list(same), None, DFDConfig(teacher_fusion=False, student_fusion=False))[0] == 0


def test_gradient_flows_through_the_student_weights_only() -> None:
    student, teacher = states(seed=1).requires_grad_(), states(seed=2)
    loss, _ = dfd_loss(list(student), list(teacher), None, DFDConfig())
    loss.backward()
    assert bool((student.grad.abs().flatten(1).sum(1) > 0).all())


def test_padding_changes_nothing() -> None:
    student, teacher = states(seed=1), states(seed=2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    before, _ = dfd_loss(list(student), list(teacher), mask, DFDConfig())
    for tensor in (student, teacher):
        tensor[:, 1, 2:] += 100
    after, _ = dfd_loss(list(student), list(teacher), mask, DFDConfig())
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("weighting", ["sum_ratio", "abs_sum", "softmax_mean", "uniform"])
def test_guarded_weights_are_bounded_and_sum_to_one(weighting: str) -> None:
    sums = torch.tensor([[1.0, -1.0, 1e-9], [5.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    weights, fired = fusion_weights(sums, weighting)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))
    assert float(weights.abs().max()) <= 10
    assert fired.tolist() == (
        [True, False, True] if weighting == "sum_ratio" else [False, False, weighting == "abs_sum"]
    )


def test_guarded_gradient_is_finite_where_sums_cancel() -> None:
    student = (states() * 0).requires_grad_()
    loss, mixings = dfd_loss(list(student), list(states(seed=2)), None, DFDConfig())
    loss.backward()
    assert mixings.fired > 0
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize("options", [{"direction": "shallow_to_deep"}, {"distance": "cosine"}, {"window": 5}])
def test_every_option_changes_the_loss(options: dict) -> None:
    student, teacher = states(seed=1), states(seed=2)
    plain, _ = dfd_loss(list(student), list(teacher), None, DFDConfig())
    other, _ = dfd_loss(list(student), list(teacher), None, DFDConfig(**options))
    assert other.isfinite()
    assert not torch.isclose(plain, other)


def test_shallow_to_deep_is_the_mirrored_recursion() -> None:
    student, teacher = states(seed=1), states(seed=2)
    config = DFDConfig(direction="shallow_to_deep", student_fusion=False)
    mirrored, _ = dfd_loss(list(student), list(teacher), None, config)
    plain, _ = dfd_loss(list(student.flip(0)), list(teacher.flip(0)), None, DFDConfig(student_fusion=False))
    torch.testing.assert_close(mirrored, plain)


def test_layers_are_matched_by_ceil() -> None:
    assert matched_layers(4, 12) == [2, 5, 8, 11]
    assert matched_layers(12, 12) == list(range(12))
    assert matched_layers(5, 12) == [2, 4, 7, 9, 11]


def test_context_loss_of_equal_maps_is_zero() -> None:
    same = torch.randn(2, 3, 8)
    assert hierarchical_context_loss(same, same) == 0
    assert OneToOneConfig(distance="hcl").distance == "hcl"


@pytest.mark.parametrize("options", [{}, {"teacher_fusion": False}, {"student_fusion": False}, {"window": 1}])
def test_the_mixings_of_a_loss_are_those_of_its_fusions(options: dict) -> None:
    student, teacher = states(), states(seed=1)
    config = DFDConfig(**options)
    _, mixings = dfd_loss(list(student), list(teacher), None, config)
    assert (mixings.teacher is None) == (not config.teacher_fusion)
    assert (mixings.student is None) == (not config.student_fusion or config.window == 1)
    if mixings.teacher is not None:
        assert torch.equal(mixings.teacher, teacher_mixing(layer_sums(teacher))[0])
    if mixings.student is not None:
        assert torch.equal(mixings.student, student_mixing(layer_sums(student))[0])


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])])
def test_softmax_weights_are_those_of_the_mean_entries(mask: torch.Tensor | None) -> None:
    student, teacher = states(4), states(4, seed=1)
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask.bool()
    _, mixings = dfd_loss(list(student), list(teacher), mask, DFDConfig(weighting="softmax_mean", window=2))
    means = student[:, real].mean((1, 2))
    fused = [teacher[3]]
    for layer in (2, 1, 0):
        share = torch.stack([teacher[layer][real].mean(), fused[0][real].mean()]).softmax(0)
        fused.insert(0, share[0] * teacher[layer] + share[1] * fused[0])
        torch.testing.assert_close(mixings.student[layer, layer : layer + 2], means[layer : layer + 2].softmax(0))
    torch.testing.assert_close(torch.einsum("lk,kbth->lbth", mixings.teacher, teacher), torch.stack(fused))


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_the_loss_reads_no_number_from_its_device(weighting: Weighting) -> None:
    """On a GPU each one would make the host wait; on `meta` there is none to read."""
    student, teacher = states().to("meta"), states(seed=1).to("meta")
    mask = torch.ones(2, 5, device="meta")
    loss, _ = dfd_loss(list(student), list(teacher), mask, DFDConfig(weighting=weighting))
    assert loss.is_meta


def test_the_recent_mean_is_plain_at_first_and_then_forgets() -> None:
    draws = torch.randn(300, 2, 2, generator=torch.Generator().manual_seed(0))
    short, long = RecentMean(steps=300), RecentMean(steps=10)
    short.add(None)
    for draw in draws:
        short.add(draw)
    torch.testing.assert_close(short.value, draws.mean(0))
    for value in (0.0, 1.0):
        for _ in range(100):
            long.add(torch.full((2, 2), value))
    assert float(long.value[0, 0]) == pytest.approx(1 - 0.9**100)


def test_a_recent_mean_goes_on_from_its_state() -> None:
    draws = torch.randn(30, 3, 3, generator=torch.Generator().manual_seed(0))
    whole, first, second = RecentMean(10), RecentMean(10), RecentMean(10)
    for draw in draws:
        whole.add(draw)
    for draw in draws[:15]:
        first.add(draw)
    second.load_state_dict(first.state_dict())
    for draw in draws[15:]:
        second.add(draw)
    assert torch.equal(second.value, whole.value)


def test_notes_name_the_entries_of_a_matrix_from_one() -> None:
    assert matrix_notes("fusion", torch.tensor([[0.5, 0.0], [0.0, 1.0]])) == {"fusion[1,1]": 0.5, "fusion[2,2]": 1.0}
    assert matrix_notes("fusion", None) == {}
