"""The common interface: what a pruner, a distiller and a method are, and how they are found by name.

A *pruner* sets a mask per unit step by step and decides in the end which units stay. A *distiller* turns two views, the
student's and the teacher's, into loss parts. A *method* is a named pair of them. The training loop (`gppdfd.training`)
never asks which method it runs: any pruner goes with any distiller, and `gpp(mask=hard_once)+one-to-one` is a method
that nobody had to write.

A method lives in one file, with its `Config` and its class, and registers with `@register_pruner("name")` or
`@register_distiller("name")`. Its module is found through the entry-point group `gppdfd.methods`, in this package, in
`baselines`, or in a package of the user's own.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from transformers import PreTrainedModel

from gppdfd.budget import Target, unreachable
from gppdfd.cli import yaml_value
from gppdfd.errors import UsageError, unknown
from gppdfd.structure import Keep, Masks, Structure
from gppdfd.tasks.base import Batch
from gppdfd.views import View

LOSS_PARTS = ("task", "soft", "features", "pruner")
"""Names of the parts of the total loss: hard labels, soft labels, features, the pruner's own."""

GROUP = "gppdfd.methods"


Losses = dict[str, torch.Tensor]
"""Scalars by part."""


class Config(BaseModel):
    """Settings of a pruner or distiller: typed, frozen, unknown names and infinite numbers refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DistillerConfig(Config):
    """Weights of the loss parts that every distiller owns."""

    task_weight: float = 1.0
    soft_weight: float = 0.0
    feature_weight: float = 1.0


class Loop(Protocol):
    """What the training loop does for pruners and distillers, beside its steps."""

    @property
    def examples(self) -> int:
        """Rows of the training set."""

    @property
    def labels(self) -> torch.Tensor:
        """Their labels [examples], on the student's device, by the index that `Batch.examples` gives."""

    @property
    def batches(self) -> int:
        """Batches of the training set, as `mask_gradients` cuts it."""

    def mask_gradients(self, masks: Masks, parts: frozenset[str], batches: int | None = None) -> Iterator[Masks]:
        """Gradients of the weighted loss `parts` at `masks`, one per training batch, in evaluation mode.

        The order of the batches is always the same, no weight is changed, and each batch counts as one
        forward-backward pass. `batches` limits their number; those taken are spread over the training set.
        """

    def encodings(
        self, read: Callable[[View], torch.Tensor], who: Literal["student", "teacher"], training_mode: bool = False
    ) -> torch.Tensor:
        """What `read` makes of the views [batch, dims] of every training example: [examples, dims], without gradient.

        Views carry what the distiller needs. The student is taken as it stands: in training mode under the masks of
        the step before, else under those that its pruner evaluates it with.
        """


@dataclass(frozen=True)
class Setting:
    """What a pruner or distiller is told when its run begins.

    Attributes:
        student: the dense student, as it is before the first step.
        structure: its units.
        target: what must remain.
        search_steps: optimiser steps with masks (0 for a distiller that only ever sees an extracted student).
        generator: random stream of its own, seeded by the run.
        regression: whether the labels are real values.
        loop: services of the training loop; it has them whenever it calls `begin`.
    """

    student: nn.Module
    structure: Structure
    target: Target
    search_steps: int
    generator: torch.Generator
    regression: bool = False
    loop: Loop | None = None

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device


class Pruner(ABC):
    """Decides which units stay.

    In step t of the search (0 <= t < search_steps) the loop asks for `masks(t)`, runs the student under them, adds
    `loss(masks)` to the total loss as part `pruner`, and hands the mask gradients of the parts in `gradient_parts` to
    `observe`. After the last step it asks for `keep()` once. With `searches = False` there is no search: `keep()` is
    asked before any training.

    In step t the loop calls, in this order: `snapshot_due(t)`, `restart(t)`, `masks(t)`, `loss(masks)`, `observe`.
    `reference` names the paper, `reconstruction` says what of this implementation the paper and its code do not settle.
    Masks without a gradient of their own become leaves; a pruner with empty `gradient_parts` may return masks that are
    a differentiable function of its own parameters, and the total loss trains them.
    """

    revision: ClassVar[int] = 1
    reference: ClassVar[str] = ""
    reconstruction: ClassVar[str] = ""
    searches: ClassVar[bool] = True
    at_extraction: ClassVar[Literal["restart", "continue"]] = "restart"
    Config: ClassVar[type["Config"]] = Config

    def __init__(self, config: BaseModel | None = None) -> None:
        self.config: Any = config or self.Config()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of units that it removes."""
        return ("head", "ffn")

    @property
    def gradient_parts(self) -> frozenset[str]:
        """Loss parts whose gradient with respect to the masks it observes; empty if it needs none."""
        return frozenset()

    def scoring_epochs(self, structure: Structure, target: Target, search_epochs: float) -> float:
        """Passes over the training set that it spends on `Loop.mask_gradients`, search steps apart.

        Args:
            search_epochs: what the search may take, scoring included.
        """
        return 0.0

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        """Why this pruner cannot meet `target` on such a model, or None."""
        return unreachable(structure, target)

    def prepare(self, model: PreTrainedModel) -> None:  # noqa: B027 (optional)
        """Change the dense student in place, before anything else looks at it."""

    def begin(self, setting: Setting) -> None:
        """Called once, before the first step."""
        self.setting = setting

    def snapshot_due(self, step: int) -> bool:
        """Whether distillers take a snapshot of the student before search step `step` sets its masks.

        Asked once more after the last step, before `keep()`. By default after each tenth of the search but the last.
        """
        steps = max(1, self.setting.search_steps)
        return 0 < step < steps and 10 * step // steps > 10 * (step - 1) // steps

    def restart(self, step: int) -> int | None:
        """Steps of a new optimiser and learning-rate schedule that start before search step `step`, or None."""
        return None

    @abstractmethod
    def masks(self, step: int) -> Masks | None:
        """Masks of search step `step`, on the student's device; None leaves the student dense."""

    def evaluation_masks(self) -> Masks | None:
        """Masks to evaluate the student with as it stands in the search; None: those of the last step."""
        return None

    def loss(self, masks: Masks | None) -> torch.Tensor | None:
        """Loss part `pruner` under the masks of this step, or None."""
        return None

    def observe(self, step: int, masks: Masks, gradients: Masks) -> None:  # noqa: B027 (optional)
        """Take in the mask gradients of search step `step`, in float32."""

    @abstractmethod
    def keep(self) -> Keep:
        """The final decision, on the CPU."""

    def folded(self) -> Masks | None:
        """Soft masks to fold into the weights at extraction, asked for after `keep()`; no kept unit has mask 0."""
        return None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimisers of the pruner's own parameters, stepped after the student's."""
        return []

    def sparsity(self, step: int) -> float | None:
        """Scheduled sparsity of search step `step`, for the history."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that a run stopped here needs to go on to the same bits: tensors and plain numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (optional)
        """Counterpart of `state_dict`, called after `begin`."""


class Distiller(ABC):
    """Turns what student and teacher make of a batch into the loss parts `soft` and `features`.

    `needs` names what the views must carry: `teacher` (its logits), and of both models `hidden_states`, `projections`
    (queries, keys, values) or `sentence`; with `padding` the values at padding positions matter, so nothing may be
    cached without them; with `teacher_dropout` the teacher stays in training mode, as some released codes leave it.
    `reference` and `reconstruction` are as in `Pruner`.
    """

    revision: ClassVar[int] = 1
    reference: ClassVar[str] = ""
    reconstruction: ClassVar[str] = ""
    Config: ClassVar[type[DistillerConfig]] = DistillerConfig

    def __init__(self, config: DistillerConfig | None = None) -> None:
        self.config: Any = config or self.Config()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        """Why a student cannot learn from a teacher of such a structure, or None; asked before any training."""
        return None

    def begin(self, setting: Setting) -> None:
        """Called once, before the first step."""
        self.setting = setting

    @abstractmethod
    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        """Unweighted loss parts; scalars."""

    def weight(self, part: str) -> float:
        """Weight of a loss part in the total."""
        weights = {
            "task": self.config.task_weight,
            "soft": self.config.soft_weight,
            "features": self.config.feature_weight,
        }
        return weights.get(part, 1.0)

    def snapshot(self) -> bool:
        """Called where the pruner says that a snapshot is due, with the student under its masks so far.

        Returns:
            Whether one was taken, for the history.
        """
        return False

    def parameters(self) -> Iterable[nn.Parameter]:
        """Trainable maps of the distiller; they join the student's optimiser."""
        return ()

    def notes(self) -> dict[str, float]:
        """Counts worth recording, such as how often a guard fired."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """As in `Pruner`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (optional)
        """As in `Pruner`."""


@dataclass(frozen=True)
class Method:
    """A pruner and a distiller with their settings, under the text that names them."""

    spec: str
    pruner: type[Pruner]
    pruner_config: Config
    distiller: type[Distiller]
    distiller_config: DistillerConfig
    training: dict[str, Any] = field(default_factory=dict)
    teacher: bool = False

    def build(self) -> tuple[Pruner, Distiller]:
        """Fresh pruner and distiller."""
        return self.pruner(self.pruner_config), self.distiller(self.distiller_config)

    def identity(self) -> dict[str, Any]:
        """All that makes this method's results: names, settings that are not the defaults, revisions."""
        return {
            "pruner": _identity(pruner_name(self.pruner), self.pruner.revision, self.pruner_config),
            "distiller": _identity(distiller_name(self.distiller), self.distiller.revision, self.distiller_config),
        }


@dataclass(frozen=True)
class NamedMethod:
    """A name for a pair and its training settings; `teacher` marks plain fine-tuning of the dense model."""

    spec: str
    training: dict[str, Any] = field(default_factory=dict)
    teacher: bool = False
    reference: str = ""


T = TypeVar("T")

_pruners: dict[str, type[Pruner]] = {}
_distillers: dict[str, type[Distiller]] = {}
_methods: dict[str, NamedMethod] = {}


def register_pruner(name: str) -> Callable[[type[Pruner]], type[Pruner]]:
    """Class decorator: make a pruner known as `name`."""
    return lambda cls: _register(_pruners, "pruner", name, cls)


def register_distiller(name: str) -> Callable[[type[Distiller]], type[Distiller]]:
    """Class decorator: make a distiller known as `name`."""
    return lambda cls: _register(_distillers, "distiller", name, cls)


def register_method(name: str, method: NamedMethod) -> NamedMethod:
    """Give a pair with its training settings a name of its own."""
    return _register(_methods, "method", name, method)


def pruners() -> dict[str, type[Pruner]]:
    """All registered pruners by name."""
    _load_entry_points()
    return dict(_pruners)


def distillers() -> dict[str, type[Distiller]]:
    """All registered distillers by name."""
    _load_entry_points()
    return dict(_distillers)


def named_methods() -> dict[str, NamedMethod]:
    """All pairs that have a name of their own."""
    _load_entry_points()
    return dict(_methods)


def pruner_name(cls: type[Pruner]) -> str:
    """Name that a pruner is registered under."""
    return next(name for name, registered in pruners().items() if registered is cls)


def distiller_name(cls: type[Distiller]) -> str:
    """Name that a distiller is registered under."""
    return next(name for name, registered in distillers().items() if registered is cls)


@cache
def parse_method(text: str) -> Method:
    """Method from its name or from `pruner(option=value, ...)+distiller(option=value, ...)`.

    Raises:
        UsageError: unknown pruner, distiller or option, or a value of the wrong type.
    """
    text = "".join(text.split())
    named = named_methods().get(text)
    spec = named.spec if named else text
    parts = _split(spec, "+")
    if len(parts) != 2:
        known = [*named_methods(), *(f"{name}+..." for name in pruners())]
        raise unknown("method", text, known)
    pruner, pruner_config = _parse_part("pruner", parts[0], pruners())
    distiller, distiller_config = _parse_part("distiller", parts[1], distillers())
    return Method(
        spec=text,
        pruner=pruner,
        pruner_config=pruner_config,
        distiller=distiller,
        distiller_config=distiller_config,  # type: ignore[arg-type]
        training=named.training if named else {},
        teacher=named.teacher if named else False,
    )


def _register(table: dict[str, T], what: str, name: str, value: T) -> T:
    if name in table:
        raise ValueError(f"{what} {name!r} is registered twice")
    table[name] = value
    return value


@cache
def _load_entry_points() -> None:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        entry.load()


def _identity(name: str, revision: int, config: Config) -> dict[str, Any]:
    return {"name": name, "revision": revision, **config.model_dump(mode="json", exclude_defaults=True)}


def _parse_part(what: str, text: str, table: dict[str, type[T]]) -> tuple[type[T], Config]:
    name = text.split("(")[0]
    if name not in table:
        raise unknown(what, name, table)
    match = re.fullmatch(r"[^()]+(?:\((.*)\))?", text)
    if match is None:
        raise UsageError(f"cannot read {text!r}: write {name}(option=value, ...)")
    cls: Any = table[name]
    options = _options(match[1] or "", text)
    try:
        return cls, cls.Config(**options)
    except ValidationError as error:
        raise _option_error(text, cls.Config, error) from None


def _options(text: str, whole: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, _split(text, ",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"cannot read {part!r} in {whole!r}: write option=value")
        if name in options:
            raise UsageError(f"option {name!r} is there twice in {whole!r}")
        options[name] = yaml_value(value, f"option {name!r} of {whole!r}")
    return options


def _option_error(text: str, config: type[Config], error: ValidationError) -> UsageError:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return unknown(f"option of {text!r}", name, config.model_fields)
    return UsageError(f"option {name!r} of {text!r}: {first['msg']}")


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside parentheses."""
    return re.split(rf"\{separator}(?![^(]*\))", text)
