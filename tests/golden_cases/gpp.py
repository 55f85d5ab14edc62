"""Gradient progressive pruning."""

import torch

from gppdfd.budget import Target
from gppdfd.dfd import DFDConfig, dfd_loss
from gppdfd.extraction import extract
from gppdfd.gpp import GPP, GPPConfig, indicators, l1_term, scheduled_share, update_due, update_interval
from gppdfd.interface import Setting
from gppdfd.masks import MaskedEncoder, masked
from gppdfd.structure import Masks, Structure
from gppdfd.training import flooded, task_loss
from gppdfd.views import Observed
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close, batch, model

KINDS = {"head": "head", "ffn": "int"}  # our name, name in the golden files


def masks_of(stored: Tensors, template: str) -> Masks:
    """Masks by our kinds from tensors named after `template`, such as `in.z.{}`."""
    return {kind: stored[template.format(name)] for kind, name in KINDS.items()}


def assert_masks(found: Masks, stored: Tensors, template: str, case: Case) -> None:
    for kind, expected in masks_of(stored, template).items():
        assert_close(found[kind], expected, case)


@handles("gpp", "schedule")
def schedule(case: Case, stored: Tensors) -> None:
    for step, steps, start, sparsity, expected in case["expected"]["rows"]:
        assert_close(start + (sparsity - start) * scheduled_share(step, steps), expected, case)


@handles("gpp", "update_times")
def update_times(case: Case, stored: Tensors) -> None:
    for row in case["expected"]["cases"]:
        if row["pruned_steps"] is None:  # the released rule divides by zero here
            assert update_interval(row["T"], row["s"]) == 1
            continue
        assert update_interval(row["T"], row["s"]) == row["interval"]
        due = [step for step in range(row["T"] + 1) if update_due(step, row["T"], row["s"])]
        assert due == row["pruned_steps"]


@handles("gpp", "unit_counts")
def unit_counts(case: Case, stored: Tensors) -> None:
    for layers, units, sparsity, expected, selected in case["expected"]["rows"]:
        scores = torch.rand(layers, units, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        pruned = int((indicators(scores, sparsity, 1.0) == 0).sum())
        assert pruned == expected == selected


@handles("gpp", "indicator_update")
def indicator_update(case: Case, stored: Tensors) -> None:
    steps, sparsity = case["inputs"]["T"], case["inputs"]["s"]
    gradients = masks_of(stored, "in.grad.{}")
    for step in case["inputs"]["t"]:
        share = scheduled_share(step, steps)
        by_size = {kind: indicators(values.abs(), sparsity, share) for kind, values in gradients.items()}
        assert_masks(by_size, stored, f"out.{{}}.{step}", case)
        if f"out.signed.head.{step}" in stored:
            signed = {kind: indicators(values, sparsity, share) for kind, values in gradients.items()}
            assert_masks(signed, stored, f"out.signed.{{}}.{step}", case)


@handles("gpp", "indicator_update_ties")
def indicator_update_ties(case: Case, stored: Tensors) -> None:
    """The released rule prunes fewer than k units at a tie; ours prunes exactly k, earlier index first."""
    found = {
        kind: indicators(values.abs(), case["inputs"]["s"], 1.0)
        for kind, values in masks_of(stored, "in.grad.{}").items()
    }
    assert_masks(found, stored, "out.corrected.{}", case)
    assert int((found["head"] == 0).sum()) == case["expected"]["k_head"]
    assert int((found["ffn"] == 0).sum()) == case["expected"]["k_int"]
    # What the release leaves in place is a subset of ours: the units strictly above the cut.
    for kind, official in masks_of(stored, "out.{}").items():
        assert bool((found[kind][official == 0] == 0).all())


def searching_pruner(config: GPPConfig, structure: Structure, steps: int, sparsity: float) -> GPP:
    pruner = GPP(config)
    target = Target(sparsity, count="published")
    dummy = torch.nn.Linear(1, 1, dtype=torch.float64)
    pruner.begin(Setting(dummy, structure, target, steps, torch.Generator().manual_seed(0)))
    return pruner


def structure_like(masks: Masks) -> Structure:
    (layers, heads), dims = masks["head"].shape, masks["ffn"].shape[1]
    return Structure(layers=layers, hidden=8 * heads, heads=heads, head_size=8, intermediate=dims)


@handles("gpp", "trajectory")
def trajectory(case: Case, stored: Tensors) -> None:
    steps, sparsity = case["inputs"]["T"], case["inputs"]["s"]
    gradients = masks_of(stored, "in.step_grad.{}")
    first = {kind: values[0] for kind, values in gradients.items()}
    pruner = searching_pruner(GPPConfig(importance="abs_mean"), structure_like(first), steps, sparsity)
    pruner._sums = {kind: torch.zeros_like(values) for kind, values in first.items()}  # float64, as the case
    regrowths, before = 0, {kind: torch.ones_like(values) for kind, values in first.items()}
    counts = []
    for step in range(steps + 1):
        masks = pruner.masks(step)
        if update_due(step, steps, sparsity):
            low = [int((masks[kind] < 1).sum()) for kind in KINDS]
            counts.append([step, pruner.sparsity(step), *low])
            regrowths += sum(int(((before[kind] < 1) & (masks[kind] == 1)).sum()) for kind in KINDS)
            before = masks
        if f"out.head.{step}" in stored:
            assert_masks(masks, stored, f"out.{{}}.{step}", case)
        if step < steps:
            pruner.observe(step, masks, {kind: values[step] for kind, values in gradients.items()})
    assert_close(counts, case["expected"]["trajectory"], case)
    assert regrowths == case["expected"]["regrowths"]


def search_losses(case: Case, masks: Masks, index: int, level: float) -> dict[str, torch.Tensor]:
    """Loss parts of one released search step on stored models and a trimmed batch."""
    student, teacher = model(case["inputs"]["student"]), model(case["inputs"]["teacher"])
    data = batch(index, trim=True)
    encoder = MaskedEncoder(student)
    encoder.masks = masks
    needs = frozenset({"hidden_states"})
    view = Observed(student, needs)(data)
    with torch.no_grad():
        target = Observed(teacher, needs)(data)
    config = DFDConfig(weighting="sum_ratio_raw", mask_padding=False, window=case["inputs"].get("window", 3))
    task = task_loss(view.logits, data.labels, regression=False)
    return {
        "raw_task": task,
        "task": flooded(task, level),
        "features": dfd_loss(view.hidden_states[1:], target.hidden_states[1:], None, config)[0],
        "pruner": l1_term(masks, case["inputs"].get("lambda_l1", 0.5)),
    }


def leaves(masks: Masks) -> Masks:
    return {kind: values.clone().requires_grad_() for kind, values in masks.items()}


def ones_for(case: Case) -> Masks:
    config = model(case["inputs"]["student"]).config
    layers = config.num_hidden_layers
    return {
        "head": torch.ones(layers, config.num_attention_heads, dtype=torch.float64),
        "ffn": torch.ones(layers, config.intermediate_size, dtype=torch.float64),
    }


@handles("gpp", "indicator_gradients")
def indicator_gradients(case: Case, stored: Tensors) -> None:
    values = masks_of(stored, "in.z.{}") if "in.z.head" in stored else ones_for(case)
    expected = case["expected"]
    for level, suffix in zip(case["inputs"]["flooding_b"], ("", ".flood7"), strict=True):
        masks = leaves(values)
        parts = search_losses(case, masks, case["inputs"]["batch"], level)
        total = parts["task"] + parts["features"] + parts["pruner"]
        assert_close(total.detach(), expected[f"total_loss{suffix}"], case)
        assert_close(parts["task"].detach(), expected[f"task_loss_flooded{suffix}"], case)
        assert_close(parts["pruner"].detach(), expected[f"l1_term{suffix}"], case)
        assert_close(parts["features"].detach(), expected[f"dfd_loss{suffix}"], case)
        found = torch.autograd.grad(total, list(masks.values()), retain_graph=True)
        assert_masks(dict(zip(masks, found, strict=True)), stored, f"out.grad_total.{{}}{suffix}", case)
        if not suffix:
            found = torch.autograd.grad(parts["raw_task"], list(masks.values()))
            assert_masks(dict(zip(masks, found, strict=True)), stored, "out.grad_task.{}", case)


@handles("gpp", "accumulate_and_update")
def accumulate_and_update(case: Case, stored: Tensors) -> None:
    sums = {kind: torch.zeros_like(values) for kind, values in ones_for(case).items()}
    for index, expected in zip(case["inputs"]["batches"], case["expected"]["total_loss"], strict=True):
        masks = leaves(ones_for(case))
        parts = search_losses(case, masks, index, 0.01)
        total = parts["task"] + parts["features"] + parts["pruner"]
        assert_close(total.detach(), expected, case)
        total.backward()
        sums = {kind: sums[kind] + masks[kind].grad for kind in KINDS}
    assert_masks(sums, stored, "out.acc.{}", case)
    for step in case["inputs"]["t"]:
        share = scheduled_share(step, case["inputs"]["T"])
        for prefix, scores in (("", {k: v.abs() for k, v in sums.items()}), ("signed.", sums)):
            found = {kind: indicators(values, case["inputs"]["s"], share) for kind, values in scores.items()}
            assert_masks(found, stored, f"out.{prefix}{{}}.{step}", case)


@handles("gpp", "masked_logits")
def masked_logits(case: Case, stored: Tensors) -> None:
    net = model(case["inputs"]["model"])
    for variant in case["inputs"]["variants"]:
        with masked(net, masks_of(stored, f"in.{variant}.{{}}")), torch.no_grad():
            view = Observed(net, frozenset({"hidden_states"}))(batch(case["inputs"].get("batch", 0)))
        assert_close(view.logits, stored[f"out.{variant}.logits"], case)
        assert_close(view.hidden_states[-1], stored[f"out.{variant}.last_hidden"], case)


@handles("gpp", "extraction")
def extraction(case: Case, stored: Tensors) -> None:
    """The released export loses bias and LayerNorm of an emptied sublayer; ours equals the masked model there too."""
    net, data = model(case["inputs"]["model"]), batch(case["inputs"]["batch"])
    variants = {name.split(".")[1] for name in stored if name.startswith("in.")}
    for variant in sorted(variants):
        keep = {kind: values > 0 for kind, values in masks_of(stored, f"in.{variant}.{{}}").items()}
        small = extract(net, keep)
        with torch.no_grad():
            assert_close(Observed(small)(data).logits, stored[f"out.{variant}.masked_logits"], case)
        if bool(keep["head"].any(1).all() and keep["ffn"].any(1).all()):
            parameters = sum(parameter.numel() for parameter in small.parameters())
            assert parameters == case["expected"][f"{variant}.official_parameters"]


@handles("gpp", "l1_term")
def l1(case: Case, stored: Tensors) -> None:
    assert_close(l1_term(masks_of(stored, "in.{}")), case["expected"]["value"], case)
