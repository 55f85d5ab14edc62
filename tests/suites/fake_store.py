"""A small store of invented runs in the format of real ones, for tests of what only reads records."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SPLITS = {"mnli": ("matched", "mismatched")}
METRICS = {
    "cola": ("matthews",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
}
TASKS = (
    "rte",
    "mrpc",
    "cola",
    "stsb",
    "mnli",
    "qqp",
    "qnli",
    "sst2",
)  # on purpose not in the order of tables
METHODS = (
    "gpp+dfd",
    "gpp(mask=hard_gradual)+dfd",
    "gpp+none",
    "gpp+dfd(teacher_fusion=off)",
    "gpp+dfd(student_fusion=off)",
    "gpp+one-to-one",
    "magnitude+dfd",
    "random+dfd",
)
MAJORITY = {"matthews": 0.0, "pearson": 0.0, "spearman": 0.0, "accuracy": 0.5, "f1": 0.6}
ENCODER_DENSE, FLOPS_DENSE = 786_432, 40_000_000
STEPS = 60


class FakeStore:
    """Builds the plan and the run folders of one suite launch, run by run."""

    def __init__(self, root: Path, suite: str = "glue_ablation", preset: str = "micro") -> None:
        self.root = root
        self.plan_file = root / "plans" / f"{suite}-{preset}.parquet"
        self.plan: list[dict[str, Any]] = []

    def add(self, task: str, method: str = "dense", sparsity: float = 0.0, seed: int = 1, **plan: Any) -> str:
        """Plan one run; returns its id."""
        run_id = f"{task}-{method}-{sparsity:g}-seed{seed}".replace("(", "-").replace(")", "")
        row = {
            "run_id": run_id,
            "task": task,
            "method": method,
            "label": method,
            "sparsity": sparsity,
            "seed": seed,
            "role": "student" if sparsity else "teacher",
            "order": len(self.plan),
            "paper": "",
            "pair": method,
            "reference": method == METHODS[0],
            "reachable": True,
            "reason": "",
        }
        self.plan.append({**row, **plan})
        return run_id

    def save_plan(self) -> Path:
        self.plan_file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(self.plan).to_parquet(self.plan_file)
        return self.plan_file

    def finish(self, run_id: str, scores: Mapping[str, Sequence[float]] | None = None, **changes: Any) -> Path:
        """Write the folder of a finished run.

        Args:
            scores: per split the values of the task's metrics; invented where absent.
            changes: fields of the record that differ; dictionaries are merged into the default ones.
        """
        row = next(row for row in self.plan if row["run_id"] == run_id)
        record = fake_record(row, scores)
        for field, value in changes.items():
            old = record.get(field)
            record[field] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        folder = self.root / run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record))
        write_history(folder, row)
        if row["method"] in METHODS[:2]:
            fake_indicators("hard" in row["method"], row["sparsity"]).to_parquet(folder / "indicators.parquet")
        (folder / "done").write_text("{}")
        return folder

    def predict(
        self, run_id: str, answers: Sequence[float], labels: Sequence[float], split: str = "validation"
    ) -> None:
        """Store predictions of a finished run on one split."""
        rows = {"split": split, "example": range(len(labels)), "label": labels, "prediction": answers}
        pd.DataFrame(rows).to_parquet(self.root / run_id / "predictions.parquet")

    def fail(self, run_id: str, reason: str, **more: str) -> None:
        folder = self.root / run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failed.json").write_text(json.dumps({"kind": "error", "reason": reason, "traceback": "..."} | more))


def fake_record(row: Mapping[str, Any], scores: Mapping[str, Sequence[float]] | None = None) -> dict[str, Any]:
    task, sparsity = row["task"], row["sparsity"]
    splits = SPLITS.get(task, ("validation",))
    metrics = METRICS.get(task, ("accuracy",))
    values = scores or {split: invented_scores(row, split, len(metrics)) for split in splits}
    named = {split: dict(zip(metrics, map(float, numbers), strict=True)) for split, numbers in values.items()}
    majority = {split: {metric: MAJORITY[metric] for metric in metrics} for split in splits}
    kept = round(ENCODER_DENSE * (1 - sparsity))
    return {
        "schema": 1,
        "run_id": row["run_id"],
        "task": task,
        "method": row["method"],
        "label": row["label"],
        "sparsity_target": sparsity,
        "seed": row["seed"],
        "role": row["role"],
        "model": "micro",
        "scores": named,
        "primary": {
            "split": splits[0],
            "metric": metrics[-1],
            "value": next(iter(named.values()))[metrics[-1]],
        },
        "majority": majority,
        "missing": {},
        "teacher": None if row["role"] == "teacher" else {"run_id": "teacher", "scores": {}},
        "size": {
            "encoder_dense": ENCODER_DENSE,
            "encoder_kept": kept,
            "sparsity": 1 - kept / ENCODER_DENSE,
            "total": kept + 100_000,
            "total_without_embeddings": kept + 10_000,
            "density": {"head": 1 - sparsity, "ffn": 1 - sparsity},
            "nonzero": kept + 100_000,
            "flops_task": round(FLOPS_DENSE * (1 - 0.9 * sparsity)),
            "flops_128": round(2 * FLOPS_DENSE * (1 - 0.9 * sparsity)),
            "flops_task_dense": FLOPS_DENSE,
            "flops_128_dense": 2 * FLOPS_DENSE,
        },
        "latency": {"batch": 32, "tokens": 32, "seconds": 0.02 - 0.01 * sparsity, "speedup": 1 + sparsity},
        "kept": {"head": [2, 2, 2, 0], "ffn": [100, 100, 50, 150]},
        "notes": fake_notes() if row["method"].endswith("+dfd") else {},
        "agreement": 1e-6,
        "binarisation": None if row["role"] == "teacher" else fake_binarisation(named),
        "data": {
            "source": "micro",
            "content": f"content of {task}",
            "rows": {"train": 800, **dict.fromkeys(splits, 400)},
            "subset": [],
            "max_train_rows": None,
        },
        "timings": {"start": 0.5, "search": 3.0, "recovery": 2.0, "total": 6.0 + sparsity},
        "steps": {"before": 0, "search": STEPS, "recovery": 40},
        "scoring_passes": 7,
        "selection": {"rule": "last", "step": 100},
        "warnings": [],
        "constant_predictions": [],
        "environment": {
            "device": "cpu: x86_64",
            "precision": "fp32",
            "threads": 1,
            "commit": "0123456789abcdef",
            "dirty": False,
        },
        "sources": "feedbeef",
        "finished": "2026-01-02T03:04:05+00:00",
        "config": {},
    }


def fake_notes() -> dict[str, float]:
    """Fusions of two layers."""
    return {
        "fusion_guard_fired": 0.0,
        "teacher_fusion[1,1]": 0.25,
        "teacher_fusion[1,2]": 0.75,
        "teacher_fusion[2,2]": 1,
    }


def invented_scores(row: Mapping[str, Any], split: str, metrics: int) -> list[float]:
    """Better methods first in METHODS, falling with sparsity, a little noise by seed; dense is best."""
    place = METHODS.index(row["method"]) if row["method"] in METHODS else 0
    text = f"{row['task']} {row['method']} {row['sparsity']} {row['seed']} {split}"
    noise = np.random.default_rng(zlib.crc32(text.encode())).normal(scale=0.006, size=metrics)
    base = 0.93 - (0.06 + 0.022 * place) * row["sparsity"] ** 2 * 3
    return list(np.clip(base + noise - 0.03 * np.arange(metrics), -1, 1))


def write_history(folder: Path, row: Mapping[str, Any]) -> None:
    steps = range(5, STEPS + 1, 5)
    entries = [
        {
            "phase": "search",
            "step": step,
            "seconds": 0.1 * step,
            "lr": 1e-4,
            "losses": {"task": 1.0, "total": 1.0},
            "sparsity": row["sparsity"] * (1 - np.cos(np.pi * step / STEPS)) / 2,
        }
        for step in steps
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def fake_binarisation(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Ten points below the final scores with soft masks, thirty below with binary ones."""
    return {
        moment: {split: {name: value - lost for name, value in found.items()} for split, found in scores.items()}
        for moment, lost in (("before", 0.1), ("after", 0.3))
    }


@cache
def fake_indicators(hard: bool, sparsity: float) -> pd.DataFrame:
    """Smooth masks drift to 0 or 1, hard ones drop at one step and may come back."""
    random = np.random.default_rng(3)
    steps = np.arange(0, STEPS + 1, 2)
    columns: dict[str, list[Any]] = {name: [] for name in ("step", "kind", "layer", "unit", "z")}
    for kind, units in (("head", 32), ("ffn", 64)):
        kept = random.permutation(units) < max(1, round(units * (1 - sparsity)))
        turns = random.uniform(0.15, 0.95, size=units)
        for unit, (keep, turn) in enumerate(zip(kept, turns, strict=True)):
            columns["step"] += steps.tolist()
            columns["kind"] += [kind] * len(steps)
            columns["layer"] += [unit % 4] * len(steps)
            columns["unit"] += [unit // 4] * len(steps)
            columns["z"] += (_hard if hard else _smooth)(steps, keep, turn).tolist()
    return pd.DataFrame(columns).astype({"z": "float32"})


def _smooth(steps: np.ndarray, kept: bool, turn: float) -> np.ndarray:
    progress = steps / STEPS
    dip = 1 - turn * np.sin(np.pi * progress) * 0.7
    return np.where(progress >= 1, float(kept), dip if kept else dip * (1 - progress**2))


def _hard(steps: np.ndarray, kept: bool, turn: float) -> np.ndarray:
    gone = (steps >= turn * STEPS) & (steps < (turn + 0.1) * STEPS if kept else True)
    return np.where(steps >= STEPS, float(kept), np.where(gone, 0.0, 1.0))


def full_store(
    root: Path,
    tasks: Iterable[str] = TASKS,
    methods: Iterable[str] = METHODS,
    sparsities: Iterable[float] = (0.8, 0.95),
    seeds: Iterable[int] = (1,),
    **changes: Any,
) -> FakeStore:
    """A whole grid with its teachers, all runs finished; `changes` as in `FakeStore.finish`."""
    store = FakeStore(root)
    axes = [(task, method, sparsity) for sparsity in sparsities for method in methods for task in tasks]
    for seed in seeds:
        for task, method, sparsity in [*((task, "dense", 0.0) for task in tasks), *axes]:
            store.finish(store.add(task, method, sparsity, seed), **changes)
    store.save_plan()
    return store
