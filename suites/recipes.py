"""Settings that each published method's paper gives, per family of tasks: the protocol `paper`.

One YAML file per method in `suites/recipes`. A value that a paper searched over stands as the middle of its grid, and
the file says so. A method without a file (a control, an ablation) trains with the preset's settings.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gppdfd.cli import yaml_value
from gppdfd.validation import validated


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(_Strict):
    """What a family of tasks is trained with.

    Attributes:
        tasks: tasks of the family.
        method: the method with its options, where the family's differ from the defaults.
        training: changes to the preset's training settings.
    """

    tasks: tuple[str, ...] = ()
    method: str | None = None
    training: Mapping[str, Any] = Field(default_factory=dict)


class RecipeFile(_Strict):
    """A method's recipes with their source."""

    paper: str
    notes: str = ""
    families: Mapping[str, Recipe]


NONE = Recipe()


def recipe_names() -> list[str]:
    """Methods that have a recipe."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


@cache
def recipe_file(method: str) -> RecipeFile:
    """Recipes of a method."""
    name = f"{method}.yaml"
    text = (_folder() / name).read_text(encoding="utf-8")
    return validated(RecipeFile, yaml_value(text, f"recipes/{name}"), f"recipes/{name}")


def recipe_for(method: str, task: str) -> Recipe:
    """Recipe of a method for a task; `NONE` where its paper gives none."""
    if method not in recipe_names():
        return NONE
    families = recipe_file(method).families.values()
    return next((family for family in families if task in family.tasks), NONE)


def _folder() -> Any:
    return resources.files("suites") / "recipes"
