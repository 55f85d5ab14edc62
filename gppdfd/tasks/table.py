"""A user's own rows, in memory or in a file, as columns of plain Python values."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from gppdfd.errors import DataError, UsageError

SHOWN_ROWS = 5


@dataclass(frozen=True)
class Table:
    """Columns by name.

    Attributes:
        where: file or argument that the rows come from, for messages.
        names: column names, in order.
        rows: number of rows.
        column: values of a column, as Python objects; a missing one is None, NaN, or NA or NaT of pandas.
        classes: by label column, the class names that the table itself declares (a `ClassLabel` of `datasets`).
    """

    where: str
    names: tuple[str, ...]
    rows: int
    column: Callable[[str], list[Any]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def table_of(rows: Any, where: str, label_column: str = "label") -> Table:
    """Table of a `datasets.Dataset`, a pandas DataFrame, a list of dicts, or a list of (text, label).

    A list of (text, second text, label) is a task on pairs.

    Raises:
        UsageError: none of these.
        DataError: rows of different shapes.
    """
    if isinstance(rows, Table):
        return rows
    if _is_a(rows, "datasets", "Dataset"):
        return _from_dataset(rows, where)
    if _is_a(rows, "pandas", "DataFrame"):
        return _from_frame(rows, where)
    if isinstance(rows, Mapping) and rows:
        raise UsageError(f"{where} has the splits {', '.join(map(repr, rows))}: give one of them")
    if isinstance(rows, list | tuple):
        return _from_list(rows, where, label_column)
    raise UsageError(
        f"{where} is a {type(rows).__name__}: give a datasets.Dataset, a pandas DataFrame, a list of dicts or a list "
        "of (text, label)"
    )


def read_table(path: Path) -> Table:
    """Table of a CSV, TSV, JSONL or parquet file, told apart by the ending.

    Texts stay as they are; an empty field of a CSV or TSV file is a missing value.

    Raises:
        UsageError: no such file, or another ending.
        DataError: the file is broken; the message names the file and, in a text file, the line.
    """
    if not path.is_file():
        raise UsageError(f"data file {path} does not exist")
    if path.suffix.lower() not in _READERS:
        raise UsageError(f"data file {path}: the ending tells how to read it; known are {', '.join(_READERS)}")
    return _READERS[path.suffix.lower()](path)


def named_rows(rows: Sequence[int]) -> str:
    """`row 3`, `rows 3, 7`, `rows 0, 1, 2, 3, 4 and 12 more`."""
    shown = ", ".join(map(str, rows[:SHOWN_ROWS]))
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _is_a(value: Any, module: str, name: str) -> bool:
    """`isinstance` without importing the library: where it was not imported yet, nothing can be of its class."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _from_columns(where: str, columns: Mapping[str, list[Any]]) -> Table:
    rows = max(map(len, columns.values()), default=0)
    return Table(where, tuple(columns), rows, columns.__getitem__)


def _from_frame(frame: Any, where: str) -> Table:
    names = [str(name) for name in frame.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{where} has several columns named {', '.join(map(repr, repeated))}: rename or drop them")
    return _from_columns(where, {name: frame.iloc[:, place].tolist() for place, name in enumerate(names)})


def _from_dataset(dataset: Any, where: str) -> Table:
    stored = dataset.with_format("arrow")[:]
    names = {name: getattr(kind, "names", None) for name, kind in dataset.features.items()}
    declared = {name: tuple(classes) for name, classes in names.items() if classes}
    return Table(where, tuple(names), len(dataset), lambda name: stored[name].to_pylist(), declared)


def _from_list(rows: Sequence[Any], where: str, label_column: str) -> Table:
    if not rows:
        return _from_columns(where, {})
    if all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(str(name) for row in rows for name in row)
        return _from_columns(where, {name: [row.get(name) for row in rows] for name in names})
    return _from_tuples(rows, where, label_column)


def _from_tuples(rows: Sequence[Any], where: str, label_column: str) -> Table:
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple) or len(row) not in (2, 3) or len(row) != len(rows[0]):
            raise DataError(f"{where}, row {number}: not a dict like the others, nor (text, label): {str(row)[:60]!r}")
    names = [*(("text", "second text")[: len(rows[0]) - 1]), label_column]
    return _from_columns(where, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def _read_csv(path: Path, separator: str = ",") -> Table:
    import pandas as pd

    text = _text(path)
    try:
        # Only an empty field is a missing value: "NA", "None" and "null" are labels and texts like any other.
        frame = pd.read_csv(
            StringIO(text), sep=separator, keep_default_na=False, na_values=[""], low_memory=False, on_bad_lines="error"
        )
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty: the first line must name the columns") from None
    except (pd.errors.ParserError, ValueError) as error:
        raise DataError(
            f"{path} is broken: {' '.join(str(error).split()).removeprefix('Error tokenizing data. ')}"
        ) from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            f"{path}, line 2: more fields than the first line names columns; quote texts that hold {separator!r}"
        )
    return table_of(frame, str(path))


def _read_tsv(path: Path) -> Table:
    return _read_csv(path, "\t")


def _read_jsonl(path: Path) -> Table:
    return table_of(list(_json_rows(path)), str(path))


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is no JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: each line must be one object with a field per column")
        yield row


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    return Table(str(path), tuple(stored.column_names), stored.num_rows, lambda name: stored[name].to_pylist())


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line} is no UTF-8 text: save the file as UTF-8") from None


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
