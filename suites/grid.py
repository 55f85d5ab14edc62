"""Suite files: a YAML file with axes and presets becomes a list of runs.

The file names methods, tasks, sparsities and seeds; a preset adds everything else that a run needs. A preset
`from: NAME` begins with the shared one of `suites/presets.yaml`, a suite that `extends: SUITE` with all of that suite.
The command line narrows the axes (`--only`) and changes settings of the preset (`--set`) under the names that the file
uses.
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gppdfd.cli import set_value, yaml_value
from gppdfd.errors import UsageError, unknown
from gppdfd.validation import validated

DENSE = "dense"
AXES = ("task", "method", "sparsity", "seed")

Value = TypeVar("Value", str, float, int)


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
    def teacher_config(self) -> "Run | None": ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def _count_to_seeds(value: object) -> object:
    return list(range(1, value + 1)) if type(value) is int else value


Seeds = Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_count_to_seeds)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodRow(_Strict):
    """One row of the suite's tables: a method, how tables call it, and the paper it comes from."""

    method: str
    label: str
    paper: str = ""


class Preset(_Strict):
    """The settings that make a suite's rows into runs.

    `data`, `training` and `teacher` are passed on to the run's settings, which check them; `seeds`
    replaces the suite's, `tasks`, `methods` and `sparsities` name some of the suite's. Under the protocol
    `equal_budget` all methods train with `training`, under `paper` each with its recipe (`suites/recipes`).
    """

    model: str
    data: dict[str, Any]
    training: dict[str, Any]
    teacher: dict[str, Any]
    precision: str
    threads: int = Field(ge=1)
    select: str
    count: str
    protocol: Literal["equal_budget", "paper"] = "equal_budget"
    seeds: Seeds | None = None
    tasks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    sparsities: tuple[Sparsity, ...] | None = None


class Pairs(_Strict):
    """Rows made of every pruner with every distiller."""

    pruners: tuple[str, ...] = Field(min_length=1)
    distillers: tuple[str, ...] = Field(min_length=1)

    def rows(self) -> list[MethodRow]:
        """One row per pair, under its own name."""
        specs = [f"{pruner}+{distiller}" for pruner, distiller in product(self.pruners, self.distillers)]
        return [MethodRow(method=spec, label=spec) for spec in specs]


def _with_pairs(content: Any) -> Any:
    """The pairs of a suite as rows behind its methods."""
    if not isinstance(content, dict) or "pairs" not in content:
        return content
    pairs = Pairs.model_validate(content["pairs"])
    rest = {key: value for key, value in content.items() if key != "pairs"}
    return {**rest, "methods": [*content.get("methods", []), *(row.model_dump() for row in pairs.rows())]}


class Suite(_Strict):
    """A suite file. `reference` is the method that tables compare the others with."""

    name: str = Field(pattern="^[A-Za-z0-9_-]+$")
    title: str
    reference: str
    methods: tuple[MethodRow, ...] = Field(min_length=1)
    sparsities: tuple[Sparsity, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    seeds: Seeds = (1,)
    presets: dict[str, Preset] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _pairs_are_rows(cls, content: Any) -> Any:
        return _with_pairs(content)

    @field_validator("methods", mode="after")
    @classmethod
    def _rows_differ(cls, rows: tuple[MethodRow, ...]) -> tuple[MethodRow, ...]:
        for names in ([row.method for row in rows], [row.label for row in rows]):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{twice[0]!r} is there twice")
        return rows

    @model_validator(mode="after")
    def _reference_is_a_row(self) -> "Suite":
        if self.reference not in (specs := [row.method for row in self.methods]):
            raise ValueError(f"reference: {unknown('method', self.reference, specs)}")
        return self

    def preset(self, name: str) -> Preset:
        if name not in self.presets:
            raise unknown(f"preset of {self.name}", name, self.presets)
        return self.presets[name]

    @property
    def dense_row(self) -> MethodRow | None:
        """The row of the dense models, which are the teachers."""
        return next((row for row in self.methods if row.method == DENSE), None)


@dataclass(frozen=True)
class Request:
    """What the command line says about a suite; texts as typed.

    Attributes:
        preset: name of the preset.
        only: `axis=value,value` filters.
        settings: `key.key=value` changes of the preset.
        seeds: number of seeds, counted from 1, in place of the file's.
        model: hub name, folder or `micro`, in place of the preset's.
        data_dir: folder with the tasks' data.
    """

    preset: str = "micro"
    only: Sequence[str] = ()
    settings: Sequence[str] = ()
    seeds: int | None = None
    model: str | None = None
    data_dir: Path | None = None


@dataclass(frozen=True)
class GridRun:
    """A run and the row of the suite it belongs to.

    `order` is the position of that row; `unreachable` says why the method cannot meet the run's target, if it cannot.
    """

    config: Run
    row: MethodRow
    order: int
    unreachable: str | None = None


def suite_names() -> list[str]:
    """Names of the suites in the package."""
    folder = resources.files("suites") / "configs"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_suite(name: str, request: Request | None = None) -> Suite:
    """Read a suite by its name or by the path of its file, with the changes of `request` made to its preset.

    Raises:
        UsageError: no such suite or preset, or a file that says something that cannot be.
    """
    content = _inherited(_read_yaml(name), name)
    if request is not None:
        _apply(content, request, name)
    return validated(Suite, content, name)


def expand(suite: Suite, request: Request) -> list[GridRun]:
    """All runs of a suite that a request asks for, in the order of the file.

    Raises:
        UsageError: unknown names, settings that no run can have, the same run twice.
    """
    preset = suite.preset(request.preset)
    axes = _axes(suite, preset, request)
    make = RunMaker(preset, f"{suite.name}, preset {request.preset}", axes.tasks, request)
    runs = [make(suite.methods.index(point[0]), *point) for point in _points(axes)]
    _refuse_duplicates(runs, make.where)
    _refuse_unreachable(runs, request, make.where)
    return runs


def split_list(text: str) -> list[str]:
    """Parts between the commas that are not inside parentheses: `gpp(a=1,b=2)+dfd,dense` has two."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text)]


def _read_yaml(name: str) -> Any:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return yaml_value(_file_text(Path(name)), name)
    if name not in (names := suite_names()):
        raise unknown("suite", name, names)
    file = resources.files("suites") / "configs" / f"{name}.yaml"
    return yaml_value(file.read_text(encoding="utf-8"), name)


def _inherited(content: Any, where: str) -> Any:
    """A suite's content with what it takes over from another suite and from the shared presets."""
    if not isinstance(content, dict):
        return content
    parent = content.pop("extends", None)
    if parent is not None:
        content = {**_inherited(_read_yaml(str(parent)), str(parent)), **content}
    presets = content.get("presets")
    if isinstance(presets, dict):
        content["presets"] = {name: _from_shared(preset, where) for name, preset in presets.items()}
    return content


def _from_shared(preset: Any, where: str) -> Any:
    if not isinstance(preset, dict) or "from" not in preset:
        return preset
    file = resources.files("suites") / "presets.yaml"
    shared = yaml_value(file.read_text(encoding="utf-8"), "presets.yaml")
    own = dict(preset)
    name = own.pop("from")
    if name not in shared:
        raise unknown(f"shared preset in {where}", str(name), shared)
    return merged(shared[name], own)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; settings inside settings are merged, lists replaced."""
    inner = {
        key: merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **changes, **inner}


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"suite file {path} cannot be read: {error}") from None


def _apply(content: Any, request: Request, where: str) -> None:
    """Write the request's changes into the preset, where they are checked like the file's own."""
    presets = content.get("presets") if isinstance(content, dict) else None
    if not isinstance(presets, dict):
        return
    if request.preset not in presets:
        raise unknown(f"preset of {where}", request.preset, presets)
    preset = presets[request.preset]
    for setting in request.settings:
        _set(preset, setting)
    given = {"model": request.model, "seeds": request.seeds}
    preset.update({key: value for key, value in given.items() if value is not None})


def _set(preset: dict[str, Any], setting: str) -> None:
    first = setting.partition("=")[0].strip().split(".")[0]
    if "=" in setting and first not in Preset.model_fields:
        raise unknown("key in --set", first, Preset.model_fields)
    set_value(preset, setting)


@dataclass(frozen=True)
class _Axes:
    tasks: Sequence[str]
    rows: Sequence[MethodRow]
    sparsities: Sequence[float]
    seeds: Sequence[int]


def _axes(suite: Suite, preset: Preset, request: Request) -> _Axes:
    only = _filters(request.only)
    whole = _Axes(suite.tasks, suite.methods, suite.sparsities, preset.seeds or suite.seeds)
    narrowed = _narrow(whole, {"task": preset.tasks, "method": preset.methods, "sparsity": preset.sparsities})
    return _narrow(narrowed, only)


def _narrow(axes: _Axes, wanted: Mapping[str, Iterable[Any] | None]) -> _Axes:
    rows = {row.method: row for row in axes.rows}
    labels = {_normal(row.label): row.method for row in axes.rows}
    specs = _chosen("method", list(rows), wanted.get("method"), labels)
    return _Axes(
        _chosen("task", axes.tasks, wanted.get("task")),
        [rows[spec] for spec in specs],
        _chosen("sparsity", axes.sparsities, wanted.get("sparsity")),
        _chosen("seed", axes.seeds, wanted.get("seed")),
    )


def _chosen(
    axis: str,
    values: Sequence[Value],
    wanted: Iterable[Any] | None,
    aliases: Mapping[str, Value] | None = None,
) -> Sequence[Value]:
    """Those of `values` that are wanted, in the order of the file; all if nothing is said about the axis."""
    if wanted is None:
        return values
    names = {**(aliases or {}), **{_normal(value): value for value in values}}
    for given in wanted:
        if _normal(given) not in names:
            raise unknown(axis, str(given), map(str, values))
    chosen = {names[_normal(given)] for given in wanted}
    return [value for value in values if value in chosen]


def _normal(value: object) -> str:
    """One text for `0.80` and `0.8`, and for a method with and without spaces."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return "".join(str(value).split()).casefold()


def _filters(only: Sequence[str]) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for text in only:
        axis, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"--only {text}: write AXIS=VALUE,VALUE with an axis of: {', '.join(AXES)}")
        if axis not in AXES:
            raise unknown("axis in --only", axis, AXES)
        filters.setdefault(axis, []).extend(split_list(values))
    return filters


Point = tuple[MethodRow, int, str, float]


def _points(axes: _Axes) -> Iterator[Point]:
    for seed, task, row in product(axes.seeds, axes.tasks, axes.rows):
        for sparsity in (0.0,) if row.method == DENSE else axes.sparsities:
            yield row, seed, task, sparsity


class RunMaker:
    """The one place where a preset and a point of the grid become a run.

    Model and data are read once, so that what is wrong with them is said before anything starts.
    """

    def __init__(self, preset: Preset, where: str, tasks: Sequence[str], request: Request) -> None:
        # Imported late, because it knows all methods and loads torch.
        self._config: Any = importlib.import_module("suites.config")
        data = validated(self._config.DataConfig, preset.data, f"{where}: data")
        self._recipes: Any = importlib.import_module("suites.recipes")
        self.where, self._preset = where, preset
        self._inputs = self._config.read_inputs(preset.model, data, tasks, request.data_dir)

    def __call__(self, order: int, row: MethodRow, seed: int, task: str, sparsity: float) -> GridRun:
        fields = self._fields(row, seed, task, sparsity)
        config: Run = validated(self._config.RunConfig, fields, self.where)
        return GridRun(config, row, order, self._inputs.unreachable(config))

    def _fields(self, row: MethodRow, seed: int, task: str, sparsity: float) -> dict[str, Any]:
        preset = self._preset
        return {
            "task": task,
            "method": self._recipe(row.method, task).method or row.method,
            "sparsity": sparsity,
            "seed": seed,
            "model": preset.model,
            "model_content": self._inputs.model,
            "data": preset.data,
            "data_content": self._inputs.data[task],
            # A dense run is a teacher run: what the students do in their training is no part of it.
            "training": {} if row.method == DENSE else self._training(row.method, task),
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

    def _training(self, method: str, task: str) -> dict[str, Any]:
        return merged(self._preset.training, self._recipe(method, task).training)


def _refuse_unreachable(runs: Iterable[GridRun], request: Request, where: str) -> None:
    """A point that was asked for by name must be reachable; others are left out and shown."""
    if not {"method", "sparsity"} & set(_filters(request.only)):
        return
    for run in runs:
        if run.unreachable:
            point = f"{run.config.method} at sparsity {run.config.sparsity:g}"
            raise UsageError(f"{where}: {point} is not reachable: {run.unreachable}")


def _refuse_duplicates(runs: Iterable[GridRun], where: str) -> None:
    rows: dict[str, MethodRow] = {}
    for run in runs:
        run_id, method = run.config.run_id, run.row.method
        if run_id in rows:
            raise UsageError(f"{where}: {rows[run_id].method!r} and {method!r} make the same run twice: {run_id}")
        rows[run_id] = run.row
