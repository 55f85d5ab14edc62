"""One run: its frozen, validated settings, and the id that follows from all that decides its result."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gppdfd.budget import Count, Target
from gppdfd.files import canonical_json, hash_text
from gppdfd.interface import Method, named_methods, parse_method
from gppdfd.models import load_structure, model_content
from gppdfd.settings import Precision, TrainingConfig, plan_phases
from gppdfd.structure import Structure
from gppdfd.tasks import load_task, task_spec
from suites.suite import DENSE

SCHEMA = 1
"""Version of run ids and records; raised when old records can no longer be compared with new ones."""

SLUG_LENGTH = 150
"""Characters of a method in a run id, which names a folder: file systems take names of 255 bytes."""

Protocol = Literal["equal_budget", "paper"]


class DataConfig(BaseModel):
    """Where the examples come from and how much of them is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["micro", "glue"] = "glue"
    max_length: int = Field(128, ge=4)
    max_train_rows: int | None = Field(None, ge=1)


class RunConfig(BaseModel):
    """(method, model, task, target, seed) and every setting that decides the result.

    `model_content` and `data_content` are hashes of local files; paths, devices and workers are no part of a run.
    `protocol` says where the training settings come from; they decide the result, so it is no part of the id itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    method: str
    sparsity: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(1, ge=0)
    model: str
    model_content: str | None = None
    data: DataConfig = DataConfig()
    data_content: str | None = None
    training: TrainingConfig = TrainingConfig()
    teacher: TrainingConfig = TrainingConfig()
    precision: Precision = "fp32"
    threads: int = Field(1, ge=1)
    select: Literal["last", "best_dev"] = "last"
    count: Count = "to_target"
    protocol: Protocol = "equal_budget"

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        return task_spec(name).name

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        return parse_method(name).spec

    @property
    def parsed(self) -> Method:
        """The method itself."""
        return parse_method(self.method)

    @property
    def pair(self) -> str:
        """The method as `pruner+distiller`, also where it has a name of its own."""
        named = named_methods().get(self.method)
        return named.spec if named else self.method

    @property
    def is_teacher(self) -> bool:
        """Whether this run is plain fine-tuning of the dense model, with the teacher's settings."""
        return self.parsed.teacher

    @property
    def settings(self) -> TrainingConfig:
        """Training settings in force: the teacher's or the student's."""
        return self.teacher if self.is_teacher else self.training

    @property
    def target(self) -> Target:
        return Target(self.sparsity, self.count)

    def teacher_config(self) -> "RunConfig | None":
        """The run that trains this student's teacher, or None if it needs none."""
        needs = self.parsed.distiller(self.parsed.distiller_config).needs
        if self.is_teacher or ("teacher" not in needs and self.settings.init != "teacher"):
            return None
        return self.model_copy(update={"method": DENSE, "sparsity": 0.0, "training": TrainingConfig()})

    def identity(self) -> dict[str, Any]:
        """All that decides the result, and nothing else: what the run id is hashed from."""
        teacher = self.teacher_config()
        return {
            "schema": SCHEMA,
            "task": self.task,
            "method": self.parsed.identity(),
            "target": [self.sparsity, self.count],
            "seed": self.seed,
            "model": self.model_content or self.model,
            "data": self.data.model_dump(exclude_defaults=True),
            "data_content": self.data_content,
            "training": self.settings.model_dump(exclude_defaults=True),
            "teacher": teacher.run_id if teacher else None,
            "precision": self.precision,
            "threads": self.threads,
            "select": self.select,
        }

    @property
    def run_id(self) -> str:
        """Readable slug and ten hexadecimal digits."""
        sparsity = f"-{self.sparsity:g}" if self.sparsity else ""
        method = re.sub(r"[^a-z0-9]+", "-", self.method)[:SLUG_LENGTH].strip("-")
        digest = hash_text(canonical_json(self.identity()))[:10]
        return f"{self.task}-{method}{sparsity}-seed{self.seed}-{digest}"


@dataclass(frozen=True)
class Inputs:
    """Model and data of a launch, read and checked before anything starts.

    Attributes:
        model: content hash of a local model's files; None for a name on the hub.
        data: by task, content hash of the rows in use.
        rows: by task, number of training examples.
        structure: units of the model.
    """

    model: str | None
    data: Mapping[str, str]
    rows: Mapping[str, int]
    structure: Structure

    def unreachable(self, run: RunConfig) -> str | None:
        """Why a run's method cannot meet its target on this model, or None."""
        pruner, _ = run.parsed.build()
        return pruner.unreachable(self.structure, run.target)

    def steps(self, run: RunConfig) -> dict[str, int]:
        """Optimiser steps of each phase of a run.

        Raises:
            UsageError: its settings leave the pruner no search, or nothing to train at all.
        """
        pruner, _ = run.parsed.build()
        scoring = pruner.scoring_epochs(self.structure, run.target, run.settings.search_epochs)
        return vars(plan_phases(run.settings, self.rows[run.task], pruner.searches, scoring))


def method_training(method: str) -> Mapping[str, Any]:
    """Training settings that a named method brings along."""
    return parse_method(method).training


def read_inputs(model: str, data: DataConfig, tasks: Sequence[str], data_dir: Path | None) -> Inputs:
    """Read what runs on `model` and `tasks` need.

    Raises:
        UsageError: the model is no supported encoder, or a task is unknown.
        DataError: model or data are missing or damaged.
    """
    content, structure = model_content(model), load_structure(model)
    read = {task: load_task(task, data.source, data_dir, data.max_train_rows) for task in tasks}
    contents = {task: each.content for task, each in read.items()}
    return Inputs(content, contents, {task: len(each.train) for task, each in read.items()}, structure)
