"""UPop: unified and progressive pruning."""

import torch

from baselines.upop import set_after, spared, standardised
from gppdfd.allocation import removed_jointly
from gppdfd.gpp import scheduled_share
from gppdfd.structure import Masks
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close


@handles("upop", "schedule")
def schedule(case: Case, stored: Tensors) -> None:
    """The release sets masks after 0-based step t with the ratio of t + 1, which is before step t + 1 in our count."""
    for step, steps, ratio, expected in case["expected"]["rows"]:
        assert_close(ratio * scheduled_share(step + 1, steps, "cos_half"), expected, case)
    for name, expected in case["expected"]["update_steps"].items():
        variant, steps, interval = (*name.split("."), "interval100")[:3]
        every = int(interval.removeprefix("interval"))
        total = int(steps.removeprefix("T"))
        found = [step for step in range(total) if set_after(step, total, every)]
        if variant == "deit" and found[0] == 0:
            found = found[1:]  # this variant leaves the first step out
        if isinstance(expected, dict):
            assert len(found) == expected["count"]
            assert found[: len(expected["first"])] == expected["first"]
            assert found[-len(expected["last"]) :] == expected["last"]
        else:
            assert found == expected


def standardised_by_kind(gradients: Masks) -> Masks:
    """Groups of one kind (encoders of a model) are standardised together."""
    found: Masks = {}
    for kind in ("attn", "mlp"):
        names = [name for name in gradients if name.endswith(kind)]
        parts = standardised(torch.cat([gradients[name].flatten() for name in names]))
        sizes = [gradients[name].numel() for name in names]
        found |= {name: part.view_as(gradients[name]) for name, part in zip(names, parts.split(sizes), strict=True)}
    return found


def released_masks(gradients: Masks, weight_attn: int, ratio: float, progress: float) -> Masks:
    """Masks by group from accumulated gradients [layers, units], the best unit of each layer spared."""
    scores = standardised_by_kind(gradients)
    due = removed_jointly(scores, {name: weight_attn if name.endswith("attn") else 1 for name in scores}, progress)
    low = 1 - progress / ratio
    return {
        name: torch.ones_like(values).masked_fill(spared(due[name], values), low) for name, values in scores.items()
    }


@handles("upop", "update")
def update(case: Case, stored: Tensors) -> None:
    for row in case["expected"]["cases"]:
        index, variant = row["case"], row["variant"]
        inputs = {
            name: values for name, values in stored.items() if name.startswith("in.") and name.endswith(f".{index}")
        }
        gradients = {name.removeprefix("in.").rpartition(".")[0]: values for name, values in inputs.items()}
        found = released_masks(gradients, row["weight_attn"], row["p"], row["pi"])
        for name, masks in found.items():
            assert_close(masks, stored[f"out.{name}.{index}.{variant}"], case)
        for what in ("attn", "mlp"):
            if f"below_one_{what}" in row:
                assert int((found[f"deit.{what}"] < 1).sum()) == row[f"below_one_{what}"]
