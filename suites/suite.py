"""Suite files: what they may say, how they take over from each other, and what the command line changes in them.

The file names methods, tasks, sparsities and seeds; a preset adds everything else that a run needs. A preset
`from: NAME` begins with the shared one of `suites/presets.yaml`; a suite that `extends: SUITE` begins with all of that
suite, and its presets change those of the same name. Rules, of a suite or of one preset, shape the grid: `points` (only
these values together), `exclude` (not these), `overrides` (other training settings for some).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache, cached_property
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from gppdfd.cli import set_value, yaml_value
from gppdfd.errors import UsageError, unknown
from gppdfd.validation import validated

DENSE = "dense"
AXES = ("task", "method", "sparsity", "seed")

Value = TypeVar("Value", str, float, int)


def _count_to_seeds(value: object) -> object:
    return list(range(1, value + 1)) if type(value) is int else value


def _one_is_a_list(value: object) -> object:
    return value if value is None or isinstance(value, list | tuple) else [value]


def _without_spaces(spec: str) -> str:
    return "".join(spec.split())


Seeds = Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_count_to_seeds)]
Spec = Annotated[str, AfterValidator(_without_spaces)]  # as recipes and runs write it
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...] | None, Field(min_length=1), BeforeValidator(_one_is_a_list)]
Sparsities = Annotated[tuple[Sparsity, ...] | None, Field(min_length=1), BeforeValidator(_one_is_a_list)]
Integers = Annotated[tuple[int, ...] | None, Field(min_length=1), BeforeValidator(_one_is_a_list)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodRow(_Strict):
    """One row of the suite's tables: a method, how tables call it, and the paper it comes from.

    `training` changes the row's settings last of all that the file says. One method may have several rows under
    different labels, which these settings or overrides by label tell apart.
    """

    method: Spec
    label: Label
    paper: str = ""
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _dense_has_the_teachers(self) -> "MethodRow":
        if self.method == DENSE and self.training:
            raise ValueError(f"{DENSE} trains with the preset's `teacher` settings, which all its students share")
        return self


class Where(_Strict):
    """Points of a grid by their values: `{task: [mrpc, rte], sparsity: 0.8}` are two tasks at one sparsity.

    Methods go by their names or labels. An axis that is not named may have any value.
    """

    task: Names = None
    method: Names = None
    sparsity: Sparsities = None
    seed: Integers = None

    @model_validator(mode="after")
    def _says_something(self) -> "Where":
        if not self.wanted:
            raise ValueError(f"names no values of: {', '.join(AXES)}")
        return self

    @cached_property
    def wanted(self) -> dict[str, frozenset[str]]:
        """Values by axis, as `normal` writes them."""
        given = {axis: getattr(self, axis) for axis in AXES}
        return {axis: frozenset(map(normal, values)) for axis, values in given.items() if values is not None}

    def __str__(self) -> str:
        given = {axis: getattr(self, axis) for axis in self.wanted}
        return " ".join(f"{axis}={','.join(map(str, values))}" for axis, values in given.items())


class Override(Where):
    """Other training settings for some points of the grid, on top of the preset's and of the paper's."""

    training: dict[str, Any] = Field(min_length=1)


class Rules(_Strict):
    """What shapes a grid besides its axes; a suite and its presets may both have rules, and all of them hold.

    Attributes:
        points: tied axes: of the product of all axes, only the points that one of these describes. A dense row has no
            sparsity and stays wherever its task and seed do.
        exclude: points that are left out.
        overrides: training settings of some points; later ones win.
    """

    points: tuple[Where, ...] | None = Field(None, min_length=1)
    exclude: tuple[Where, ...] = ()
    overrides: tuple[Override, ...] = ()

    def named(self) -> Iterable[tuple[str, Where]]:
        """Every rule with its place in the file."""
        for kind in ("points", "exclude", "overrides"):
            for number, rule in enumerate(getattr(self, kind) or ()):
                yield f"{kind}.{number}", rule


class Preset(Rules):
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
    if not isinstance(content, dict) or content.get("pairs") is None:
        return content
    pairs = Pairs.model_validate(content["pairs"])
    rest = {key: value for key, value in content.items() if key != "pairs"}
    return {**rest, "methods": [*content.get("methods", []), *(row.model_dump() for row in pairs.rows())]}


class Suite(Rules):
    """A suite file. `reference` is the method that tables compare the others with."""

    name: str = Field(pattern="^[A-Za-z0-9_-]+$")
    title: str
    reference: Spec
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
        labels = [row.label for row in rows]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return rows

    @model_validator(mode="after")
    def _reference_is_a_row(self) -> "Suite":
        if self.reference not in (specs := [row.method for row in self.methods]):
            raise ValueError(f"reference: {unknown('method', self.reference, specs)}")
        return self

    @model_validator(mode="after")
    def _rules_name_values_of_the_axes(self) -> "Suite":
        for place, rule in self.rules():
            for axis, names in rule.wanted.items():
                if strange := sorted(names - self._values[axis]):
                    raise ValueError(f"{place}: {unknown(axis, strange[0], self._shown[axis])}")
        return self

    @model_validator(mode="after")
    def _dense_has_the_teachers(self) -> "Suite":
        dense = {DENSE, *(normal(row.label) for row in self.methods if row.method == DENSE)}
        for place, rule in self.rules():
            if isinstance(rule, Override) and dense & rule.wanted.get("method", frozenset()):
                raise ValueError(
                    f"{place}: {DENSE} trains with the preset's `teacher` settings, which all its students share"
                )
        return self

    def rules(self, presets: Iterable[str] | None = None) -> Iterable[tuple[str, Where]]:
        """All rules of the suite and of some of its presets (None: all), with their places in the file."""
        yield from self.named()
        for name in self.presets if presets is None else presets:
            yield from ((f"presets.{name}.{place}", rule) for place, rule in self.presets[name].named())

    @property
    def _shown(self) -> dict[str, list[str]]:
        """Values of the axes for messages."""
        seeds = {*self.seeds, *(seed for preset in self.presets.values() for seed in preset.seeds or ())}
        methods = [row.method for row in self.methods]
        given = {"task": self.tasks, "method": methods, "sparsity": self.sparsities, "seed": sorted(seeds)}
        return {axis: list(map(str, values)) for axis, values in given.items()}

    @property
    def _values(self) -> dict[str, frozenset[str]]:
        """Values of the axes as `normal` writes them; a method under its label too."""
        labels = {"method": [row.label for row in self.methods]}
        return {axis: frozenset(map(normal, [*values, *labels.get(axis, ())])) for axis, values in self._shown.items()}

    def preset(self, name: str) -> Preset:
        if name not in self.presets:
            raise unknown(f"preset of {self.name}", name, self.presets)
        return self.presets[name]

    @property
    def reference_row(self) -> MethodRow:
        """The row that tables compare the others with: the first of its method."""
        return next(row for row in self.methods if row.method == self.reference)

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

    @property
    def training(self) -> dict[str, Any]:
        """What `settings` say about training: the last word, over papers and overrides."""
        changed: dict[str, Any] = {}
        for setting in self.settings:
            set_value(changed, setting)
        training = changed.get("training")
        return training if isinstance(training, dict) else {}


def suite_names() -> list[str]:
    """Names of the suites in the package."""
    folder = resources.files("suites") / "configs"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_suite(name: str, request: Request | None = None) -> Suite:
    """Read a suite by its name or by the path of its file, with the changes of `request` made to its preset.

    Raises:
        UsageError: no such suite or preset, or a file that says something that cannot be.
    """
    content = _inherited(name)
    if request is not None:
        _apply(content, request, name)
    return validated(Suite, content, name)


@cache
def normal(value: object) -> str:
    """One text for `0.80` and `0.8`, and for a method with and without spaces; two numbers never share one."""
    try:
        return str(Decimal(str(value)).normalize())
    except InvalidOperation:
        return "".join(str(value).split()).casefold()


def _read_yaml(name: str) -> Any:
    if _is_path(name):
        return yaml_value(_file_text(Path(name)), name)
    if name not in (names := suite_names()):
        raise unknown("suite", name, names)
    file = resources.files("suites") / "configs" / f"{name}.yaml"
    return yaml_value(file.read_text(encoding="utf-8"), name)


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name


def _inherited(name: str, below: tuple[str, ...] = ()) -> Any:
    """A suite's content with what it takes over from another suite and from the shared presets.

    Args:
        below: suites that extend this one, from the first to the last.
    """
    if name in below:
        raise UsageError(f"{below[0]}: extends goes round in a circle: {' -> '.join([*below, name])}")
    content = _read_yaml(name)
    if not isinstance(content, dict):
        return content
    own = {key: value for key, value in content.items() if key != "extends"}
    parent = _parent(content, name, (*below, name))
    if isinstance(own.get("presets"), dict):
        own["presets"] = _presets(parent.get("presets", {}), own["presets"], name)
    return {**parent, **own}


def _parent(content: Mapping[str, Any], name: str, below: tuple[str, ...]) -> dict[str, Any]:
    """Content of the suite that another one extends; a path is meant from the folder of the file that names it."""
    given = content.get("extends")
    if given is None:
        return {}
    # Without `..`, so that a circle of files meets a name that it has met.
    path = os.path.normpath(Path(name).parent / str(given))
    parent = _inherited(path if _is_path(str(given)) else str(given), below)
    if not isinstance(parent, dict):
        raise UsageError(f"{name}: extends {given}: this file is no suite")
    return parent


def _presets(parents: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Presets of a suite that extends another: changes to the parent's, unless they begin anew with `from`."""
    made = dict(parents)
    for name, preset in own.items():
        change = isinstance(preset, dict) and "from" not in preset and name in parents
        made[name] = merged(parents[name], preset) if change else _from_shared(preset, where)
    return made


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
