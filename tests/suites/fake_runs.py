"""Runs without training: settings that need no torch; an `execute` that does what the method's name says."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ConfigDict

from gppdfd.errors import DataError
from gppdfd.files import canonical_json, hash_text, write_json
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

    def teacher_config(self) -> "RunConfig | None":
        if self.is_teacher or self.method.endswith("+none"):
            return None
        return self.model_copy(update={"method": "dense", "sparsity": 0.0, "training": TrainingConfig()})


@dataclass(frozen=True)
class Inputs:
    """Stands for `suites.config.Inputs`: the method `far` reaches no target."""

    model: str | None
    data: dict[str, str]

    def unreachable(self, run: RunConfig) -> str | None:
        return "too far" if run.method.startswith("far") else None


def read_inputs(model: str, data: DataConfig, tasks: Sequence[str], data_dir: Path | None) -> Inputs:
    return Inputs("hash", dict.fromkeys(tasks, "hash"))


def stand_in() -> ModuleType:
    """A module to be found as `suites.config`."""
    module = ModuleType("suites.config")
    module.RunConfig = RunConfig  # type: ignore[attr-defined]
    module.DataConfig = DataConfig  # type: ignore[attr-defined]
    module.read_inputs = read_inputs  # type: ignore[attr-defined]
    return module


def execute(
    config: RunConfig,
    folder: Path,
    store_root: Path,
    data_dir: Path | None,
    report: Callable[[Progress], None],
) -> None:
    """Write a record; fail, die or take long where the method says so, or a file `fail-TASK` in the store."""
    print(f"printed by {config.run_id}")
    report(Progress("search", 1, 2))
    act = config.method.partition("+")[0]
    if act == "fail" or (config.is_teacher and (store_root / f"fail-{config.task}").exists()):
        raise DataError(f"{config.task} cannot be learnt")
    if act == "die":
        os._exit(7)
    if act in ("slow", "brief"):
        time.sleep(60 if act == "slow" else 1)
    teacher = config.teacher_config()
    if teacher and not (store_root / teacher.run_id / "done").exists():
        raise DataError("started before its teacher was done")
    record = {"run_id": config.run_id, "process": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
    write_json(folder / "record.json", record)


# Worker processes load this module for `execute`, so that they find these settings and not the real ones.
sys.modules["suites.config"] = stand_in()

if __name__ == "__main__":
    from suites.run import main

    sys.exit(main())
