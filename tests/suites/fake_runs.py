"""Runs without training: settings that need no torch; an `execute` that does what the method's name says.

The method `walk` goes through steps with checkpoints; what it ends with tells whether a step was lost or done twice.
"""

import atexit
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from pydantic import BaseModel, ConfigDict

from gppdfd.errors import DataError, UsageError
from gppdfd.files import canonical_json, hash_text, write_json
from suites.checkpoints import Checkpoints
from suites.sources import sources_hash
from suites.store import Progress


class TrainingConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = 1e-3
    epochs: int = 1


class DataConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    rows: int = 0


class RunConfig(BaseModel):
    """Stands for `suites.config.RunConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    method: str
    sparsity: float
    seed: int
    model: str
    model_content: str | None
    data: DataConfig
    data_content: str
    training: TrainingConfig
    teacher: TrainingConfig
    precision: str
    threads: int
    select: str
    count: str
    protocol: str

    @property
    def pair(self) -> str:
        return self.method

    @property
    def is_teacher(self) -> bool:
        return self.method == "dense"

    @property
    def run_id(self) -> str:
        digest = hash_text(canonical_json(self.model_dump(mode="json")))[:10]
        method = self.method.replace("+", "-").replace("(", "-").replace(")", "")
        return f"{self.task}-{method}-{self.sparsity:g}-seed{self.seed}-{digest}"

    @property
    def settings(self) -> TrainingConfig:
        return self.teacher if self.is_teacher else self.training

    def teacher_config(self) -> "RunConfig | None":
        if self.is_teacher or self.method.endswith("+none"):
            return None
        return self.model_copy(update={"method": "dense", "sparsity": 0.0, "training": TrainingConfig()})


@dataclass(frozen=True)
class Inputs:
    """Stands for `suites.config.Inputs`: the method `far` reaches no target."""

    model: str | None
    data: dict[str, str]

    def steps(self, run: RunConfig) -> dict[str, int]:
        if run.settings.epochs == 0:
            raise UsageError("training has no steps")
        return {"recovery": 10 * run.settings.epochs}

    def unreachable(self, run: RunConfig) -> str | None:
        return "too far" if run.method.startswith("far") else None


def method_training(method: str) -> dict[str, Any]:
    """The method `slow` brings a learning rate along."""
    return {"lr": 1e-6} if method.startswith("slow") else {}


def read_inputs(model: str, data: DataConfig, tasks: Sequence[str], data_dir: Path | None) -> Inputs:
    return Inputs("hash", dict.fromkeys(tasks, "hash"))


def stand_in() -> ModuleType:
    """A module to be found as `suites.config`."""
    module = ModuleType("suites.config")
    module.RunConfig = RunConfig  # type: ignore[attr-defined]
    module.DataConfig = DataConfig  # type: ignore[attr-defined]
    module.TrainingConfig = TrainingConfig  # type: ignore[attr-defined]
    module.method_training = method_training  # type: ignore[attr-defined]
    module.read_inputs = read_inputs  # type: ignore[attr-defined]
    return module


def execute(
    config: RunConfig,
    folder: Path,
    store_root: Path,
    data_dir: Path | None,
    report: Callable[[Progress], None],
    checkpoints: Checkpoints,
) -> None:
    """Write a record; fail, die or take long where the method says so, or a file `fail-TASK` in the store."""
    print(f"printed by {config.run_id}")
    report(Progress("search", 1, 2))
    act = re.split(r"[+(]", config.method)[0]
    walked = walk(config.run_id, report, checkpoints) if act == "walk" else Walk(value=config.run_id)
    if act == "fail" or (config.is_teacher and (store_root / f"fail-{config.task}").exists()):
        raise DataError(f"{config.task} cannot be learnt")
    if act == "spoil":
        pretend_gpu()
        raise DataError("the GPU is spoilt")
    if act == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if act == "die":
        os._exit(7)
    if act in ("slow", "brief"):
        time.sleep(60 if act == "slow" else 1)
    teacher = config.teacher_config()
    if teacher and not (store_root / teacher.run_id / "done").exists():
        raise DataError("started before its teacher was done")
    more = {"process": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"], "resumed": walked.resumed}
    write_json(folder / "record.json", {**fake_record(config, walked.value), **more, "sources": sources_hash()})


def pretend_gpu() -> None:
    """Make this process one that uses a GPU, which takes its time to end."""
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_initialized=lambda: True)  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    atexit.register(time.sleep, 0.5)


class Walk(BaseModel):
    """A walk after `step` steps."""

    value: str
    step: int = 0
    resumed: int = 0


def walk(start: str, report: Callable[[Progress], None], checkpoints: Checkpoints) -> Walk:
    """Hash a text again and again, from the checkpoint if there is one."""
    path = checkpoints.folder / "state.json"
    now = Walk(value=start)
    if path.exists():
        now = Walk.model_validate_json(path.read_text())
        now.resumed += 1
    steps = int(os.environ.get("WALK_STEPS", "20"))
    with checkpoints.steps():
        print("begins")
        sys.stdout.flush()
        while now.step < steps:
            time.sleep(float(os.environ.get("WALK_SECONDS", "0.02")))
            now.value, now.step = hash_text(now.value), now.step + 1
            report(Progress("search", now.step, steps))
            if checkpoints.due(last=now.step == steps):
                checkpoints.save(lambda folder: write_json(folder / path.name, now.model_dump()))
    return now


def fake_record(config: RunConfig, value: str) -> dict[str, Any]:
    """A record that tables can be made from; its score stands for the whole walk."""
    metrics = {"mrpc": ("accuracy", "f1"), "stsb": ("pearson", "spearman")}[config.task]
    score = int(hash_text(value)[:6], 16) / 16**6
    scores = {"validation": dict.fromkeys(metrics, score)}
    return {
        "schema": 1,
        "run_id": config.run_id,
        "task": config.task,
        "method": config.method,
        "label": config.method,
        "sparsity_target": config.sparsity,
        "seed": config.seed,
        "role": "teacher" if config.is_teacher else "student",
        "model": config.model,
        "scores": scores,
        "primary": {"split": "validation", "metric": metrics[-1], "value": score},
        "majority": {"validation": dict.fromkeys(metrics, 0.0)},
        "size": {
            "encoder_dense": 1000,
            "encoder_kept": round(1000 * (1 - config.sparsity)),
            "sparsity": config.sparsity,
            "flops_task": 10,
        },
        "data": {"source": "micro", "content": "hash"},
        "selection": {"rule": "last", "step": 20},
        "sources": sources_hash(),
        "finished": "2026-01-02T03:04:05+00:00",
    }


def execute_probe(
    config: RunConfig,
    folder: Path,
    store_root: Path,
    data_dir: Path | None,
    report: Callable[[Progress], None],
    *more: object,
) -> None:
    """A probe that says a run takes 100 s, and a dense one 40 s."""
    if config.method.startswith("fail"):
        raise DataError(f"{config.task} cannot be learnt")
    write_json(folder / "record.json", {"role": "teacher" if config.is_teacher else "student"})
    seconds = 40.0 if config.is_teacher else 100.0
    write_json(folder / "probe.json", {"seconds": seconds, "sources": sources_hash()})


# Worker processes load this module for `execute`, so that they find these settings and not the real ones.
sys.modules["suites.config"] = stand_in()

if __name__ == "__main__":
    from suites.run import main

    sys.exit(main())
