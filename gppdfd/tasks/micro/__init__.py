"""The embedded benchmark: eight GLUE-shaped tasks from a seeded grammar, with an encoder trained on its text.

Nothing is downloaded and no data is stored: `load` writes the rows of a task anew each time, the same for the
same seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gppdfd.errors import unknown
from gppdfd.files import canonical_json, hash_text
from gppdfd.tasks.base import Split, TaskData, TaskSpec
from gppdfd.tasks.glue import GLUE
from gppdfd.tasks.micro import pairs, sentences
from gppdfd.tasks.micro.grammar import Chooser, text

MODEL = Path(__file__).parent / "model"
"""Folder of the shipped encoder, for `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained`."""

Example = tuple[tuple[str, ...], float]

# Under every teacher that learnt its task, over one whose labels are in another order.
FLOORS = {"cola": 0.15, "sst2": 0.65, "mrpc": 0.6, "qqp": 0.6, "stsb": 0.15, "mnli": 0.45, "qnli": 0.6, "rte": 0.6}
SPECS = {name: replace(GLUE[name], floor=floor) for name, floor in FLOORS.items()}
TRAINING_ROWS = 1600
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
    train = _split(spec, "home", TRAINING_ROWS, f"{seed}:{name}:train", seen)
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
