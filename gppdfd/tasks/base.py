"""What a task is: its text columns, labels, metrics and splits; and the batches that training sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class TaskSpec:
    """A sentence or sentence-pair task with one label per example.

    Attributes:
        name: short lower-case name, such as `mrpc`.
        columns: one or two text columns.
        labels: class names in label order; empty for regression.
        metrics: names of the scores, in printing order.
        primary: the metric used for selection and as the one number of a table cell.
        floor: a teacher that scores less than this (0 to 1, primary metric) is refused as mislabelled or untrained.
        label_range: lowest and highest legal value of a regression label.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    primary: str
    floor: float
    label_range: tuple[float, float] = (0.0, 5.0)

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def outputs(self) -> int:
        """Width of the classifier: number of classes, 1 for regression."""
        return len(self.labels) or 1


@dataclass(frozen=True)
class Split:
    """Rows of one split: texts per column, labels (int64 classes or float32 values), row ids of the source."""

    texts: tuple[list[str], ...]
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TaskData:
    """Everything a run needs to know about its data.

    Attributes:
        evaluations: splits with official labels, the first one is the selection split
            (`{"validation": ...}`, for MNLI `{"matched": ..., "mismatched": ...}`).
        missing: evaluation splits that the source does not have, with the reason.
        subset: names of splits that hold only part of the official rows.
        content: sha256 of all rows in use.
        source: where the rows come from, in words (`micro`, a folder's name, a hub name).
    """

    spec: TaskSpec
    train: Split
    evaluations: Mapping[str, Split]
    content: str
    source: str
    missing: Mapping[str, str] = field(default_factory=dict)
    subset: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Padded examples.

    `input_ids`, `attention_mask`, `token_type_ids`: int64 [batch, tokens]; `labels`: int64 or float32 [batch];
    `examples`: int64 [batch], position of each example in its split.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    labels: torch.Tensor
    examples: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def __len__(self) -> int:
        return len(self.labels)
