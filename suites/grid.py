"""A suite and a request become a list of runs: the axes multiplied, narrowed by the rules and by `--only`.

What suite files may say is in `suites/suite.py`.
"""

import importlib
import re
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gppdfd.errors import UsageError, unknown
from gppdfd.validation import validated
from suites.suite import (
    AXES,
    DENSE,
    MethodRow,
    Override,
    Preset,
    Request,
    Rules,
    Suite,
    Value,
    Where,
    load_suite,
    merged,
    normal,
    suite_names,
)

__all__ = ["GridRun", "Point", "Request", "Run", "RunMaker", "expand", "load_suite", "split_list", "suite_names"]


class Run(Protocol):
    """What the runner needs to know of a run's settings (`suites.config.RunConfig`)."""

    @property
    def run_id(self) -> str: ...
    @property
    def is_teacher(self) -> bool: ...
    @property
    def task(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def pair(self) -> str: ...
    @property
    def sparsity(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def settings(self) -> Hashable: ...
    def teacher_config(self) -> "Run | None": ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class GridRun:
    """A run and the row of the suite it belongs to.

    `order` is the position of that row; `unreachable` says why the method cannot meet the run's target, if it cannot;
    `steps` are the optimiser steps of each phase; `teacher` is the run that must be done first, if one must.
    """

    config: Run
    row: MethodRow = field(hash=False)
    order: int
    unreachable: str | None = None
    steps: Mapping[str, int] = field(default_factory=dict, hash=False)
    teacher: "GridRun | None" = None

    @cached_property
    def run_id(self) -> str:
        """Id of the run: a hash of all settings, made once, for a grid may have thousands of runs."""
        return self.config.run_id


def expand(suite: Suite, request: Request) -> list[GridRun]:
    """All runs of a suite that a request asks for, in the order of the file.

    Raises:
        UsageError: unknown names, settings that no run can have, the same run twice.
    """
    preset = suite.preset(request.preset)
    axes = _axes(suite, preset, request)
    make = RunMaker(suite, request, axes.tasks)
    runs = [make(point) for point in _shaped(_points(axes), (suite, preset), make.where)]
    _refuse_duplicates(runs, make.where)
    _refuse_unreachable(runs, request, make.where)
    return runs


def split_list(text: str) -> list[str]:
    """Parts between the commas that are not inside parentheses: `gpp(a=1,b=2)+dfd,dense` has two."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text)]


@dataclass(frozen=True)
class _Axes:
    tasks: Sequence[str]
    rows: Sequence[MethodRow]
    sparsities: Sequence[float]
    seeds: Sequence[int]


def _axes(suite: Suite, preset: Preset, request: Request) -> _Axes:
    only = _filters(request.only, {normal(row.label) for row in suite.methods})
    whole = _Axes(suite.tasks, suite.methods, suite.sparsities, preset.seeds or suite.seeds)
    narrowed = _narrow(whole, {"task": preset.tasks, "method": preset.methods, "sparsity": preset.sparsities})
    return _narrow(narrowed, only)


def _narrow(axes: _Axes, wanted: Mapping[str, Iterable[Any] | None]) -> _Axes:
    return _Axes(
        _chosen("task", axes.tasks, wanted.get("task")),
        _chosen_rows(axes.rows, wanted.get("method")),
        _chosen("sparsity", axes.sparsities, wanted.get("sparsity")),
        _chosen("seed", axes.seeds, wanted.get("seed")),
    )


def _chosen_rows(rows: Sequence[MethodRow], wanted: Iterable[Any] | None) -> Sequence[MethodRow]:
    """Rows by their labels, or all rows of a method by its name; all if nothing is said."""
    if wanted is None:
        return rows
    named: dict[str, list[str]] = {}
    for row in rows:
        named.setdefault(normal(row.method), []).append(row.label)
    named |= {normal(row.label): [row.label] for row in rows}
    chosen = set()
    for given in wanted:
        if normal(given) not in named:
            raise unknown("method", str(given), dict.fromkeys(row.method for row in rows))
        chosen.update(named[normal(given)])
    return [row for row in rows if row.label in chosen]


def _chosen(axis: str, values: Sequence[Value], wanted: Iterable[Any] | None) -> Sequence[Value]:
    """Those of `values` that are wanted, in the order of the file; all if nothing is said about the axis."""
    if wanted is None:
        return values
    names = {normal(value): value for value in values}
    for given in wanted:
        if normal(given) not in names:
            raise unknown(axis, str(given), map(str, values))
    chosen = {names[normal(given)] for given in wanted}
    return [value for value in values if value in chosen]


def _filters(only: Sequence[str], labels: Container[str]) -> dict[str, list[str]]:
    """Values by axis; a text that is a method's label as a whole is not split at its commas."""
    filters: dict[str, list[str]] = {}
    for text in only:
        axis, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"--only {text}: write AXIS=VALUE,VALUE with an axis of: {', '.join(AXES)}")
        if axis not in AXES:
            raise unknown("axis in --only", axis, AXES)
        whole = axis == "method" and normal(values) in labels
        filters.setdefault(axis, []).extend([values] if whole else split_list(values))
    return filters


class Point(NamedTuple):
    """One combination of values."""

    row: MethodRow
    seed: int
    task: str
    sparsity: float

    def within(self, where: Where, ignoring: str = "") -> bool:
        """Whether a rule describes this point, whatever its value on the axis `ignoring`."""
        return all(axis == ignoring or not names.isdisjoint(self._names(axis)) for axis, names in where.wanted.items())

    def _names(self, axis: str) -> tuple[str, ...]:
        if axis == "method":
            return normal(self.row.method), normal(self.row.label)
        return (normal(getattr(self, axis)),)


def _points(axes: _Axes) -> Iterator[Point]:
    for seed, task, row in product(axes.seeds, axes.tasks, axes.rows):
        for sparsity in (0.0,) if row.method == DENSE else axes.sparsities:
            yield Point(row, seed, task, sparsity)


def _shaped(points: Iterable[Point], rules: Sequence[Rules], where: str) -> list[Point]:
    """The points that all rules leave, in their order.

    Raises:
        UsageError: none is left.
    """
    points = list(points)
    left = [point for point in points if not any(_left_out(point, each) for each in rules)]
    if points and not left:
        reasons = dict.fromkeys(_left_out(points[0], each) for each in rules)
        raise UsageError(f"{where}: the rules leave no run of these: {'; '.join(filter(None, reasons))}")
    return left


def _left_out(point: Point, rules: Rules) -> str | None:
    """Why a point is no part of the grid, or None."""
    ignoring = "sparsity" if point.row.method == DENSE else ""
    if rules.points and not any(point.within(tied, ignoring) for tied in rules.points):
        return "not among the suite's `points`"
    return next((f"excluded by {rule}" for rule in rules.exclude if point.within(rule)), None)


class RunMaker:
    """The one place where a preset and a point of the grid become a run.

    Model and data are read once, so that what is wrong with them is said before anything starts; what depends on
    neither seed nor place in the grid is worked out once for all runs that are alike.
    """

    def __init__(self, suite: Suite, request: Request, tasks: Sequence[str]) -> None:
        # Imported late, because it knows all methods and loads torch.
        self._config: Any = importlib.import_module("suites.config")
        self._recipes: Any = importlib.import_module("suites.recipes")
        self.where = f"{suite.name}, preset {request.preset}"
        self._preset, self._request = suite.preset(request.preset), request
        self._order = {row.label: position for position, row in enumerate(suite.methods)}
        self._overrides = [*suite.overrides, *self._preset.overrides]
        self._check_overrides(suite.rules([request.preset]), suite.methods)
        data = validated(self._config.DataConfig, self._preset.data, f"{self.where}: data")
        self._inputs = self._config.read_inputs(self._preset.model, data, tasks, request.data_dir)
        self._known: dict[tuple[Hashable, ...], tuple[str | None, Mapping[str, int]]] = {}

    def __call__(self, point: Point) -> GridRun:
        """The run at a point.

        Raises:
            UsageError: settings that no run can have.
        """
        config: Run = validated(self._config.RunConfig, self._fields(point), self.where)
        teacher = config.teacher_config()
        return self._made(config, point.row, self._made(teacher, point.row) if teacher else None)

    def _made(self, config: Run, row: MethodRow, teacher: GridRun | None = None) -> GridRun:
        unreachable, steps = self._checked(config)
        return GridRun(config, row, self._order[row.label], unreachable, steps, teacher)

    def _check_overrides(self, rules: Iterable[tuple[str, Where]], rows: Sequence[MethodRow]) -> None:
        """Settings of points that this launch leaves out are checked too."""
        changes = {place: rule.training for place, rule in rules if isinstance(rule, Override)}
        changes |= {f"methods.{number}": row.training for number, row in enumerate(rows) if row.training}
        for place, change in changes.items():
            settings = merged(self._preset.training, change)
            validated(self._config.TrainingConfig, settings, f"{self.where}: {place}.training")

    def _checked(self, config: Run) -> tuple[str | None, Mapping[str, int]]:
        """Why a run's target cannot be reached, and the steps of its phases."""
        key = (config.task, config.method, config.sparsity, config.settings)
        if key not in self._known:
            unreachable = self._inputs.unreachable(config)
            self._known[key] = unreachable, {} if unreachable else self._steps(config)
        return self._known[key]

    def _steps(self, config: Run) -> Mapping[str, int]:
        try:
            steps: Mapping[str, int] = self._inputs.steps(config)
        except UsageError as error:
            raise UsageError(f"{self.where}: {config.method} on {config.task}: {error}") from None
        return steps

    def _fields(self, point: Point) -> dict[str, Any]:
        preset, method, task = self._preset, point.row.method, point.task
        return {
            "task": task,
            "method": self._method(method, task),
            "sparsity": point.sparsity,
            "seed": point.seed,
            "model": _whole_path(preset.model),
            "model_content": self._inputs.model,
            "data": preset.data,
            "data_content": self._inputs.data[task],
            # A dense run is a teacher run: what the students do in their training is no part of it.
            "training": {} if method == DENSE else self._training(point),
            "teacher": preset.teacher,
            "precision": preset.precision,
            "threads": preset.threads,
            "select": preset.select,
            "count": preset.count,
            "protocol": preset.protocol,
        }

    def _recipe(self, method: str, task: str) -> Any:
        paper = self._preset.protocol == "paper"
        return self._recipes.recipe_for(method, task) if paper else self._recipes.NONE

    def _method(self, method: str, task: str) -> str:
        """A row's method with the options that its paper gives."""
        return self._recipe(method, task).method or method

    def _training(self, point: Point) -> dict[str, Any]:
        """Settings of the preset, method, paper, the file's overrides, the row and the command line, in this order."""
        method, task = point.row.method, point.task
        named = self._named_training(self._method(method, task))
        overrides = [rule.training for rule in self._overrides if point.within(rule)]
        recipe = self._recipe(method, task).training
        changes = [named, recipe, *overrides, point.row.training, self._request.training]
        return reduce(merged, changes, dict(self._preset.training))

    def _named_training(self, method: str) -> Mapping[str, Any]:
        """Settings that a method with a name of its own brings along."""
        try:
            settings: Mapping[str, Any] = self._config.method_training(method)
        except UsageError as error:
            raise UsageError(f"{self.where}: method: {error}") from None
        return settings


def _whole_path(model: str) -> str:
    """Where a local model lies, whatever folder a worker is started in; the path is no part of the run's id."""
    return str(Path(model).absolute()) if model != "micro" and Path(model).is_dir() else model


def _refuse_unreachable(runs: Iterable[GridRun], request: Request, where: str) -> None:
    """A point that was asked for by name must be reachable; others are left out and shown."""
    if not {"method", "sparsity"} & {text.partition("=")[0] for text in request.only}:
        return
    for run in runs:
        if run.unreachable:
            point = f"{run.config.method} at sparsity {run.config.sparsity:g}"
            raise UsageError(f"{where}: {point} is not reachable: {run.unreachable}")


def _refuse_duplicates(runs: Iterable[GridRun], where: str) -> None:
    rows: dict[str, MethodRow] = {}
    for run in runs:
        # What decides the result, without the spelling of the method that makes the id readable.
        digest, method = run.run_id.rpartition("-")[2], run.row.method
        if digest in rows:
            raise UsageError(f"{where}: {rows[digest].method!r} and {method!r} make the same run twice: {run.run_id}")
        rows[digest] = run.row
