"""Dual feature distillation, and ReviewKD's distance."""

import itertools

import torch

from baselines.one_to_one import hierarchical_context_loss, one_to_one_loss
from gppdfd.dfd import DFDConfig, dfd_loss, layer_sums, mix, student_mixing, teacher_mixing
from gppdfd.views import Observed
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close, batch, model


@handles("dfd", "fusion")
def fusion(case: Case, stored: Tensors) -> None:
    teacher, expected = stored["in.teacher"], case["expected"]
    mask = stored["in.attention_mask"].double() if "in.attention_mask" in stored else None
    omega, _ = teacher_mixing(layer_sums(teacher, mask), "sum_ratio_raw")
    assert_close(mix(omega, teacher), stored["out.G"], case)
    if "teacher_weight_a" in expected:
        assert_close(omega.diagonal()[:-1], expected["teacher_weight_a"], case)
    for window in case["inputs"]["windows"]:
        student = stored["in.student"].clone().requires_grad_()
        mixing, _ = student_mixing(layer_sums(student, mask), window, "sum_ratio_raw")
        assert_close(mix(mixing, student).detach(), stored[f"out.P.w{window}"], case)
        config = DFDConfig(weighting="sum_ratio_raw", mask_padding=mask is not None, window=window)
        loss, _ = dfd_loss(list(student), list(teacher), mask, config)
        assert_close(loss.detach(), expected[f"loss.w{window}"], case)
        if f"out.grad_student.w{window}" in stored:
            assert_close(torch.autograd.grad(loss, student)[0], stored[f"out.grad_student.w{window}"], case)
        if mask is not None:
            unmasked, _ = dfd_loss(list(student), list(teacher), None, config)
            assert_close(unmasked.detach(), expected[f"loss_official_unmasked.w{window}"], case)
    if "one_to_one_loss" in expected:
        control = one_to_one_loss(tuple(stored["in.student"]), tuple(teacher), mask)
        assert_close(control, expected["one_to_one_loss"], case)


@handles("dfd", "model_loss")
def model_loss(case: Case, stored: Tensors) -> None:
    data = batch(case["inputs"]["batch"], trim=True)
    assert data.input_ids.shape[1] == case["inputs"]["trimmed_length"]
    needs = frozenset({"hidden_states"})
    with torch.no_grad():
        student, teacher = (Observed(model(case["inputs"][role]), needs)(data) for role in ("student", "teacher"))
    for window in case["inputs"]["windows"]:
        config = DFDConfig(weighting="sum_ratio_raw", mask_padding=False, window=window)
        loss, _ = dfd_loss(student.hidden_states[1:], teacher.hidden_states[1:], None, config)
        assert_close(loss, case["expected"][f"loss.w{window}"], case)


@handles("dfd", "review_hcl")
def review_hcl(case: Case, stored: Tensors) -> None:
    losses = []
    for index in itertools.count():
        if f"in.student.{index}" not in stored:
            break
        losses.append(hierarchical_context_loss(stored[f"in.student.{index}"], stored[f"in.teacher.{index}"]))
    assert losses
    assert_close(torch.stack(losses), case["expected"]["each"], case)
    assert_close(torch.stack(losses).sum(), case["expected"]["total"], case)
