"""Small GLUE folders in every layout that users have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from gppdfd.tasks import task_spec

ROWS = 12
SPLITS = {"mnli": ("train", "validation_matched", "validation_mismatched")}
# Header and one line of each task's official file; {n} is the row, {label} the label as it is written there.
TSV_LINES = {
    "cola": ("", "gj04\t{label}\t\tText {n}."),
    "sst2": ("sentence\tlabel", "text {n} \t{label}"),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '{label}\t{n}1\t{n}2\tThe "first {n}\tSecond {n}',
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "{n}\t1\t2\tWhy {n}?\tHow {n}?\t{label}"),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "{n}\tg\tf\t2012\t1\tnone\tnone\tOne {n}\tTwo {n}\t{label}",
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "{n}\t1\t1n\tg\t( x )\tPremise {n}\tHypothesis {n}\tneutral\t{label}",
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "{n}\tWho {n}?\tIt {n}.\t{label}"),
    "rte": ("index\tsentence1\tsentence2\tlabel", "{n}\tFirst {n}\tSecond {n}\t{label}"),
}
OFFICIAL_FOLDERS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "stsb": "STS-B",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
}


def columns(task: str, rows: int = ROWS, mark: str = "") -> dict[str, list[Any]]:
    """Rows of a task as columns; every class occurs, `mark` makes the texts of a split its own."""
    spec = task_spec(task)
    texts = {name: [f"{mark}{name} text {row}" for row in range(rows)] for name in spec.columns}
    labels = [row % 11 / 2 for row in range(rows)] if spec.regression else [r % spec.outputs for r in range(rows)]
    return {**texts, "label": labels, "idx": list(range(100, 100 + rows))}


def table(task: str, data: Mapping[str, Sequence[Any]], names: Sequence[str] | None = None) -> pa.Table:
    """Arrow table with the label names in its schema, as `datasets` writes it."""
    spec = task_spec(task)
    names = names or spec.labels
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("float32")
    features = {name: label if name == "label" else datasets.Value(_type(data[name][0])) for name in data}
    return datasets.Dataset.from_dict(dict(data), features=datasets.Features(features)).data.table


def _type(value: Any) -> str:
    return "string" if isinstance(value, str) else "int32"


def write_parquet(file: Path, task: str, data: Mapping[str, Sequence[Any]] | None = None, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(task, data or columns(task), **options), file)
    return file


def write_parquet_task(root: Path, task: str) -> Path:
    """All splits of a task under `root`/glue; returns the task's folder."""
    folder = root / "glue" / task
    for split in SPLITS.get(task, ("train", "validation")):
        write_parquet(folder / f"{split}.parquet", task, columns(task, mark=split))
    return folder


def tsv_text(task: str, rows: int = ROWS) -> str:
    header, line = TSV_LINES[task]
    spec, labels = task_spec(task), columns(task, rows)["label"]
    named = task in ("mnli", "qnli", "rte")
    lines = [line.format(n=n, label=spec.labels[label] if named else label) for n, label in enumerate(labels)]
    return "".join(f"{text}\n" for text in ([header] if header else []) + lines)


def write_tsv_task(folder: Path, task: str, rows: int = ROWS) -> Path:
    """train.tsv and dev.tsv (mnli: dev_matched.tsv, dev_mismatched.tsv) in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "dev_matched", "dev_mismatched") if task == "mnli" else ("train", "dev"):
        (folder / f"{name}.tsv").write_text(tsv_text(task, rows), encoding="utf-8")
    return folder
