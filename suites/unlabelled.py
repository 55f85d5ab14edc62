"""Answers of a saved model on an official test split, which has texts and no labels."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gppdfd.errors import DataError
from gppdfd.evaluation import predict
from gppdfd.models import load_tokenizer
from gppdfd.pruned import load_pruned
from gppdfd.tasks import Split, TaskData, TaskSpec, task_spec
from gppdfd.tasks.encoding import Encoded, encode
from gppdfd.tasks.sources import TsvFolder, open_source
from gppdfd.tasks.tsv import LAYOUTS

if TYPE_CHECKING:
    import pyarrow as pa


def predict_split(
    model: Path, task: str, split: str, data_dir: Path | None, max_length: int, precision: str
) -> list[int] | list[float]:
    """Class numbers, or scores for regression, in the order of the official rows.

    Args:
        model: folder of a saved model and its tokenizer.
        split: `test`, or for MNLI `test_matched` and `test_mismatched`.
        data_dir: folder with the test split, else GPPDFD_DATA, else the hub.

    Raises:
        DataError: there is no such split, or only part of it, or its rows are not numbered from 0 on.
    """
    spec = task_spec(task)
    rows = read_test_split(spec, split, data_dir)
    encoded = _encoded(spec, rows, load_tokenizer(str(model)), max_length)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits = predict(load_pruned(model).to(device), encoded, device, precision)
    answers: list[int] | list[float] = (logits[:, 0] if spec.regression else logits.argmax(1)).tolist()
    return answers


def read_test_split(spec: TaskSpec, split: str, data_dir: Path | None) -> Split:
    """Texts of a test split in the order of its row numbers, under labels that mean nothing."""
    folder = data_dir or (Path(os.environ["GPPDFD_DATA"]) if "GPPDFD_DATA" in os.environ else None)
    source = open_source(spec.name, folder)
    if isinstance(source, TsvFolder):
        table, where = _read_tsv(source.folder / f"{split}.tsv", spec), f"{source.folder / split}.tsv"
    else:
        found = source.find(split)
        if found is None or found.partial:
            reason = "only part of the official rows" if found else source.why_missing(split)
            raise DataError(f"no test split of {spec.name} in {source.where}: {reason}")
        table, where = found.read(), found.where
    return _in_order(spec, table, where)


def _in_order(spec: TaskSpec, table: "pa.Table", where: str) -> Split:
    absent = [column for column in (*spec.columns, "idx") if column not in table.column_names]
    if absent:
        raise DataError(f"{where}: no column {' and '.join(absent)}")
    numbers = np.array(table["idx"].to_pylist(), dtype=np.int64)
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(len(numbers))):
        raise DataError(f"{where}: rows are not numbered from 0 to {len(numbers) - 1}: fetch the official file again")
    texts = tuple(table[column].take(order).to_pylist() for column in spec.columns)
    kind = np.float32 if spec.regression else np.int64
    return Split(texts, np.zeros(len(numbers), dtype=kind), numbers[order])


def _read_tsv(file: Path, spec: TaskSpec) -> "pa.Table":
    """The server's own files: a header, then one row per line, its number first."""
    import pyarrow as pa

    if not file.is_file():
        raise DataError(f"no test split of {spec.name}: {file} does not exist")
    header, *lines = [line.split("\t") for line in file.read_text(encoding="utf-8-sig").split("\n") if line]
    number = "id" if spec.name == "qqp" else "index"
    fields = {column: LAYOUTS[spec.name].fields[column] for column in spec.columns} | {"idx": number}
    absent = [name for name in fields.values() if name not in header]
    if absent:
        raise DataError(f"{file}: no column {' and '.join(absent)} in the header: {', '.join(header)}")
    places = {column: header.index(name) for column, name in fields.items()}
    short = [number for number, line in enumerate(lines) if len(line) <= max(places.values())]
    if short:
        raise DataError(f"{file}: line {short[0] + 2} has too few fields")
    return pa.table(
        {column: [line[place] for line in lines] for column, place in places.items()} | _numbers(lines, places)
    )


def _numbers(lines: list[list[str]], places: dict[str, int]) -> dict[str, list[int]]:
    return {"idx": [int(line[places["idx"]]) for line in lines]}


def _encoded(spec: TaskSpec, rows: Split, tokenizer: Any, max_length: int) -> Encoded:
    """Tokens of the rows; a task needs a training split too, which is one row here and not used."""
    first = Split(tuple(texts[:1] for texts in rows.texts), rows.labels[:1], rows.ids[:1])
    data = TaskData(spec, first, {"test": rows}, content="", source="test split")
    return encode(data, tokenizer, max_length).evaluations["test"]
