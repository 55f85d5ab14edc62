"""Gradient-based intra-attention pruning."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from baselines.grain import (
    Grain,
    GrainConfig,
    cut_per_kind,
    density,
    global_cut,
    regularised,
    soft_cross_entropy,
    state_loss,
    structure_factor,
    unit_parameters,
    without_dead_queries,
)
from gppdfd.budget import Target
from gppdfd.extraction import extract
from gppdfd.factorise import embedding_rank, factorise
from gppdfd.interface import Setting
from gppdfd.masks import masked
from gppdfd.structure import Keep, Masks, Structure, structure_of
from gppdfd.views import Observed, View
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close, batch, model

KINDS = ("ffn", "qk", "vo")
STATES = frozenset({"hidden_states"})


def shaped(stored: Tensors, structure: Structure, template: str) -> Masks:
    """Tensors named after `template`, such as `in.{}.0`, in our shapes: dims of all heads lie in one row there."""
    return {kind: stored[template.format(kind)].view(structure.shape(kind)) for kind in KINDS}


def flat(masks: Masks) -> Masks:
    return {kind: values.flatten(1) for kind, values in masks.items()}


def small_structure(inputs: dict[str, Any]) -> Structure:
    return Structure(inputs["L"], inputs["d"], inputs["H"], inputs["d"] // inputs["H"], inputs["F"])


def sizes_of(structure: Structure) -> dict[str, int]:
    return {kind: unit_parameters(structure, kind) for kind in KINDS}


def kept_share(structure: Structure, left: Masks) -> float:
    """Density as the authors count it: parameters of all units that are left, also of dead queries."""
    sizes = sizes_of(structure)
    return sum(int(left[kind].sum()) * sizes[kind] for kind in KINDS) / sum(
        left[kind].numel() * sizes[kind] for kind in KINDS
    )


@handles("grain", "schedule")
def schedule(case: Case, stored: Tensors) -> None:
    for start, end, dense, final, total, step, expected, prunes in case["expected"]["rows"]:
        window = int(start * total), int(end * total)
        path = density(step, *window, 0.0)  # theirs may start below 1
        assert_close(final + (dense - final) * path, expected, case)
        assert_close(density(step, *window, final), final + (1 - final) * path, case)
        assert prunes == (window[0] <= step < window[1])


@handles("grain", "soft_ce")
def soft_ce(case: Case, stored: Tensors) -> None:
    for index, row in enumerate(case["expected"]["cases"]):
        student = stored[f"in.student.{index}"].clone().requires_grad_()
        loss = soft_cross_entropy(student, stored[f"in.teacher.{index}"], row["T"])
        assert_close(loss.detach(), row["loss"], case)
        assert_close(*torch.autograd.grad(loss, student), stored[f"out.grad.{index}"], case)


@handles("grain", "hidden_mse")
def hidden_mse(case: Case, stored: Tensors) -> None:
    for index, row in enumerate(case["expected"]["cases"]):
        student, teacher = stored[f"in.student.{index}"], stored[f"in.teacher.{index}"]
        mask = stored[f"in.mask.{index}"].double()
        projected = linear(student, stored[f"in.W.{index}"], stored[f"in.b.{index}"])
        assert_close(state_loss(student, teacher, mask), row["masked"], case)
        assert_close(state_loss(student, teacher, None), row["unmasked"], case)
        assert_close(state_loss(projected, teacher, mask), row["masked_projected"], case)


def views(case: Case, index: int, net: nn.Module | None = None) -> tuple[View, View]:
    student, teacher = net or model(case["inputs"]["student"]), model(case["inputs"]["teacher"])
    with torch.no_grad():
        target = Observed(teacher, STATES)(batch(index))
    return Observed(student, STATES)(batch(index)), target


def hidden_loss(student: View, teacher: View, pairs: list[list[int]], maps: Tensors | None = None) -> torch.Tensor:
    """Sum over the pairs, through given maps or none."""
    mask, total = student.attention_mask.double(), torch.zeros((), dtype=torch.double)
    for own, theirs in pairs:
        states = student.hidden_states[own]
        if maps:
            states = linear(states, maps[f"in.proj.{own}.weight"], maps[f"in.proj.{own}.bias"])
        total = total + state_loss(states, teacher.hidden_states[theirs], mask)
    return total


@handles("grain", "model_losses")
def model_losses(case: Case, stored: Tensors) -> None:
    inputs, expected = case["inputs"], case["expected"]
    for index in (0, 1):
        student, teacher = views(case, index)
        soft = soft_cross_entropy(student.logits, teacher.logits, inputs["temperature"])
        for name, maps in (("identity", None), ("given", stored)):
            row = expected[f"batch{index}.{name}"]
            assert_close(soft.detach(), row["soft_ce"], case)
            assert_close(hidden_loss(student, teacher, inputs["pairs"], maps).detach(), row["hidden"], case)


@handles("grain", "importance")
def importance(case: Case, stored: Tensors) -> None:
    net = model(case["inputs"]["student"])
    gates = {kind: values.double().requires_grad_() for kind, values in structure_of(net).ones(KINDS).items()}
    with masked(net, gates):
        for index in case["inputs"]["batches"]:
            student, teacher = views(case, index, net)
            soft = soft_cross_entropy(student.logits, teacher.logits, case["inputs"]["temperature"])
            assert_gradients(soft, gates, stored, f"out.{{}}.{index}", case)
            if index == 0:
                pairs = [[0, 0], [1, 1], [3, 3]]  # those of case model_losses
                total = soft + hidden_loss(student, teacher, pairs)
                assert_gradients(total, gates, stored, "out.no_separation.{}.0", case)


def assert_gradients(loss: torch.Tensor, gates: Masks, stored: Tensors, template: str, case: Case) -> None:
    found = dict(zip(gates, torch.autograd.grad(loss, list(gates.values()), retain_graph=True), strict=True))
    for kind, values in flat(found).items():
        assert_close(values.abs(), stored[template.format(kind)], case)


@handles("grain", "ema_structreg")
def ema_structreg(case: Case, stored: Tensors) -> None:
    structure = Structure(3, 32, 4, 8, 40)
    for name, variant in case["inputs"]["variants"].items():
        left = {kind: ones.bool() for kind, ones in structure.ones(KINDS).items()}
        if variant["masks"]:
            left["vo"] = stored["in.vo_mask"].bool().view(structure.shape("vo"))
            left["ffn"] = stored["in.ffn_mask"].bool()
        alphas = {"structreg": "head", "structreg_layer": "mha", "structreg_ffn": "ffn"}
        config = GrainConfig(**{ours: variant[f"alpha_{theirs}"] for ours, theirs in alphas.items()})
        smooth = {kind: torch.zeros(structure.shape(kind), dtype=torch.double) for kind in KINDS}
        for index in range(3):
            scores = regularised(shaped(stored, structure, f"in.score.{{}}.{index}"), left, config)
            smooth = {kind: variant["beta"] * smooth[kind] + (1 - variant["beta"]) * scores[kind] for kind in KINDS}
        for kind, values in flat(smooth).items():
            assert_close(values, stored[f"out.{name}.{kind}"], case)


@handles("grain", "structreg_factor")
def structreg_factor(case: Case, stored: Tensors) -> None:
    for share, alpha, expected in case["expected"]["rows"]:
        left = torch.arange(80) < round(80 * share)
        assert_close(structure_factor(left, alpha), [expected], case)


def cut_in_sequence(case: Case, stored: Tensors) -> Iterator[Keep]:
    """Units left after each density, when units that went rank behind all others and stay away."""
    structure = small_structure(case["inputs"])
    left: Keep = {kind: ones.bool() for kind, ones in structure.ones(KINDS).items()}
    for index, due in enumerate(case["inputs"]["densities"]):
        scores = shaped(stored, structure, f"in.{{}}.{index}")
        ranked = {kind: values.where(left[kind], -torch.inf) for kind, values in scores.items()}
        gone = global_cut(ranked, sizes_of(structure), due)
        left = without_dead_queries({kind: units & ~gone[kind] for kind, units in left.items()})
        yield left


@handles("grain", "prune_global")
@handles("grain", "qk_follows_vo")
def prune_global(case: Case, stored: Tensors) -> None:
    structure = small_structure(case["inputs"])
    found = list(cut_in_sequence(case, stored))
    for index, (left, row) in enumerate(zip(found, case["expected"]["steps"], strict=True)):
        assert {kind: int(units.sum()) for kind, units in left.items()} == row["alive"]
        assert sum(int((~units).sum()) for units in left.values()) == row["units_gone_after_qk_rule"]
        assert_close(kept_share(structure, left), row["density"], {"tolerance": {"rtol": 1e-12, "atol": 0}})
        for kind, units in flat(left).items():
            assert_close(units, stored[f"out.mask.{kind}.{index}"], case)


@handles("grain", "prune_global_ties")
def prune_global_ties(case: Case, stored: Tensors) -> None:
    (left,) = cut_in_sequence(case, stored)
    assert {kind: int(units.sum()) for kind, units in left.items()} == case["expected"]["alive"]
    halves = left["ffn"] & (stored["in.ffn.0"] == 0.5)
    assert int(halves.sum()) == case["expected"]["alive_ffn_with_score_half"]


@handles("grain", "prune_per_kind")
def prune_per_kind(case: Case, stored: Tensors) -> None:
    scores = shaped(stored, small_structure(case["inputs"]), "in.{}")
    for index, (due, alive) in enumerate(zip(case["inputs"]["densities"], case["expected"]["alive"], strict=True)):
        left = {kind: ~gone for kind, gone in cut_per_kind(scores, due).items()}
        assert {kind: int(units.sum()) for kind, units in left.items()} == alive
        for kind, units in flat(left).items():
            assert_close(units, stored[f"out.mask.{kind}.{index}"], case)


@handles("grain", "masked_logits")
def masked_logits(case: Case, stored: Tensors) -> None:
    net = model(case["inputs"]["model"])
    structure = structure_of(net)
    for name in case["inputs"]["variants"]:
        masks = shaped(stored, structure, f"in.{name}.{{}}")
        small = extract(net, {kind: values.bool() for kind, values in masks.items()})
        view = Observed(small, STATES)(batch(case["inputs"]["batch"]))
        with masked(net, {kind: values.double() for kind, values in masks.items()}):
            logits = Observed(net)(batch(case["inputs"]["batch"])).logits
        assert_close(view.logits, stored[f"out.{name}.logits"], case)
        assert_close(logits, stored[f"out.{name}.logits"], case)
        assert_close(view.hidden_states[-1], stored[f"out.{name}.last_hidden"], case)


@handles("grain", "trajectory")
def trajectory(case: Case, stored: Tensors) -> None:
    """The whole pruner under the released last cut: `masks(t)` gives what step t of theirs, counted from 1, left."""
    inputs, net = case["inputs"], model(case["inputs"]["student"])
    structure, steps = structure_of(net), inputs["total_steps"]
    window = {"start": inputs["p_s"], "end": inputs["p_e"], "last_cut": "released"}
    pruner = Grain(GrainConfig(beta=inputs["beta"], structreg=inputs["alpha_head"], **window))
    target = Target(1 - inputs["s_f"], count="published")
    pruner.begin(Setting(net, structure, target, steps, torch.Generator()))
    masks = pruner.masks(0)
    for step, *losses, ffn, qk, vo, share in case["expected"]["rows"]:
        leaves = {kind: values.double().requires_grad_() for kind, values in masks.items()}
        with masked(net, leaves):
            student, teacher = views(case, inputs["batches"][(step - 1) % len(inputs["batches"])], net)
        soft = soft_cross_entropy(student.logits, teacher.logits, inputs["temperature"])
        found = torch.stack([soft, hidden_loss(student, teacher, inputs["pairs"])])
        assert_close(found.detach(), losses, case)
        gradients = torch.autograd.grad(soft, list(leaves.values()))
        pruner.observe(step - 1, leaves, dict(zip(leaves, gradients, strict=True)))
        masks = pruner.masks(step)
        if step == inputs["importance_step"]:
            for kind, values in flat(pruner.importance()).items():
                expected = stored[f"out.importance.{kind}.step{step}"]
                assert_close(values.masked_fill(values.isinf(), -1), expected, case)
        assert [int(masks[kind].sum()) for kind in KINDS] == [ffn, qk, vo]
        assert_close(kept_share(structure, masks), share, case)
    keep = pruner.keep()
    for kind, units in flat({kind: keep[kind] for kind in KINDS}).items():
        assert_close(units, stored[f"out.final_mask.{kind}"], case)


@handles("grain", "embedding_svd")
def embedding_svd(case: Case, stored: Tensors) -> None:
    for rank in case["inputs"]["ranks"]:
        net, expected = model(case["inputs"]["model"]), case["expected"][f"r{rank}"]
        before = net.get_input_embeddings().weight.detach()
        factorise(net, rank)
        embedding: Any = net.get_input_embeddings()
        product = embedding(torch.arange(len(before)))
        error = before - product
        assert embedding_rank(net) == rank
        assert_close(product, stored[f"out.reconstruction.r{rank}"], case)
        assert_close(Observed(net)(batch(case["inputs"]["batch"])).logits, stored[f"out.logits.r{rank}"], case)
        assert_close(error.norm(), expected["frobenius_error"], case)
        assert_close(error.norm() / before.norm(), expected["relative_error"], case)
        assert_close(error.abs().max(), expected["max_abs_error"], case)
        assert before.numel() == expected["parameters_before"]
        assert sum(parameter.numel() for parameter in embedding.parameters()) == expected["parameters_after"]


@handles("grain", "bert_base_constants")
def bert_base_constants(case: Case, stored: Tensors) -> None:
    structure, expected = Structure(12, 768, 12, 64, 3072), case["expected"]
    sizes = sizes_of(structure)
    totals = {kind: sizes[kind] * structure.ones((kind,))[kind].numel() for kind in KINDS}
    assert sum(totals.values()) == expected["prunable"]
    for kind in KINDS:
        assert sizes[kind] == expected[f"{kind}_unit"]
        assert_close(totals[kind] / expected["prunable"], expected[f"share_{kind}"], case)
