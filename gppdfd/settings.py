"""Settings of a training run, and how many steps each of its phases has."""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gppdfd.errors import UsageError

Precision = Literal["fp32", "bf16"]
Decay = Literal["linear", "constant"]


class TrainingConfig(BaseModel):
    """Settings of one training run; the defaults are those of GPP+DFD's released script.

    Epochs may be fractions. `warmup` is the share of a schedule's steps. `before_share` is the part of the search
    epochs that goes without masks, for methods that begin so; `before_epochs` come on top. `at_extraction=None` leaves
    it to the pruner.
    `carry_weight_grads` and `task_forward=separate` are what the released code does. `cache_teacher` computes the
    teacher's outputs once per training set instead of once per step, in exchange for memory. `recovery_learning_rate`
    and `recovery_decay` are for methods that end with a schedule of its own; None: as in the search.
    `freeze_embeddings` leaves the embeddings as they are. The passes over the training set that a pruner makes only to
    score units are taken off its search, so that all methods have equally many forward-backward passes;
    `scoring=extra` adds them instead, as papers do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    decay: Decay = "linear"
    flooding: float = Field(0.01, ge=0)
    before_epochs: float = Field(0.0, ge=0)
    before_share: float = Field(0.0, ge=0, lt=1)
    search_epochs: float = Field(20.0, ge=0)
    recovery_epochs: float = Field(12.0, ge=0)
    recovery_learning_rate: float | None = Field(None, gt=0)
    recovery_decay: Decay | None = None
    freeze_embeddings: bool = False
    scoring: Literal["within", "extra"] = "within"
    init: Literal["pretrained", "teacher", "random"] = "pretrained"
    at_extraction: Literal["restart", "continue"] | None = None
    cache_teacher: bool = False
    carry_weight_grads: bool = False
    task_forward: Literal["shared", "separate"] = "shared"


@dataclass(frozen=True)
class Phases:
    """Optimiser steps of each phase."""

    before: int
    search: int
    recovery: int

    @property
    def total(self) -> int:
        return self.before + self.search + self.recovery


def plan_phases(config: TrainingConfig, examples: int, searches: bool, scoring_epochs: float = 0.0) -> Phases:
    """Steps of each phase for a training set of `examples` rows.

    Raises:
        UsageError: a pruner that searches was given no search step, or nothing would be trained at all.
    """
    per_epoch = math.ceil(examples / config.batch_size)
    searching = config.search_epochs - (scoring_epochs if config.scoring == "within" else 0.0)
    if searches and searching <= 0 < config.search_epochs:
        raise UsageError(
            f"scoring units takes {scoring_epochs:g} of {config.search_epochs:g} search epochs and leaves none: "
            "raise search_epochs, score fewer examples, or set training.scoring to extra"
        )
    before = round((config.before_epochs + config.before_share * searching) * per_epoch)
    # What is rounded off one phase goes to the next, so that sharing the search out changes no number of steps.
    search = round((config.before_epochs + searching) * per_epoch) - before
    recovery = round(config.recovery_epochs * per_epoch)
    if before + search + recovery == 0:
        raise UsageError("training has no steps: raise search_epochs or recovery_epochs")
    if not searches:
        return Phases(0, 0, before + search + recovery)
    if search == 0:
        raise UsageError("this pruner needs a search: set training.search_epochs above 0")
    return Phases(before, search, recovery)


def recovery_settings(config: TrainingConfig) -> TrainingConfig:
    """Settings with the learning rate and decay that the recovery has of its own, if any."""
    own = {"learning_rate": config.recovery_learning_rate, "decay": config.recovery_decay}
    return config.model_copy(update={name: value for name, value in own.items() if value is not None})
