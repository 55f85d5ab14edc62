"""A user's own table as a task: its text columns, the order of its classes, and all that may be wrong with it."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gppdfd.errors import DataError, UsageError, unknown
from gppdfd.tasks.base import Split, TaskData, TaskSpec
from gppdfd.tasks.rows import content_of
from gppdfd.tasks.table import Table, named_rows

logger = logging.getLogger(__name__)

NAME = "data"
CLASS_METRICS = ("accuracy", "macro_f1")
REGRESSION_METRICS = ("pearson", "spearman")
EVALUATION = "eval"
"""Name of the evaluation split."""


@dataclass(frozen=True)
class Head:
    """The classifier of a given model.

    Attributes:
        who: argument that the model was given as, for messages.
        names: its class names in label order.
        fixed: whether it is used as it is, so that a wrong order of classes could not be trained away.
        binding: whether the data must fit it; else it is made anew when they do not.
    """

    who: str
    names: tuple[str, ...]
    fixed: bool = False
    binding: bool = True

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def nameless(self) -> bool:
        """Whether the names are those that transformers makes up."""
        return self.names == tuple(f"LABEL_{number}" for number in range(self.outputs))


@dataclass(frozen=True)
class Labels:
    """Labels as they stand in a table.

    Attributes:
        kind: texts, whole numbers, or real numbers.
        values: one per row.
        declared: class names of the numbers, if the table says them.
    """

    where: str
    kind: Literal["text", "number", "real"]
    values: list[Any]
    declared: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The label of every row by its name."""
        names = dict(enumerate(self.declared))
        return [names.get(value, str(value)) for value in self.values]

    @property
    def distinct(self) -> list[Any]:
        return sorted(set(self.values))


@dataclass(frozen=True)
class Coding:
    """How labels become what a model is trained on.

    Attributes:
        names: class names in label order; none for regression.
        numbers: class number of each label, of its name where `by_name`.
    """

    names: tuple[str, ...] = ()
    numbers: Mapping[Any, int] = field(default_factory=dict)
    by_name: bool = True

    def __call__(self, labels: Labels) -> np.ndarray:
        """Classes, int64 [rows], or real values, float32 [rows].

        Raises:
            DataError: a label that is none of the classes.
        """
        if not self.names:
            return np.array(labels.values, np.float32)
        keys = labels.texts if self.by_name else labels.values
        if strange := [row for row, key in enumerate(keys) if key not in self.numbers]:
            raise DataError(
                f"{labels.where}: label {keys[strange[0]]!r} in {named_rows(strange)} (counted from 0) is none of the "
                f"classes {_few(self.names)}"
            )
        return np.array([self.numbers[key] for key in keys], np.int64)


def own_task(
    train: Table,
    evaluation: Table | None,
    text_columns: Sequence[str] | str | None,
    label_column: str,
    heads: Sequence[Head] = (),
) -> TaskData:
    """Checked rows of a table as a task of classification or regression.

    Real-valued labels, and whole numbers for a model with a single output, make a regression. Else the order of the
    classes is that of the first of `heads` that knows all their names; without one, numbers keep their order and
    texts are sorted.

    Args:
        evaluation: rows to score on, with the same columns.
        text_columns: one or two; None takes the only one that there is.
        heads: classifiers of the given models; the binding ones must agree with the labels.

    Raises:
        UsageError: a column does not exist or cannot be guessed, labels and heads do not fit, lists as labels.
        DataError: no rows, empty texts, missing labels, one class only, a class with a single row.
    """
    _check_rows(train)
    columns = _text_columns(train, text_columns, label_column)
    labels = _labels(train, label_column)
    coding = _coding(labels, heads)
    spec = _spec(columns, coding.names)
    splits = {"train": Split(_texts(train, columns), coding(labels), np.arange(train.rows))}
    _check_variety(labels, spec)
    if evaluation is not None:
        _check_rows(evaluation)
        _text_columns(evaluation, columns, label_column)
        numbers = coding(_like(_labels(evaluation, label_column), labels))
        splits[EVALUATION] = Split(_texts(evaluation, columns), numbers, np.arange(evaluation.rows))
    rest = {name: split for name, split in splits.items() if name != "train"}
    return TaskData(spec, splits["train"], rest, content_of(spec, splits), train.where)


def _spec(columns: tuple[str, ...], names: tuple[str, ...]) -> TaskSpec:
    metrics = CLASS_METRICS if names else REGRESSION_METRICS
    return TaskSpec(NAME, columns, names, metrics, metrics[0], floor=0.0, label_range=(-math.inf, math.inf))


def _check_rows(table: Table) -> None:
    if not table.rows:
        raise DataError(f"{table.where} has no rows")


def _text_columns(table: Table, wanted: Sequence[str] | str | None, label_column: str) -> tuple[str, ...]:
    if label_column not in table.names:
        raise UsageError(f"{table.where}: {unknown('label column', label_column, table.names)}")
    columns = (wanted,) if isinstance(wanted, str) else tuple(wanted or _guessed(table, label_column))
    for column in columns:
        if column not in table.names:
            raise UsageError(f"{table.where}: {unknown('text column', column, table.names)}")
    if len(columns) > 2 or len(set(columns)) < len(columns) or label_column in columns:
        raise UsageError(f"{table.where}: text columns {', '.join(columns)}: give one or two, without the label")
    return columns


def _guessed(table: Table, label_column: str) -> list[str]:
    if set(table.names) == {"text", "second text", label_column}:  # made from (text, second text, label)
        return ["text", "second text"]
    found = [name for name in table.names if name != label_column and _is_text(table.column(name))]
    if len(found) == 1:
        return found
    several = f"there are {len(found)} columns with texts" if found else "no column holds texts"
    raise UsageError(f"{table.where}: {several}; name the text column, or two, among: {', '.join(table.names)}")


def _is_text(values: list[Any]) -> bool:
    present = [value for value in values if not _missing(value)]
    return bool(present) and all(isinstance(value, str) for value in present)


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # the markers of pandas, without importing it
        return True
    return isinstance(value, float) and math.isnan(value)


def _texts(table: Table, columns: Sequence[str]) -> tuple[list[str], ...]:
    return tuple(_checked_texts(table, column) for column in columns)


def _checked_texts(table: Table, column: str) -> list[str]:
    values = table.column(column)
    if empty := [row for row, value in enumerate(values) if _missing(value)]:
        raise DataError(f"{table.where}, column {column!r}: no text in {named_rows(empty)} (counted from 0)")
    if other := [row for row, value in enumerate(values) if not isinstance(value, str)]:
        kind = type(values[other[0]]).__name__
        raise DataError(f"{table.where}, column {column!r}: {kind} and no text in {named_rows(other)} (counted from 0)")
    return values


def _labels(table: Table, column: str) -> Labels:
    """Labels of a table, checked for what is wrong with any kind of them."""
    if column not in table.names:
        raise UsageError(f"{table.where}: {unknown('label column', column, table.names)}")
    values, declared = list(map(_plain, table.column(column))), table.classes.get(column, ())
    where = f"{table.where}, column {column!r}"
    if any(isinstance(value, list | tuple | dict | set) for value in values):
        raise UsageError(f"{where}: several labels per row (multi-label) are not supported; give one label per row")
    if missing := [row for row, value in enumerate(values) if _missing(value) or (declared and value == -1)]:
        raise DataError(f"{where}: no label in {named_rows(missing)} (counted from 0)")
    return Labels(where, _kind(values, where), values, declared)


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's own; truth values by name; lists of theirs as lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return str(value) if isinstance(value, bool) else value


def _kind(values: list[Any], where: str) -> Literal["text", "number", "real"]:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return "text"
    if kinds == {int}:
        return "number"
    if kinds <= {int, float}:
        if not all(map(math.isfinite, values)):
            raise DataError(f"{where}: a label is infinite")
        return "real"
    names = " and ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(f"{where}: labels must be all texts or all numbers, not {names}")


def _coding(labels: Labels, heads: Sequence[Head]) -> Coding:
    """Regression, or the order of the classes that data and heads agree on."""
    binding = [head for head in heads if head.binding]
    if labels.kind == "real" or any(head.outputs == 1 for head in binding):
        _check_regression(labels, binding)
        if labels.kind == "real" and _whole(labels):
            logger.warning(
                "%s: real numbers, so this is a regression; make them whole numbers for classes", labels.where
            )
        return Coding()
    named = next((head for head in heads if not head.nameless and set(labels.texts) <= set(head.names)), None)
    if labels.kind == "number" and binding and named is None:
        coding = _by_number(labels, binding[0])
    else:
        names = named.names if named else labels.declared or tuple(map(str, labels.distinct))
        coding = Coding(names, {name: number for number, name in enumerate(names)})
    for head in binding:
        _check_head(head, coding, labels)
    return coding


def _by_number(labels: Labels, head: Head) -> Coding:
    """Labels are the class numbers of a head; its nameless classes get the names that the table declares."""
    _check_numbers(labels, head)
    declared = head.nameless and len(labels.declared) == head.outputs
    numbers = {number: number for number in range(head.outputs)}
    return Coding(labels.declared if declared else head.names, numbers, by_name=False)


def _check_regression(labels: Labels, heads: Sequence[Head]) -> None:
    for head in heads:
        if head.outputs > 1:
            raise UsageError(
                f"{labels.where} is a regression, but {head.who} tells {head.outputs} classes apart: make the labels "
                "whole numbers or names, or give a model with num_labels=1"
            )
    if labels.kind == "text":
        raise UsageError(f"{labels.where} holds texts, but {heads[0].who} has a single output for regression")


def _check_numbers(labels: Labels, head: Head) -> None:
    low, high = labels.distinct[0], labels.distinct[-1]
    if low < 0 or high >= head.outputs:
        raise UsageError(
            f"{labels.where} holds the labels {low} to {high}, but {head.who} has {head.outputs} classes, 0 to "
            f"{head.outputs - 1}: load it with as many classes as the data have (num_labels), or renumber the labels"
        )


def _check_head(head: Head, coding: Coding, labels: Labels) -> None:
    """Whether the classes of a model are those of the data, in their order."""
    names, by_number = coding.names, not coding.by_name
    if head.outputs != len(names):
        raise UsageError(
            f"{labels.where} holds {len(names)} classes, but {head.who} has {head.outputs}: {_few(names)} against "
            f"{_few(head.names)}. Load it with num_labels={len(names)}, or name its classes in config.id2label"
        )
    own, wanted = [name.lower() for name in head.names], [name.lower() for name in names]
    if own == wanted or (by_number and set(own) != set(wanted)) or (head.nameless and not head.fixed):
        return
    if head.nameless:
        raise UsageError(
            f"{head.who} does not say which of its classes is which of {_few(names)}: set its config.id2label to these "
            "names in the order that it was trained with"
        )
    raise UsageError(
        f"{head.who} has the classes {_few(head.names)}, the labels in {labels.where} are {_few(names)}: same names in "
        "the same order are needed (config.id2label)"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _check_variety(labels: Labels, spec: TaskSpec) -> None:
    counts = Counter(labels.texts)
    if len(counts) == 1:
        raise DataError(f"{labels.where}: every row has the label {next(iter(counts))!r}; there is nothing to learn")
    if spec.regression:
        return
    rare = sorted(name for name, count in counts.items() if count < 2)
    if rare:
        raise DataError(
            f"{labels.where}: a single row has the label {_few(rare)}; at least 2 rows per class are needed: add rows "
            "or leave the class out"
        )


def _like(labels: Labels, train: Labels) -> Labels:
    """Evaluation labels as the training table has them: whole where its are, by the names that it declares."""
    if labels.kind != train.kind and "text" in (labels.kind, train.kind):
        raise DataError(f"{labels.where} holds {labels.kind} labels, {train.where} {train.kind} ones")
    if train.kind == "number" and _whole(labels):
        labels = replace(labels, kind="number", values=list(map(int, labels.values)))
    return replace(labels, declared=labels.declared or train.declared) if labels.kind == "number" else labels


def _whole(labels: Labels) -> bool:
    return labels.kind != "text" and all(value == int(value) for value in labels.values)
