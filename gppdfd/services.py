"""What the training loop does for pruners and distillers beside its steps: `gppdfd.interface.Loop`.

A pruner that scores units over the training set, or a distiller that compares with encodings of it, asks here and sees
neither the model nor the data.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from gppdfd.errors import UsageError
from gppdfd.structure import Masks
from gppdfd.tasks.encoding import ordered_batches
from gppdfd.views import View, Viewer

if TYPE_CHECKING:
    from gppdfd.training import Trainer

BATCH_SIZE = 64
"""Examples encoded at once."""


class Services:
    """Services of one training run; `passes` counts the forward-backward passes that scoring took."""

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self.passes = 0

    @property
    def examples(self) -> int:
        return len(self._trainer.train)

    @property
    def labels(self) -> torch.Tensor:
        return self._trainer.train.labels.to(self._trainer.device)

    @property
    def batches(self) -> int:
        return math.ceil(self.examples / self._trainer.config.batch_size)

    def mask_gradients(self, masks: Masks, parts: frozenset[str], batches: int | None = None) -> Iterator[Masks]:
        """As in `Loop`."""
        trainer = self._trainer
        order = _spread(ordered_batches(trainer.train, trainer.config.batch_size), batches)
        with self._as_scored():
            for indices in order:
                leaves = {kind: values.detach().clone().requires_grad_() for kind, values in masks.items()}
                trainer.encoder.masks = leaves
                found = trainer.loss_parts(trainer.view, trainer.train.batch(indices).to(trainer.device), leaves)
                wanted = [loss for part, loss in trainer.weighted(found).items() if part in parts]
                self.passes += 1
                gradients = torch.autograd.grad(torch.stack(wanted).sum(), list(leaves.values()))
                yield dict(zip(leaves, gradients, strict=True))

    def encodings(
        self, read: Callable[[View], torch.Tensor], who: Literal["student", "teacher"], training_mode: bool = False
    ) -> torch.Tensor:
        """As in `Loop`.

        Raises:
            UsageError: the teacher's are asked for and there is none.
        """
        trainer = self._trainer
        if who == "student":
            with self._as_scored(training_mode=True) if training_mode else self.as_evaluated():
                return self._encoded(trainer.view, read)
        if trainer.teacher is None:
            raise UsageError(f"distiller {type(trainer.distiller).__name__} needs a teacher")
        return self._encoded(trainer.teacher, read)

    @contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """The student in evaluation mode, under the masks that its pruner evaluates it with."""
        encoder = self._trainer.encoder
        with self._as_scored():
            if encoder.masks is not None:
                encoder.masks = self._trainer.pruner.evaluation_masks() or encoder.masks
            yield

    @torch.no_grad()
    def _encoded(self, view: Viewer, read: Callable[[View], torch.Tensor]) -> torch.Tensor:
        trainer, order = self._trainer, ordered_batches(self._trainer.train, BATCH_SIZE)
        found: list[torch.Tensor] = []
        for indices in order:
            with trainer.autocast():
                found.append(read(view(trainer.train.batch(indices).to(trainer.device))))
        rows = torch.cat(found)
        return torch.empty_like(rows).index_copy_(0, torch.cat(order).to(rows.device), rows)

    @contextmanager
    def _as_scored(self, training_mode: bool = False) -> Iterator[None]:
        """The student in evaluation mode, unless told otherwise; its masks and mode come back afterwards."""
        encoder, model = self._trainer.encoder, self._trainer.model
        masks, training = encoder.masks, model.training
        model.train(training_mode)
        try:
            yield
        finally:
            encoder.masks = masks
            model.train(training)


def _spread(batches: list[torch.Tensor], count: int | None) -> list[torch.Tensor]:
    """`count` of the batches, evenly spaced, or all."""
    if count is None or count >= len(batches):
        return batches
    return [batches[index * len(batches) // count] for index in range(count)]
