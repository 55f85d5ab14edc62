"""Controls: pruning by weight norm, at random, or not at all; training without a teacher.

`magnitude` and `random` walk the same search path as GPP (same schedule, steps and allocation per kind), so that a
table row differs from GPP in the ranking alone. `none` keeps the model dense: all its steps are plain training.
"""

from typing import Any, ClassVar

from gppdfd.budget import Target
from gppdfd.gpp import PathPruner, negative_norms, uniform_draw
from gppdfd.interface import (
    Distiller,
    Losses,
    NamedMethod,
    Pruner,
    Setting,
    register_distiller,
    register_method,
    register_pruner,
)
from gppdfd.structure import Keep, Masks, Structure
from gppdfd.tasks.base import Batch
from gppdfd.views import View


@register_pruner("magnitude")
class Magnitude(PathPruner):
    """Ranks units by the L2 norm of all their weights, as they are at each update."""

    reference = "Han et al. 2015, arXiv 1506.02626, on structured units"

    def unimportance(self) -> Masks:
        return negative_norms(self.setting)


@register_pruner("random")
class Random(PathPruner):
    """Ranks units by one uniform draw."""

    reference = "control"

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._draw = uniform_draw(setting)

    def unimportance(self) -> Masks:
        return self._draw

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "draw": self._draw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._draw = state["draw"]


@register_pruner("none")
class NoPruner(Pruner):
    """Keeps every unit, so the only sparsity it reaches is 0."""

    reference = "control"
    searches: ClassVar[bool] = False

    @property
    def kinds(self) -> tuple[str, ...]:
        return ()

    def unreachable(self, structure: Structure, target: Target) -> str | None:
        too_much = target.cost(structure, structure.keep_all()) > target.budget(structure)
        return "pruner 'none' keeps the model dense" if too_much else None

    def masks(self, step: int) -> None:
        return None

    def keep(self) -> Keep:
        return self.setting.structure.keep_all()


@register_distiller("none")
class NoDistiller(Distiller):
    """Task loss alone."""

    reference = "control"

    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        return {}


register_method("dense", NamedMethod(spec="none+none", teacher=True, reference="plain fine-tuning"))
