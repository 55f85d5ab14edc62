"""Stored runs as data: the launch plan and every run's record, checked and joined into two tidy frames.

Imports no torch, so that a report is made in seconds on any machine that holds the store.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from gppdfd.errors import DataError, UsageError
from suites.store import DONE, State, Store

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
_AXES = ["run_id", "task", "method", "label", "sparsity", "seed", "role"]
PLAN_COLUMNS = [*_AXES, "order", "paper", "reachable", "reason"]
# Plans of older launches lack these; what stands for them is in `_completed`.
_LATER_COLUMNS = ("pair", "reference")
SCORE_COLUMNS = [*_AXES, "split", "metric", "primary", "value", "majority", "teacher"]
Scores = dict[str, dict[str, float]]


class _Part(BaseModel):
    """Read-only piece of a record; fields that a later version adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Primary(_Part):
    split: str
    metric: str
    value: float


class TeacherScores(_Part):
    run_id: str
    scores: Scores


class Size(_Part):
    """Sizes of the finished model and of the dense one; FLOPs at the task's mean length and at 128 tokens."""

    encoder_dense: int
    encoder_kept: int
    sparsity: float
    total: int | None = None
    total_without_embeddings: int | None = None
    nonzero: int | None = None
    density: dict[str, float] = {}
    flops_task: int
    flops_task_dense: int | None = None

    @property
    def flops_ratio(self) -> float:
        """How many times fewer FLOPs than the dense model, NaN if unknown."""
        if not self.flops_task_dense or not self.flops_task:
            return float("nan")
        return self.flops_task_dense / self.flops_task


class Latency(_Part):
    """Seconds for one batch through the layers of this model, and the dense model's over them."""

    batch: int
    tokens: int
    seconds: float
    speedup: float


class Data(_Part):
    source: str
    content: str
    subset: tuple[str, ...] = ()
    max_train_rows: int | None = None


class Selection(_Part):
    rule: str
    step: int


class Binarisation(_Part):
    """Scores with the masks of the last search step and right after these became binary, before any recovery."""

    before: Scores
    after: Scores


class Environment(_Part):
    device: str | None = None
    precision: str | None = None
    commit: str | None = None
    dirty: bool | None = None


class Record(_Part):
    """What the report reads of a run's `record.json`.

    Scores are fractions, timings seconds, `peak_memory` bytes; `kept` counts the kept units of each kind by layer.
    """

    run_id: str
    task: str
    method: str
    label: str
    sparsity_target: float
    seed: int
    role: str
    model: str
    scores: Scores
    primary: Primary
    majority: Scores
    missing: dict[str, str] = {}
    teacher: TeacherScores | None = None
    size: Size
    latency: Latency | None = None
    kept: dict[str, tuple[int, ...]] = {}
    data: Data
    timings: dict[str, float] = {}
    steps: dict[str, int] = {}
    scoring_passes: int | None = None
    peak_memory: int | None = None
    binarisation: Binarisation | None = None
    notes: dict[str, float] = {}
    selection: Selection
    warnings: tuple[str, ...] = ()
    constant_predictions: tuple[str, ...] = ()
    environment: Environment = Environment()
    sources: str | None = None
    finished: str
    config: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        """Wall-clock time of the whole run; its phases added up where no total was taken."""
        return self.timings.get("total", sum(self.timings.values()))

    @property
    def single_weights(self) -> bool:
        """Whether the run zeroed single weights, so that its model is no smaller than the dense one."""
        return "weight" in self.kept

    @property
    def on_gpu(self) -> bool:
        """Whether the run was done on a GPU."""
        return (self.environment.device or "").startswith("cuda")

    @property
    def missed_target(self) -> bool:
        """Whether the true sparsity is more than 0.5 points away from the target (rounding aside)."""
        return abs(self.size.sparsity - self.sparsity_target) > 0.005 + 1e-9


class PlannedRun(NamedTuple):
    """One row of the plan, with what became of it.

    `pair` is the method as `pruner+distiller`; `reference` marks the method that tables compare the others with.
    `state` is done, failed, blocked, missing or unreachable; `note` says why the run is not done.
    """

    run_id: str
    task: str
    method: str
    label: str
    sparsity: float
    seed: int
    role: str
    order: int
    paper: str
    reachable: bool
    reason: str
    state: str
    note: str
    pair: str
    reference: bool

    @property
    def pruner(self) -> str:
        """First half of the pair, with its options."""
        return split_outside(self.pair, "+")[0]

    @property
    def distiller(self) -> str:
        """Second half of the pair; empty if the plan does not say what is behind a method's name."""
        return "".join(split_outside(self.pair, "+")[1:])


def split_outside(text: str, separator: str) -> list[str]:
    """Parts between separators outside parentheses: `a(x=1+2)+b` has two at `+`."""
    return re.split(rf"\{separator}(?![^(]*\))", text)


@dataclass(frozen=True, eq=False)  # compared by identity, so that what was computed of it is found again
class Results:
    """Everything a report is made from.

    Attributes:
        store: folder of the runs.
        runs: one row per planned run in the plan's order, with the fields of `PlannedRun`.
        records: record of each finished run by run id.
    """

    store: Path
    runs: "pd.DataFrame"
    records: dict[str, Record]

    @cached_property
    def planned(self) -> list[PlannedRun]:
        """The rows of `runs`, typed."""
        return [PlannedRun(*row) for row in self.runs[list(PlannedRun._fields)].itertuples(index=False, name=None)]

    @cached_property
    def scores(self) -> "pd.DataFrame":
        """One row per finished run x split x metric; all values are fractions.

        `primary` marks the task's primary metric; `majority` and `teacher` are what the majority class and
        the run's own teacher score there (NaN where unknown).
        """
        import pandas as pd

        rows = [
            (*axes, *score)
            for axes in self.runs[_AXES].itertuples(index=False, name=None)
            if axes[0] in self.records
            for score in _score_rows(self.records[axes[0]])
        ]
        return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def _score_rows(record: Record) -> list[tuple[Any, ...]]:
    """(split, metric, primary, value, majority, teacher) of every score."""
    teacher = record.teacher.scores if record.teacher else {}
    return [
        (
            split,
            metric,
            metric == record.primary.metric,
            value,
            _lookup(record.majority, split, metric),
            _lookup(teacher, split, metric),
        )
        for split, metrics in record.scores.items()
        for metric, value in metrics.items()
    ]


def _lookup(scores: Scores, split: str, metric: str) -> float:
    return scores.get(split, {}).get(metric, float("nan"))


def read_plan(path: Path) -> "pd.DataFrame":
    """The planned runs in their order.

    Raises:
        UsageError: no such plan; says which command makes it and which plans there are.
        DataError: the file is broken, lacks columns or plans two runs for one cell of a table.
    """
    import pandas as pd

    if not path.is_file():
        raise UsageError(_no_plan(path))
    try:
        plan = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable parquet ({_first_line(error)}); launch again") from error
    if absent := [column for column in PLAN_COLUMNS if column not in plan]:
        raise DataError(f"{path}: the plan lacks the columns {', '.join(absent)}; launch again to rewrite it")
    plan = _completed(plan.sort_values("order", kind="stable", ignore_index=True))
    _check_cells(plan, path)
    return plan


def _completed(plan: "pd.DataFrame") -> "pd.DataFrame":
    """A plan of an older launch: its methods' names are their pairs, its first student method is the reference."""
    students = plan.loc[plan["role"] == "student", "method"]
    later = {"pair": plan["method"], "reference": plan["method"] == next(iter(students), None)}
    return plan.assign(**{name: later[name] for name in _LATER_COLUMNS if name not in plan})


def _no_plan(path: Path) -> str:
    suite, _, preset = path.stem.rpartition("-")
    command = f"python -m suites.run {suite} --preset {preset} --store {path.parent.parent}"
    others = ", ".join(sorted(plan.stem for plan in path.parent.glob("*.parquet")))
    return f"no plan {path}: nothing launched yet. `{command}` makes it. Plans here: {others or 'none'}"


def _check_cells(plan: "pd.DataFrame", path: Path) -> None:
    """Two runs that differ in something no table shows must not be averaged as if they were seeds."""
    cell = ["label", "task", "sparsity", "seed"]
    doubled = plan[plan.duplicated(cell, keep=False)]
    if doubled.empty:
        return
    first = doubled.iloc[0]
    rivals = ", ".join(doubled.loc[(doubled[cell] == first[cell]).all(axis=1), "run_id"])
    raise DataError(f"{path}: several runs for one table cell ({first['label']}, {first['task']}): {rivals}")


def read_results(plan_file: Path, store: Path) -> Results:
    """The runs of a plan with whatever the store holds of them."""
    return _results(store, read_plan(plan_file))


def _results(store: Path, plan: "pd.DataFrame") -> Results:
    rows = plan[["run_id", "reachable", "reason"]].itertuples(index=False)
    states = [_state(Store(store), *row) for row in rows]
    runs = plan.assign(state=[str(state) for state, _ in states], note=[note for _, note in states])
    done = runs.loc[runs["state"] == State.DONE, "run_id"]
    return Results(store, runs, {run_id: read_record(store / run_id) for run_id in done})


def _state(store: Store, run_id: str, reachable: bool, reason: str) -> tuple[str, str]:
    """(state, why it is not done)."""
    if not reachable:
        return "unreachable", reason
    state = store.state(run_id)
    if state in (State.FAILED, State.BLOCKED):
        return state, _first_line(store.reason(run_id) or "no reason given")
    return state, ""


def _first_line(text: object) -> str:
    line = (str(text).strip().splitlines() or [""])[0]
    return line if len(line) <= 160 else f"{line[:159]}…"


def read_record(folder: Path) -> Record:
    """The checked record of one finished run.

    Raises:
        DataError: no record, another schema version, or fields that are absent or of the wrong type.
    """
    path = folder / "record.json"
    content = _json_object(path)
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"{path}: record schema {content.get('schema')!r}, this version reads {SCHEMA}; "
            "use the matching version, or delete the run's folder and launch again"
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise DataError(f"{path}: {where}: {fault['msg']}; {_REDO}") from error


def finished_record(folder: Path) -> Record:
    """The record of a run that a command names; `read_record` says what else may be wrong.

    Raises:
        UsageError: no finished run.
    """
    if not (folder / DONE).is_file():
        raise UsageError(f"{folder} is no finished run; give run ids (with --store DIR) or folders of runs")
    return read_record(folder)


_REDO = "delete the run's folder and launch again"


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: marked as done but not readable ({error.strerror}); {_REDO}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({_first_line(error)}); {_REDO}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; {_REDO}")
    return content


def read_indicators(folder: Path) -> "pd.DataFrame":
    """Mask values of the sampled units over the search: columns step, kind, layer, unit, z.

    Raises:
        DataError: the file is broken or lacks columns.
    """
    import pandas as pd

    path = folder / "indicators.parquet"
    try:
        return pd.read_parquet(path, columns=["step", "kind", "layer", "unit", "z"])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as indicators ({_first_line(error)}); {_REDO}") from error


def read_history(folder: Path, phases: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Logged steps and evaluations of a run, of some phases or of all.

    Raises:
        DataError: a line is not JSON.
    """
    path = folder / "history.jsonl"
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON lines ({_first_line(error)}); {_REDO}") from error
    wanted = None if phases is None else set(phases)
    return [entry for entry in entries if wanted is None or entry.get("phase") in wanted]
