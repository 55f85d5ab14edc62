"""From a table as stored to checked rows of a task; content hash and training sample."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gppdfd import seeds
from gppdfd.errors import DataError, UsageError
from gppdfd.tasks.base import Split, TaskData, TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

# Official QQP has two empty questions and some twenty torn lines in 363,870. A file with a larger share of
# faulty rows is taken for damaged.
FAULTY_SHARE = 1e-3


def to_split(table: "pa.Table", spec: TaskSpec, where: str) -> Split:
    """Checked rows of one split.

    Args:
        table: the text columns of `spec`, `label` (numbers, or texts with names or numbers), perhaps `idx`.
        spec: what the table must be.
        where: file or data set that the table comes from, for messages.

    Raises:
        DataError: a column is missing, the label names have another order, labels are outside the range, or
            texts are empty.
    """
    _check_columns(table, spec, where)
    _check_label_names(table.schema, spec, where)
    return Split(
        texts=tuple(_texts(table, column, where) for column in spec.columns),
        labels=_scores(table, spec, where) if spec.regression else _classes(table, spec, where),
        ids=_ids(table, where),
    )


def content_of(spec: TaskSpec, splits: Mapping[str, Split]) -> str:
    """sha256 over task, label names, texts and labels: equal for equal rows, whatever files they lie in."""
    total = hashlib.sha256(repr((spec.name, spec.columns, spec.labels)).encode())
    for name, split in splits.items():
        total.update(f"{name}:{len(split)};".encode())
        total.update(split.labels.astype("<f4" if spec.regression else "<i8").tobytes())
        for texts in split.texts:
            # Lengths make it unambiguous where one text ends and the next begins.
            total.update(np.fromiter(map(len, texts), "<i8", len(texts)).tobytes())
            total.update("".join(texts).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def sample_train(data: TaskData, rows: int | None, seed: int = 0) -> TaskData:
    """`data` with at most `rows` randomly chosen training rows, in their old order; `None` keeps all."""
    if rows is not None and rows < 1:
        raise UsageError(f"max_train_rows must be at least 1, got {rows}")
    if rows is None or rows >= len(data.train):
        return data
    stream = seeds.generator(seed, "max_train_rows", data.spec.name)
    chosen = torch.randperm(len(data.train), generator=stream)[:rows].sort().values.numpy()
    train = _take(data.train, chosen)
    subset = ("train", *(split for split in data.subset if split != "train"))
    return replace(
        data, train=train, subset=subset, content=content_of(data.spec, {"train": train, **data.evaluations})
    )


def tolerate(faulty: int, rows: int, what: str) -> None:
    """`DataError` when more than the odd row is faulty, else a warning in the log."""
    if not faulty:
        return
    if faulty > FAULTY_SHARE * rows:
        raise DataError(f"{what}: {faulty} of {rows} rows; the file looks damaged, fetch it again")
    logger.warning("%s: %d of %d rows", what, faulty, rows)


def _take(split: Split, rows: np.ndarray) -> Split:
    texts = tuple([column[row] for row in rows] for column in split.texts)
    return Split(texts, split.labels[rows], split.ids[rows])


def _check_columns(table: "pa.Table", spec: TaskSpec, where: str) -> None:
    missing = [name for name in (*spec.columns, "label") if name not in table.column_names]
    if missing:
        needed, has = " and ".join(missing), ", ".join(table.column_names)
        raise DataError(f"{where}: task {spec.name} needs the column {needed}; there are: {has}")
    if not table.num_rows:
        raise DataError(f"{where}: no rows")


def _check_label_names(schema: "pa.Schema", spec: TaskSpec, where: str) -> None:
    """Compare label names stored in the schema, if any, with ours: another order would swap classes."""
    names = _stored_label_names(schema)
    if names is None or names == spec.labels:
        return
    raise DataError(
        f"{where}: label names are {', '.join(names)}, but task {spec.name} has "
        f"{', '.join(spec.labels) or 'real-valued labels'} in this order"
    )


def _stored_label_names(schema: "pa.Schema") -> tuple[str, ...] | None:
    """Class names as `datasets` writes them: {"info": {"features": {"label": {"names": [...]}}}}."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(stored)["info"]["features"]["label"]["names"] if stored else None
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if names else None


def _texts(table: "pa.Table", column: str, where: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = table[column]
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"{where}: column {column} holds {values.type}, not text")
    values = values.fill_null("")
    try:
        blank = pc.sum(pc.equal(pc.utf8_trim_whitespace(values), "")).as_py()
        texts: list[str] = values.to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{where}: column {column} is not UTF-8 ({error}); fetch the file again") from error
    tolerate(blank, table.num_rows, f"{where}: column {column} has empty texts")
    return texts


def _classes(table: "pa.Table", spec: TaskSpec, where: str) -> np.ndarray:
    """Labels as int64 [rows]; stored as numbers, or as texts with the name or number of a class."""
    stored = _stored_labels(table, where)
    if stored.dtype == object:
        numbers = {text: number for number, name in enumerate(spec.labels) for text in (name, str(number))}
        stored = np.array([numbers.get(text, -1) for text in stored])
    if stored.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {stored.dtype}, but task {spec.name} has classes")
    _check_range(table, (stored >= 0) & (stored < len(spec.labels)), f"0 to {len(spec.labels) - 1}", where)
    return stored.astype(np.int64)


def _scores(table: "pa.Table", spec: TaskSpec, where: str) -> np.ndarray:
    """Regression labels as float32 [rows]."""
    try:
        scores = _stored_labels(table, where).astype(np.float32)
    except ValueError as error:
        raise DataError(f"{where}: a label is no number ({error})") from error
    low, high = spec.label_range
    _check_range(table, (scores >= low) & (scores <= high), f"{low:g} to {high:g}", where)
    return scores


def _stored_labels(table: "pa.Table", where: str) -> np.ndarray:
    labels = table["label"]
    if labels.null_count:
        raise DataError(f"{where}: {labels.null_count} of {table.num_rows} rows have no label")
    return labels.to_numpy()


def _check_range(table: "pa.Table", legal: np.ndarray, allowed: str, where: str) -> None:
    if legal.all():
        return
    row, count = int(np.argmin(legal)), np.count_nonzero(~legal)
    raise DataError(
        f"{where}: label {table['label'][row].as_py()!r} in row {row} is outside {allowed}"
        f" ({count} of {table.num_rows} rows); test splits have no labels and cannot be used"
    )


def _ids(table: "pa.Table", where: str) -> np.ndarray:
    """Row ids of the source: column `idx`, else the row numbers."""
    if "idx" not in table.column_names:
        return np.arange(table.num_rows)
    ids = table["idx"].to_numpy()
    if ids.dtype.kind not in "iu":
        raise DataError(f"{where}: column idx must hold whole numbers without gaps")
    return ids.astype(np.int64)
