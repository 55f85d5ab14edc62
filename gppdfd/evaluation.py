"""Predictions and scores of a model on the evaluation splits of a task."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gppdfd.tasks.base import TaskSpec
from gppdfd.tasks.encoding import Encoded, ordered_batches
from gppdfd.tasks.metrics import score
from gppdfd.views import Observed

BATCH_SIZE = 64


@dataclass(frozen=True)
class Evaluation:
    """Outputs of a model on one split, in the order of the split.

    `logits`: float32 [examples, outputs]; `predictions`: class ids or regression values [examples];
    `scores`: metric -> value.
    """

    logits: np.ndarray
    predictions: np.ndarray
    scores: dict[str, float]

    @property
    def constant(self) -> bool:
        """Whether every example got the same answer."""
        return bool(np.ptp(self.predictions) == 0)


def evaluate(
    model: nn.Module, spec: TaskSpec, splits: Mapping[str, Encoded], device: torch.device, precision: str = "fp32"
) -> dict[str, Evaluation]:
    """Run `model` over every split in evaluation mode."""
    return {name: _evaluate(model, spec, split, device, precision) for name, split in splits.items()}


def _evaluate(model: nn.Module, spec: TaskSpec, split: Encoded, device: torch.device, precision: str) -> Evaluation:
    logits = predict(model, split, device, precision)
    predictions = logits[:, 0] if spec.regression else logits.argmax(1)
    return Evaluation(logits, predictions, score(spec, predictions, split.labels.numpy()))


@torch.no_grad()
def predict(model: nn.Module, split: Encoded, device: torch.device, precision: str = "fp32") -> np.ndarray:
    """Logits [examples, outputs] in float32, in the order of the split."""
    model.eval()
    view, order = Observed(model), ordered_batches(split, BATCH_SIZE)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = torch.cat([view(split.batch(indices).to(device)).logits for indices in order]).float().cpu()
    return torch.empty_like(logits).index_copy_(0, torch.cat(order), logits).numpy()
