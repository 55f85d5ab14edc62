"""The embedded benchmark: eight GLUE-shaped tasks from a seeded grammar, with an encoder trained on its text.

Nothing is downloaded and no data is stored: `load` writes the rows of a task anew each time, the same for the
same seed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gppdfd.errors import unknown
from gppdfd.files import canonical_json, hash_text
from gppdfd.tasks.base import Split, TaskData, TaskSpec
from gppdfd.tasks.micro import pairs, sentences
from gppdfd.tasks.micro.grammar import Chooser, text

MODEL = Path(__file__).parent / "model"
"""Folder of the shipped encoder, for `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained`."""

Example = tuple[tuple[str, ...], float]

_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
SPECS = {
    spec.name: spec
    for spec in (
        TaskSpec("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), "matthews", 0.15),
        TaskSpec("sst2", ("sentence",), ("negative", "positive"), ("accuracy",), "accuracy", 0.65),
        TaskSpec("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1"), "f1", 0.6),
        TaskSpec(
            "qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1"), "f1", 0.6
        ),
        TaskSpec("stsb", _PAIR, (), ("pearson", "spearman"), "spearman", 0.15),
        TaskSpec(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            "accuracy",
            0.45,
        ),
        TaskSpec("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",), "accuracy", 0.6),
        TaskSpec("rte", _PAIR, _ENTAILMENT, ("accuracy",), "accuracy", 0.6),
    )
}
ROWS = {
    "cola": 2000,
    "sst2": 1600,
    "mrpc": 2000,
    "qqp": 2000,
    "stsb": 2000,
    "mnli": 2000,
    "qnli": 2000,
    "rte": 1600,
}
EVALUATION_ROWS = 400
WRONG_LABELS = 0.05
"""Share of wrong labels in all splits, since annotators err too: it keeps a perfect model below 98."""


def load(name: str, seed: int = 0) -> TaskData:
    """Write the rows of a task.

    Args:
        name: one of `SPECS`.
        seed: another seed gives other rows of the same language.

    Raises:
        UsageError: the task is unknown.
    """
    if name not in SPECS:
        raise unknown("micro task", name, SPECS)
    spec, seen = SPECS[name], set[tuple[str, ...]]()
    train = _split(spec, "home", ROWS[name], f"{seed}:{name}:train", seen)
    evaluations = {
        split: _split(spec, genre, EVALUATION_ROWS, f"{seed}:{name}:{split}", seen)
        for split, genre in _evaluation_genres(name).items()
    }
    return TaskData(spec, train, evaluations, _content(train, *evaluations.values()), "micro")


def _evaluation_genres(name: str) -> dict[str, str]:
    return {"matched": "home", "mismatched": "away"} if name == "mnli" else {"validation": "home"}


def _split(spec: TaskSpec, genre: str, rows: int, stream: str, seen: set[tuple[str, ...]]) -> Split:
    choose, annotator = _stream(f"{stream}:texts"), _stream(f"{stream}:labels")
    examples: list[Example] = []
    while len(examples) < rows:
        texts, label = draw(spec.name, choose, genre)
        if texts not in seen:
            seen.add(texts)
            examples.append((texts, _annotated(spec, label, annotator)))
    return _as_split(spec, examples)


def _stream(name: str) -> Chooser:
    return Chooser(int(hash_text(name)[:15], 16))


def _annotated(spec: TaskSpec, label: float, annotator: Chooser) -> float:
    """The label as an annotator gives it: wrong in `WRONG_LABELS` of the cases."""
    if not annotator.chance(WRONG_LABELS):
        return label
    if spec.regression:
        return annotator.below(26) / 5
    return annotator.other(range(spec.outputs), int(label))


def draw(name: str, choose: Chooser, genre: str = "home") -> Example:
    """One labelled example of a task: (texts, label)."""
    if name == "cola":
        words, label = sentences.cola(choose, genre)
        return (text(words),), label
    if name == "sst2":
        words, label = sentences.sst2(choose)
        return (text(words),), label
    first, second, value = _PAIR_TASKS[name](choose, genre)
    return (text(first), text(second)), value


_PAIR_TASKS: dict[str, Callable[[Chooser, str], tuple[list[str], list[str], float]]] = {
    "mrpc": pairs.mrpc,
    "qqp": pairs.qqp,
    "stsb": pairs.stsb,
    "mnli": pairs.mnli,
    "qnli": pairs.qnli,
    "rte": pairs.rte,
}


def _as_split(spec: TaskSpec, examples: Sequence[Example]) -> Split:
    columns = tuple([texts[column] for texts, _ in examples] for column in range(len(spec.columns)))
    labels = np.array([label for _, label in examples], dtype=np.float32 if spec.regression else np.int64)
    return Split(columns, labels, np.arange(len(examples)))


def _content(*splits: Split) -> str:
    return hash_text(canonical_json([[split.texts, split.labels.tolist()] for split in splits]))
