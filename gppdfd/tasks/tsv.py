"""The original GLUE text files: tab-separated without quoting, each task with columns of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gppdfd.errors import DataError
from gppdfd.tasks.rows import tolerate

if TYPE_CHECKING:
    import pyarrow as pa

MRPC_TRAIN = "msr_paraphrase_train.txt"
MRPC_DEV_IDS = "dev_ids.tsv"
NO_GOLD_LABEL = "-"  # MNLI: the annotators did not agree


@dataclass(frozen=True)
class Layout:
    """Which fields of a line are what.

    Attributes:
        fields: our column name -> name in the file's header.
        header: field names of a file that has no header line.
    """

    fields: dict[str, str]
    header: tuple[str, ...] = ()


LAYOUTS = {
    "cola": Layout({"sentence": "sentence", "label": "label"}, ("source", "label", "mark", "sentence")),
    "sst2": Layout({"sentence": "sentence", "label": "label"}),
    "mrpc": Layout({"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    "qqp": Layout({"question1": "question1", "question2": "question2", "label": "is_duplicate"}),
    "stsb": Layout({"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}),
    "mnli": Layout({"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}),
    "qnli": Layout({"question": "question", "sentence": "sentence", "label": "label"}),
    "rte": Layout({"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
}


def file_name(split: str) -> str:
    """`validation_matched` -> `dev_matched.tsv`."""
    return split.replace("validation", "dev") + ".tsv"


def read(file: Path, task: str) -> "pa.Table":
    """Text columns and `label` as texts, and `idx`, the number of the row in the file.

    Raises:
        DataError: no UTF-8, no such columns, or more than the odd torn line.
    """
    return _table(_rows(file, LAYOUTS[task]))


def read_mrpc(folder: Path, train: bool) -> "pa.Table":
    """MRPC as Microsoft distributes it: one file for train and validation, and the id pairs of the latter."""
    file, id_file = folder / MRPC_TRAIN, folder / MRPC_DEV_IDS
    fields = {**LAYOUTS["mrpc"].fields, "id1": "#1 ID", "id2": "#2 ID"}
    rows = _rows(file, Layout(fields))
    dev_ids = {tuple(line.split("\t")) for line in _lines(id_file)}
    in_dev = {number for number, row in rows.items() if (row["id1"], row["id2"]) in dev_ids}
    if len(in_dev) != len(dev_ids):
        raise DataError(f"{id_file} lists {len(dev_ids)} pairs, but {file} has {len(in_dev)} of them")
    return _table({number: row for number, row in rows.items() if (number in in_dev) != train})


def _rows(file: Path, layout: Layout) -> dict[int, dict[str, str]]:
    """Row number -> our columns. Lines with too few fields are left out, as in the hub's copy."""
    lines = [line.split("\t") for line in _lines(file)]
    header = list(layout.header) or (lines.pop(0) if lines else [])
    absent = [name for name in layout.fields.values() if name not in header]
    if absent:
        raise DataError(f"{file}: no column {' and '.join(absent)} in the header: {', '.join(header)}")
    places = {column: header.index(name) for column, name in layout.fields.items()}
    width = max(places.values()) + 1
    whole = {number: line for number, line in enumerate(lines) if len(line) >= width}
    tolerate(len(lines) - len(whole), len(lines), f"{file}: lines with fewer than {width} fields")
    rows = {number: {name: line[place] for name, place in places.items()} for number, line in whole.items()}
    labelled = {number: row for number, row in rows.items() if row["label"] != NO_GOLD_LABEL}
    if not labelled:
        raise DataError(f"{file}: no rows")
    return labelled


def _lines(file: Path) -> list[str]:
    """Lines that are not empty; only line feeds end a line, other separators of Unicode are text."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text ({error}): fetch it again") from error
    return [line for line in text.split("\n") if line]


def _table(rows: dict[int, dict[str, str]]) -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_pylist([{**row, "idx": number} for number, row in rows.items()])
