"""The eight GLUE tasks (https://gluebenchmark.com): what they are, and how to load them."""

import os
from pathlib import Path

from gppdfd.errors import DataError, unknown
from gppdfd.tasks.base import TaskData, TaskSpec
from gppdfd.tasks.rows import content_of, sample_train, to_split
from gppdfd.tasks.sources import Found, Source, open_source

_SENTENCE = ("sentence",)
_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")

# The last column is the floor: under every sensibly trained teacher (a small encoder on a few thousand rows
# included) and over one whose labels are in another order. Always saying yes has F1 0.81 on MRPC, so there it
# separates less.
_SPECS = (
    TaskSpec("cola", _SENTENCE, ("unacceptable", "acceptable"), ("matthews",), "matthews", 0.1),
    TaskSpec("sst2", _SENTENCE, ("negative", "positive"), ("accuracy",), "accuracy", 0.6),
    TaskSpec("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1"), "f1", 0.7),
    TaskSpec("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1"), "f1", 0.5),
    TaskSpec("stsb", _PAIR, (), ("pearson", "spearman"), "spearman", 0.5),
    TaskSpec("mnli", ("premise", "hypothesis"), _NLI, ("accuracy",), "accuracy", 0.4),
    TaskSpec("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",), "accuracy", 0.55),
    TaskSpec("rte", _PAIR, _ENTAILMENT, ("accuracy",), "accuracy", 0.45),
)
GLUE: dict[str, TaskSpec] = {spec.name: spec for spec in _SPECS}

# Evaluation splits, by our name -> official name. The first one selects, so it has to be there.
_MNLI_EVALUATIONS = {"matched": "validation_matched", "mismatched": "validation_mismatched"}
_EVALUATIONS = {"validation": "validation"}


def task_spec(name: str) -> TaskSpec:
    """The task called `name`; `UsageError` with near names when there is none."""
    if name not in GLUE:
        raise unknown("task", name, GLUE)
    return GLUE[name]


def load(name: str, data_dir: Path | None = None, max_train_rows: int | None = None, seed: int = 0) -> TaskData:
    """Rows of a GLUE task from a folder, else from the hub data set `nyu-mll/glue`.

    The folder holds `glue/<task>/*.parquet` or the original TSV files; a file name with `subset` stands for
    part of the official rows and is used where the whole split is absent.

    Args:
        name: task name, a key of `GLUE`.
        data_dir: the folder; default: the environment variable GPPDFD_DATA.
        max_train_rows: train on a random sample of this many rows; evaluation splits are never cut.
        seed: seed of that sample.

    Raises:
        UsageError: unknown task, or no positive number of rows.
        DataError: no data, or a file is broken or not what it says; the message names it.
    """
    spec = task_spec(name)
    source = open_source(name, data_dir or _folder_of_environment())
    found, missing = _find(source, name)
    splits = {split: to_split(each.read(), spec, each.where) for split, each in found.items()}
    data = TaskData(
        spec=spec,
        train=splits["train"],
        evaluations={split: rows for split, rows in splits.items() if split != "train"},
        content=content_of(spec, splits),
        source=source.name,
        missing=missing,
        subset=tuple(split for split, each in found.items() if each.partial),
    )
    return sample_train(data, max_train_rows, seed)


def _folder_of_environment() -> Path | None:
    folder = os.environ.get("GPPDFD_DATA")
    return Path(folder) if folder else None


def _find(source: Source, name: str) -> tuple[dict[str, Found], dict[str, str]]:
    """Splits that the source has, train first, and why others are missing; the needed ones must be there."""
    evaluations = _MNLI_EVALUATIONS if name == "mnli" else _EVALUATIONS
    official = {"train": "train", **evaluations}
    looked_up = {split: source.find(file) for split, file in official.items()}
    found = {split: each for split, each in looked_up.items() if each}
    missing = {split: source.why_missing(file) for split, file in official.items() if split not in found}
    for split in ("train", next(iter(evaluations))):
        if split in missing:
            raise DataError(f"task {name} cannot be loaded from {source.where}: {missing[split]}")
    return found, missing
