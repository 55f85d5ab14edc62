"""The plan of a launch: which runs, in which order, and how the report calls them.

`plan.parquet` carries what the pages made from the store need (ids, axes, labels, papers), so that they need
neither the suite files nor the methods.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gppdfd.files import write_atomically
from suites.grid import GridRun, expand
from suites.store import SUITE_KEY
from suites.suite import DENSE, MethodRow, Request, Suite

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class PlannedRun:
    """One run to be done, and its place in the tables.

    Attributes:
        label: how tables call the method.
        role: teachers are runs too; students wait for theirs.
        order: position of the method's row in the suite.
        paper: where the method comes from.
        pair: the method as `pruner+distiller`, also where it has a name of its own.
        reference: whether it is the method that tables compare the others with.
        threads: how many threads the run computes with.
        config: settings of the run as JSON, what a worker gets.
        teacher: run id of the teacher that must be done first.
        steps: optimiser steps of each phase; empty where the launch does not need them.
        reachable: False for a point that the method cannot reach; such a run is shown and never started.
        reason: why it cannot.
    """

    run_id: str
    task: str
    method: str
    label: str
    sparsity: float
    seed: int
    role: Role
    order: int
    paper: str = ""
    pair: str = ""
    reference: bool = False
    threads: int = 1
    config: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)
    teacher: str | None = None
    steps: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)
    reachable: bool = True
    reason: str = ""

    @property
    def title(self) -> str:
        """One line for people: `mrpc GPP+DFD 0.95 seed 1`."""
        sparsity = f" {self.sparsity:g}" if self.sparsity else ""
        return f"{self.task} {self.label}{sparsity} seed {self.seed}"


COLUMNS = (
    "run_id",
    "task",
    "method",
    "label",
    "sparsity",
    "seed",
    "role",
    "order",
    "paper",
    "pair",
    "reference",
    "reachable",
    "reason",
)


def make_plan(suite: Suite, request: Request) -> list[PlannedRun]:
    """All runs of a request, teachers first; teachers that the request left out are added."""
    runs = expand(suite, request)
    row = suite.dense_row or MethodRow(method=DENSE, label=DENSE)
    position = suite.methods.index(row) if row in suite.methods else len(suite.methods)
    needed = {run.teacher.run_id: run.teacher for run in runs if run.teacher}
    teachers = [replace(teacher, row=row, order=position) for teacher in needed.values()]
    unique = {run.run_id: _planned(run, suite.reference_row) for run in [*runs, *teachers]}
    return sorted(unique.values(), key=lambda run: run.role == "student")


def with_earlier(
    plan: Sequence[PlannedRun], suite: Suite, request: Request, rows: Sequence[Mapping[str, Any]]
) -> list[PlannedRun]:
    """A plan and those runs of an earlier one that the same settings still make.

    `--only` and `--seeds` narrow what a launch does, not what tables and status show.

    Args:
        rows: the stored plan of the earlier launch.

    Raises:
        DataError: the data of a task of the earlier launch cannot be read any more.
    """
    planned, possible = {run.run_id for run in plan}, suite.preset(request.preset).tasks or suite.tasks
    earlier = {row["run_id"]: row["task"] for row in rows if row["run_id"] not in planned}
    tasks = sorted(set(earlier.values()) & set(possible))
    if not tasks:
        return list(plan)
    everything = replace(request, only=[f"task={','.join(tasks)}"])
    whole = make_plan(_with_seeds(suite, request.preset, {row["seed"] for row in rows}), everything)
    kept = [run for run in whole if run.run_id in earlier]
    return sorted([*plan, *kept], key=lambda run: run.role == "student")


def _with_seeds(suite: Suite, name: str, seeds: Iterable[int]) -> Suite:
    """A suite in whose preset `name` these seeds are done too."""
    preset = suite.preset(name)
    all_ = tuple(sorted({*(preset.seeds or suite.seeds), *seeds}))
    return suite.model_copy(update={"presets": {**suite.presets, name: preset.model_copy(update={"seeds": all_})}})


def write_plan(plan: Sequence[PlannedRun], path: Path, suite: str = "") -> None:
    """Write the plan's columns as parquet, with the name of its suite: in that of the file a hyphen may be either's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: [getattr(run, name) for run in plan] for name in COLUMNS})
    table = table.replace_schema_metadata({SUITE_KEY: suite})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _planned(run: GridRun, reference: MethodRow) -> PlannedRun:
    config = run.config
    return PlannedRun(
        run_id=run.run_id,
        task=config.task,
        method=config.method,
        label=run.row.label,
        sparsity=config.sparsity,
        seed=config.seed,
        role="teacher" if config.is_teacher else "student",
        order=run.order,
        paper=run.row.paper,
        pair=config.pair,
        reference=run.row == reference,
        threads=config.threads,
        config=config.model_dump(mode="json"),
        teacher=run.teacher.run_id if run.teacher else None,
        steps=run.steps,
        reachable=run.unreachable is None,
        reason=run.unreachable or "",
    )
