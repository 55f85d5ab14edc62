"""Movement pruning: the cases stored with CAP, whose code ships the movement family."""

import torch
from torch.nn.functional import linear

from baselines.movement import above_threshold, cubic, score_regulariser, top_share
from gppdfd.budget import parameters
from gppdfd.structure import WEIGHT, Structure
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close


def binarised(method: str, scores: torch.Tensor, weight: torch.Tensor, threshold: float) -> torch.Tensor:
    """Mask of one score matrix by the released name of the method."""
    whole = [scores.numel()]
    if method == "sigmoied_threshold":
        return above_threshold(scores, threshold, whole)
    return top_share(weight.abs() if method == "magnitude" else scores, threshold, whole)


@handles("cap", "movement_linear")
def movement_linear(case: Case, stored: Tensors) -> None:
    """The gradient that the scores get is that of the mask, a leaf in the forward pass."""
    for row in case["expected"]["cases"]:
        name, index = row["method"], row["case"]
        weight, bias, x = (stored[f"in.{what}.{index}"].requires_grad_() for what in ("weight", "bias", "x"))
        mask = binarised(name, stored[f"in.scores.{index}"], weight.detach(), row["threshold"])
        assert int(mask.sum()) == row["kept"]
        leaf = mask.double().requires_grad_()
        output = linear(x, weight * leaf, bias)
        gradients = torch.autograd.grad(output, [weight, x, leaf], stored[f"in.grad_out.{index}"])
        found = dict(zip(("grad_weight", "grad_x", "grad_scores"), gradients, strict=True))
        for what, values in (found | {"mask": mask.double(), "out": output.detach()}).items():
            if f"out.{name}.{what}.{index}" in stored:  # magnitude has no scores
                assert_close(values, stored[f"out.{name}.{what}.{index}"], case)


@handles("cap", "block_movement_linear")
def block_movement_linear(case: Case, stored: Tensors) -> None:
    """A block is a unit of its own: its mask is repeated over its weights, so its gradient is their sum."""
    for row in case["expected"]["cases"]:
        name, index = row["method"], row["case"]
        weight, bias, x = (stored[f"in.{what}.{index}"] for what in ("weight", "bias", "x"))
        mask = binarised(name, stored[f"in.scores.{index}"], weight, row["threshold"]).double().requires_grad_()
        spread = mask.repeat_interleave(row["block_rows"], 0).repeat_interleave(row["block_cols"], 1)
        weight.requires_grad_()
        output = linear(x, weight * spread, bias)
        gradients = torch.autograd.grad(output, [weight, mask], stored[f"in.grad_out.{index}"])
        assert_close(output.detach(), stored[f"out.{name}.out.{index}"], case)
        assert_close(gradients[0], stored[f"out.{name}.grad_weight.{index}"], case)
        assert_close(gradients[1], stored[f"out.{name}.grad_scores.{index}"], case)


@handles("cap", "threshold_minimum")
def threshold_minimum(case: Case, stored: Tensors) -> None:
    """The release leaves nothing where all scores are equal and too low; ours always keeps the floor."""
    scores, expected = stored["in.scores"], case["expected"]
    whole = [scores.numel()]
    assert scores.numel() == expected["n"]
    mask = above_threshold(scores, case["inputs"]["tau_sigmoid"], whole)
    assert int(mask.sum()) == expected["kept_sigmoid"] == expected["kept_plain"]
    assert_close(mask.double(), stored["out.sigmoid_mask"], case)
    # The variant without a sigmoid has its threshold above all scores too, so its floor is the same one.
    assert float(scores.max()) < case["inputs"]["tau_plain"]
    assert_close(above_threshold(scores, 1.0, whole).double(), stored["out.plain_mask"], case)
    assert expected["kept_zero_scores"] == 0
    assert int(above_threshold(torch.zeros_like(scores), 0.6, whole).sum()) == expected["kept_sigmoid"]


@handles("cap", "topk_ties")
def topk_ties(case: Case, stored: Tensors) -> None:
    scores = stored["in.scores"]
    highest = scores == scores.max()
    for share, kept, among_highest in case["expected"]["rows"]:
        mask = top_share(scores, share, [scores.numel()])
        assert (int(mask.sum()), int((mask & highest).sum())) == (kept, among_highest)


@handles("cap", "cubic_schedule")
def cubic_schedule(case: Case, stored: Tensors) -> None:
    """Our windows are in steps; those of the last rows, which exceed the run, are refused by the pruners."""
    for steps, warmup, initial, final, start, hold, weight, step, threshold, regularisation in case["expected"]["rows"]:
        found = cubic(step, steps, start * warmup, hold * warmup, initial, final)
        assert_close(found, threshold, case)
        assert_close(weight * found / final, regularisation, case)


@handles("cap", "score_regularisation")
def score_regularisation(case: Case, stored: Tensors) -> None:
    """The l0 mode is the same mean over scores that the hard concrete's constant has moved."""
    scores = list(stored.values())
    shift = 2 / 3 * torch.log(torch.tensor(0.1 / 1.1, dtype=torch.double))
    assert_close(score_regulariser(scores), case["expected"]["l1"], case)
    assert_close(score_regulariser([values - shift for values in scores]), case["expected"]["l0"], case)


@handles("cap", "remaining_weights")
def remaining_weights(case: Case, stored: Tensors) -> None:
    """The release counts LayerNorms too; ours counts the maps with their biases."""
    sizes = case["inputs"]
    structure = Structure(sizes["layers"], sizes["width"], 2, sizes["width"] // 2, sizes["ffn"])
    norms = structure.layers * 2 * 2 * structure.hidden
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "intermediate.dense", "output.dense")  # fmt: skip
    scores = [stored[f"in.bert.encoder.layer.{layer}.{name}.mask_scores"] for layer in (0, 1) for name in names]
    flat, groups = torch.cat([values.flatten() for values in scores]), [values.numel() for values in scores]
    rules = {"topK": top_share, "sigmoied_threshold": above_threshold}
    for row in case["expected"]["cases"]:
        kept = parameters(structure, {WEIGHT: rules[row["method"]](flat, row["threshold"], groups)})
        share = (kept + norms) / (parameters(structure, {}) + norms)
        assert_close(100 * share, row["remaining_percent"], case)
