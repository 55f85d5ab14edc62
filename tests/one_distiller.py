"""One distiller on one batch, with a tiny student under a keep and a tiny teacher."""

from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from gppdfd.budget import Target
from gppdfd.interface import Distiller, Losses, parse_method, pruners
from gppdfd.masks import masked
from gppdfd.settings import TrainingConfig
from gppdfd.structure import Keep
from gppdfd.tasks.base import Batch
from gppdfd.training import Trainer
from gppdfd.views import Observed, View
from tests.tiny import tiny_data, tiny_model


def begun(spec: str, labels: int = 3, model_type: str = "bert") -> Distiller:
    """A distiller at the start of a run, from the text that names it with its options."""
    distiller = parse_method(f"none+{spec}").build()[1]
    student, teacher = tiny_model(model_type, labels), tiny_model(model_type, labels, seed=9)
    config = TrainingConfig(recovery_epochs=1)
    Trainer(
        student,
        pruners()["none"](),
        distiller,
        tiny_data(labels=labels),
        config,
        teacher=teacher,
        target=Target(0.0),
        regression=labels == 1,
    ).begin()
    return distiller


def losses_on(
    distiller: Distiller, student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, keep: Keep | None = None
) -> Losses:
    """Loss parts of a student, masked by a keep if there is one; the two models are two objects."""
    masks = None if keep is None else {kind: units.to(student.dtype) for kind, units in keep.items()}
    with torch.no_grad():
        target = seen(teacher, distiller, batch)
    with masked(student, masks) if masks else nullcontext():
        return distiller.losses(seen(student, distiller, batch), target, batch, masks)


def seen(model: PreTrainedModel, distiller: Distiller, batch: Batch) -> View:
    """What a distiller sees of a model."""
    view = Observed(model, distiller.needs)
    try:
        return view(batch)
    finally:
        view.remove()


def pair(labels: int = 3, model_type: str = "bert") -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher in float64, in evaluation mode."""
    made = [tiny_model(model_type, labels, seed=seed).double().eval() for seed in (0, 9)]
    return made[0], made[1]


def six_examples(labels: int = 3) -> Batch:
    """A batch of sequences of different lengths."""
    return tiny_data(labels=labels).batch(torch.arange(6))
