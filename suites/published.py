"""Numbers that others have published, with their sources (`suites/literature`), as rows for our tables."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gppdfd.errors import DataError

FOLDER = Path(str(resources.files("suites") / "literature"))
NOT_STATED = "not stated"
GENERATED = "micro"
"""Source of the generated tasks, whose scores mean something else than those on GLUE."""
SPEEDUP = "speedup"
METRICS = {"mcc": "matthews"}
_NAMES = {
    "autotinybert": "AutoTinyBERT",
    "bert_of_theseus": "BERT-of-Theseus",
    "bert_small_pretrained": "small BERT, pre-trained",
    "block_pruning": "block pruning",
    "cap": "CAP",
    "cofi": "CoFi",
    "distilbert": "DistilBERT",
    "distilroberta": "DistilRoBERTa",
    "dynabert": "DynaBERT",
    "finetune": "fine-tuned",
    "grain": "GRAIN",
    "kd": "KD",
    "l0": "L0",
    "minilm": "MiniLM",
    "minilmv2": "MiniLMv2",
    "mobilebert": "MobileBERT",
    "nas_bert": "NAS-BERT",
    "obert": "oBERT",
    "pd": "PD",
    "pkd": "PKD",
    "smp": "SMP",
    "soft_movement": "soft movement",
    "tinybert": "TinyBERT",
}
# How a number was come by, where its authors do not simply print it.
_TAKEN = {
    "B": "read from an image of the table",
    "C": "quoted by others",
    "D": "read off the figure",
    "E": "from a user",
}
_PREFERENCE = {"A": 0, "B": 0, "C": 1, "D": 2, "E": 2}
_UNSTRUCTURED = "unstructured"
# Parts of notes that tables say in another way (a block's title, the sign of an unnamed metric) or have no room for
# (the settings of PKD's best runs).
_SAID_ELSEWHERE = re.compile(r"unstructured.*|(metric|kind of correlation|augmentation) not stated|lr\..*")

Text = Annotated[str, Field(min_length=1)]


def _blank_is_none(value: Any) -> Any:
    return None if value == "" else value


def _optional(kind: Any) -> Any:
    return Annotated[kind | None, BeforeValidator(_blank_is_none)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Strict):
    """Where numbers come from and how they were taken; see `suites/literature/README.md`."""

    key: Text
    citation: Text
    protocol: str
    use: Literal["main", "ablation", "units"]
    removes: Literal["units", "weights"]
    reliability: Literal["A", "B", "C", "D", "E"]


class PublishedScore(_Strict):
    """One published number: percent, or for the metric `speedup` times faster. None is what the source does not say."""

    source_key: Text
    source: Text
    table: Text
    method: Text
    backbone: _optional(str) = None  # type: ignore[valid-type]
    variant: str = ""
    target_sparsity: _optional(Annotated[float, Field(ge=0, lt=1)]) = None  # type: ignore[valid-type]
    encoder_params_m: _optional(float) = None  # type: ignore[valid-type]
    total_params_m: _optional(float) = None  # type: ignore[valid-type]
    speedup: _optional(float) = None  # type: ignore[valid-type]
    task: Text
    metric: str
    split: Literal["dev", "test"]
    augmented: _optional(bool) = None  # type: ignore[valid-type]
    value: Annotated[float, Field(ge=-100, le=100)]
    n_seeds: _optional(int) = None  # type: ignore[valid-type]
    note: str = ""

    @property
    def place(self) -> tuple[str, str | None]:
        """Task and split as our columns name them: MNLI's two dev sets are splits of one task."""
        return {"mnli": ("mnli", "matched"), "mnli-mm": ("mnli", "mismatched")}.get(self.task, (self.task, None))

    @property
    def remark(self) -> str:
        """The note, without what tables say in another way."""
        parts = re.split(r"; |, (?=unstructured)", self.note)
        return "; ".join(part for part in parts if part and not _SAID_ELSEWHERE.fullmatch(part))


class Protocol(NamedTuple):
    """What must agree before two published rows may share a block."""

    split: str
    augmented: bool | None
    unstructured: bool

    @property
    def words(self) -> str:
        augmented = {True: "augmented", False: "not augmented", None: f"augmentation {NOT_STATED}"}[self.augmented]
        return ", ".join([self.split, augmented, *[_UNSTRUCTURED] * self.unstructured])


class RowKey(NamedTuple):
    """What makes published numbers one row of a table."""

    protocol: Protocol
    source: Source
    where: str
    method: str
    variant: str
    backbone: str | None
    sparsity: float | None
    encoder_params: float | None
    seeds: int | None


@dataclass(frozen=True)
class PublishedRow:
    """The numbers of one model in one source."""

    key: RowKey
    scores: tuple[PublishedScore, ...]

    @property
    def label(self) -> str:
        """Method and variant."""
        return f"{self.method}, {self.key.variant}" if self.key.variant else self.method

    @property
    def method(self) -> str:
        """The method as papers write it."""
        return _NAMES.get(self.key.method, self.key.method)

    @property
    def reference(self) -> str:
        """Where the row stands, and how it was come by."""
        taken = _TAKEN.get(self.key.source.reliability)
        return self.key.where + (f" ({taken})" if taken else "")

    @property
    def dense(self) -> bool:
        return self.key.sparsity == 0


def load_published(folder: Path = FOLDER) -> list[PublishedRow]:
    """All published rows, speedups left out, in the order of the file.

    Raises:
        DataError: a number without a source, a source that `sources.csv` does not list, or a value that cannot be.
    """
    sources = {source.key: source for source in _sources(folder / "sources.csv")}
    groups: dict[RowKey, list[PublishedScore]] = defaultdict(list)
    for score in _scores(folder / "published.csv", sources):
        if score.metric != SPEEDUP:
            groups[_row_key(score, sources[score.source_key])].append(score)
    return [PublishedRow(key, tuple(scores)) for key, scores in groups.items()]


@cache
def shipped() -> tuple[PublishedRow, ...]:
    """The rows that come with the suite."""
    return tuple(load_published())


def _row_key(score: PublishedScore, source: Source) -> RowKey:
    unstructured = _UNSTRUCTURED in score.note or (source.removes == "weights" and score.target_sparsity != 0)
    protocol = Protocol(score.split, score.augmented, unstructured)
    where = f"{score.source}, {score.table}"
    model = (score.method, score.variant, score.backbone)
    return RowKey(protocol, source, where, *model, score.target_sparsity, score.encoder_params_m, score.n_seeds)


def _sources(path: Path) -> Iterator[Source]:
    for line, row in _lines(path):
        yield _checked(Source, row, f"{path}, line {line}")


def _scores(path: Path, sources: Mapping[str, Source]) -> Iterator[PublishedScore]:
    for line, row in _lines(path):
        score = _checked(PublishedScore, row, f"{path}, line {line}")
        if score.source_key not in sources:
            raise DataError(f"{path}, line {line}: sources.csv lists no source {score.source_key!r}; add it there")
        yield score


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, its fields)."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            yield from ((reader.line_num, row) for row in reader)
    except OSError as error:
        raise DataError(f"{path}: published numbers cannot be read ({error.strerror})") from error


def _checked(kind: type[Any], row: dict[str, str], where: str) -> Any:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error


def select(rows: Iterable[PublishedRow], tasks: Iterable[str], use: str) -> list[PublishedRow]:
    """Rows of one use with the scores on these tasks, the preferred ones of several sources of one model."""
    wanted = set(tasks)
    found = [_on_tasks(row, wanted) for row in rows if row.key.source.use == use]
    return _preferred([row for row in found if row.scores])


def _on_tasks(row: PublishedRow, tasks: set[str]) -> PublishedRow:
    return PublishedRow(row.key, tuple(score for score in row.scores if score.place[0] in tasks))


def _preferred(rows: list[PublishedRow]) -> list[PublishedRow]:
    """Without the rows that a more reliable source has too: same method, backbone, sparsity and protocol."""
    best: dict[tuple, int] = {}
    for row in rows:
        best[_model(row)] = min(best.get(_model(row), 9), _preference(row))
    return [row for row in rows if _preference(row) == best[_model(row)]]


def _model(row: PublishedRow) -> tuple:
    key = row.key
    own_size = key.variant if key.sparsity is None else None  # Models without a target are told apart by their variant.
    return key.protocol, key.method, key.backbone, key.sparsity, own_size


def _preference(row: PublishedRow) -> int:
    return _PREFERENCE[row.key.source.reliability]
