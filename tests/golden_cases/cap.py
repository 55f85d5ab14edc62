"""CAP: contrastive loss and first-order pruning; its movement scores are those of `movement.py`."""

import itertools
from typing import Any

import torch

from baselines.cap import normalised, protected, pruned_to, summed_sizes, unit_count
from baselines.contrastive import (
    Contrastive,
    ContrastiveConfig,
    candidates,
    log_probabilities,
    positives,
    positives_loss,
    representation,
)
from gppdfd.distilling import soft_labels
from gppdfd.interface import Distiller, Setting
from gppdfd.masks import masked
from gppdfd.structure import Masks, Structure
from gppdfd.tasks.base import Batch
from gppdfd.training import task_loss
from gppdfd.views import Observed, View
from tests.golden_cases import Case, Tensors, handles
from tests.golden_cases.gpp import assert_masks, leaves, masks_of, ones_for
from tests.golden_data import assert_close, batch, model

EVERYTHING = frozenset({"hidden_states", "sentence"})
HOW = {"cls": "sentence", "mean-pooling": "mean_pooling"}


def stored_view(case: Case, stored: Tensors) -> tuple[View, torch.Tensor]:
    """A view with the stored anchors, and the leaf that gradients are taken of."""
    leaf = stored["in.anchor" if "in.anchor" in stored else "in.all_output"].clone().requires_grad_()
    mask = stored.get("in.attention_mask")
    return View(logits=leaf, hidden_states=(leaf,), attention_mask=mask, sentence=leaf), leaf  # type: ignore[arg-type]


@handles("cap", "contrastive")
def contrastive(case: Case, stored: Tensors) -> None:
    inputs, expected = case["inputs"], case["expected"]
    view, leaf = stored_view(case, stored)
    anchors = representation(view, HOW[inputs["align"]])
    found = candidates(anchors, stored["in.idx"], stored["in.bank"], stored["in.extra_idx"])
    logs = log_probabilities(anchors, found, inputs["tau"])
    shared = {"unsup": torch.arange(len(stored["in.bank"])), "sup": stored["in.labels_bank"]}
    agreeing = {part: positives(values, stored["in.idx"], found) for part, values in shared.items()}
    for normalisation in ("released", "per_anchor"):
        losses = {part: positives_loss(logs, same, normalisation) for part, same in agreeing.items()}
        losses["weighted"] = inputs["lambda_unsup"] * losses["unsup"] + inputs["lambda_sup"] * losses["sup"]
        for part, loss in losses.items():
            assert_close(loss.detach(), expected[f"{normalisation}.{part}"], case)
            if f"out.grad.{normalisation}.{part}" in stored:
                (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
                assert_close(gradient, stored[f"out.grad.{normalisation}.{part}"], case)
    for part, same in agreeing.items():
        assert same.sum(-1).tolist() == expected[f"positives.{part}"]
    assert expected["released.unsup_qa"] == expected["released.unsup"]


@handles("cap", "representations")
def representations(case: Case, stored: Tensors) -> None:
    with torch.no_grad():
        view = Observed(model(case["inputs"]["model"]), EVERYTHING)(batch(case["inputs"]["batch"]))
    ours = {
        "classification.cls": "sentence",
        "qa.cls": "first_token",
        "classification.mean-pooling": "mean_pooling",
        "qa.mean-pooling": "mean_pooling",
    }
    for name, how in ours.items():
        assert_close(representation(view, how), stored[f"out.{name}"], case)


@handles("cap", "masked_logits")
def masked_logits(case: Case, stored: Tensors) -> None:
    net = model(case["inputs"]["model"])
    for variant in case["inputs"]["variants"]:
        with masked(net, masks_of(stored, f"in.{variant}.{{}}")), torch.no_grad():
            assert_close(Observed(net)(batch(case["inputs"]["batch"])).logits, stored[f"out.{variant}.logits"], case)


class StoredLoop:
    """Loop services of a golden case: its labels, and encodings that its banks replace."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels, self.examples = labels, len(labels)

    def encodings(self, *_: Any) -> torch.Tensor:
        return torch.zeros(self.examples, 1)


def stored_distiller(config: ContrastiveConfig, stored: Tensors) -> Distiller:
    """A distiller with the stored banks and draws."""
    distiller = Contrastive(config)
    loop: Any = StoredLoop(stored["in.labels_bank"])
    structure = Structure(layers=3, hidden=32, heads=4, head_size=8, intermediate=40)
    linear: Any = torch.nn.Linear(1, 1)
    distiller.begin(Setting(linear, structure, None, 1, torch.Generator(), loop=loop))  # type: ignore[arg-type]
    names = {"prc": "pretrained", "snc": "snapshots", "fic": "finetuned"}
    for module, name in names.items():
        distiller._banks[module].dtype = torch.float64
        bank = stored[f"in.bank.{name}"]
        distiller._banks[module].load_state_dict({"entries": bank, "added": bank.shape[1]})
    draws = iter([stored[f"in.extra_idx.{name}"] for name in names.values()])
    distiller._draw = lambda models: next(draws)
    return distiller


@handles("cap", "total_loss")
def total_loss(case: Case, stored: Tensors) -> None:
    inputs, expected = case["inputs"], case["expected"]
    data = batch(inputs["batch"])
    data = Batch(data.input_ids, data.attention_mask, data.token_type_ids, data.labels, stored["in.idx"])
    student, teacher = model(inputs["student"]), model(inputs["teacher"])
    with torch.no_grad():
        target = Observed(teacher)(data)

    def total(masks: Masks, temperature: float) -> torch.Tensor:
        weights = {"unsupervised_weight": inputs["lambda_unsup"], "supervised_weight": inputs["lambda_sup"]}
        config = ContrastiveConfig(normalisation="released", temperature=temperature, tau=inputs["tau"], **weights)
        distiller = stored_distiller(config, stored)
        with masked(student, masks):
            view = Observed(student, frozenset({"sentence"}))(data)
        parts = distiller.losses(view, target, data, None)
        parts["task"] = task_loss(view.logits, data.labels, regression=False)
        return torch.stack([distiller.weight(part) * loss for part, loss in parts.items()]).sum()

    for temperature in (1, 2):
        assert_close(total(ones_for(case), temperature).detach(), expected[f"total.T{temperature}"], case)
    masks = leaves(masks_of(stored, "in.mask.{}"))
    value = total(masks, 1)
    assert_close(value.detach(), expected["total.T1.real_masks"], case)
    found = torch.autograd.grad(value, list(masks.values()))
    assert_masks(dict(zip(masks, found, strict=True)), stored, "out.grad.{}", case)


def scored_batches(case: Case, size: int) -> list[Batch]:
    """The stored batches as one, cut anew."""
    fields = [tuple(vars(batch(index)).values()) for index in case["inputs"]["batches"]]
    columns = [torch.cat(column) for column in zip(*fields, strict=True)]
    return [Batch(*(column[start : start + size] for column in columns)) for start in range(0, len(columns[0]), size)]


@handles("cap", "importance")
def importance(case: Case, stored: Tensors) -> None:
    """Released norms are over all units, gone ones too."""
    student, teacher = model(case["inputs"]["student"]), model(case["inputs"]["teacher"])
    for variant, size in case["inputs"]["batch_size"].items():
        values = masks_of(stored, "in.mask.{}") if variant.startswith("masked") else ones_for(case)
        ce, kd = (0.1, 0.9) if "kd" in variant else (1.0, 0.0)
        gradients = []
        for data in scored_batches(case, size):
            masks = leaves(values)
            with torch.no_grad():
                target = Observed(teacher)(data).logits
            with masked(student, masks):
                logits = Observed(student)(data).logits
            loss = ce * task_loss(logits, data.labels, regression=False)
            loss = loss + kd * soft_labels(logits, target, 1.0, regression=False)
            found = torch.autograd.grad(loss, list(masks.values()))
            gradients.append(dict(zip(masks, found, strict=True)))
        scores = summed_sizes(gradients)
        assert_masks(scores, stored, f"out.{variant}.raw.{{}}", case)
        whole = {kind: normalised(values) for kind, values in scores.items()}
        assert_masks(whole, stored, f"out.{variant}.normalised.{{}}", case)


@handles("cap", "pruning_sequence")
def pruning_sequence(case: Case, stored: Tensors) -> None:
    for row in case["expected"]["cases"]:
        shares = [percent / 100 for percent in row["percents"]]
        for key, units in (("heads_to_prune", row["heads"]), ("intermediate_to_prune", row["intermediate"])):
            counts = [0, *(unit_count(share, row["layers"] * units) for share in shares)]
            assert [after - before for before, after in itertools.pairwise(counts)] == row[key]
    # The released code stops here; ours takes what the floor leaves.
    left = pruned_to(torch.rand(3, 4), torch.ones(3, 4, dtype=torch.bool), unit_count(0.9, 12), "live")
    assert left.sum(-1).tolist() == [1, 1, 1]


@handles("cap", "what_to_prune")
def what_to_prune(case: Case, stored: Tensors) -> None:
    floors = {"official.head": "released", "official.head_no_floor": "none", "corrected.head": "live"}
    for index, row in enumerate(case["expected"]["cases"]):
        scores, alive = stored[f"in.importance.head.{index}"], stored[f"in.mask.head.{index}"] > 0
        for name, floor in floors.items():
            left = pruned_to(scores, alive, int((~alive).sum()) + row["n_heads"], floor)
            assert_close(left, stored[f"out.{name}.{index}"], case)
            if name == "official.head":
                assert int((~left.any(-1)).sum()) == row["empty_layers_official"]
        assert bool((protected(scores, alive, "live") & alive).any(-1).eq(alive.any(-1)).all())
        scores, alive = stored[f"in.importance.int.{index}"], stored[f"in.mask.int.{index}"] > 0
        left = pruned_to(scores, alive, int((~alive).sum()) + row["n_int"])
        assert_close(left, stored[f"out.official.int.{index}"], case)
