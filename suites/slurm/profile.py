"""Cluster profiles: what a job asks for, and what must be set up before it runs. slurm/README.md explains each key."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gppdfd.errors import UsageError, unknown
from gppdfd.validation import validated
from suites.plan import PlannedRun, Role

SHIPPED = Path(__file__).parents[2] / "slurm" / "profiles"

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_UNITS = {"s": 1 / 60, "min": 1, "h": 60, "d": 24 * 60}


class Resources(BaseModel):
    """What a job asks for; runs with equal resources go into the same array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = Field(1, ge=0)
    gpu_type: str | None = None
    cpus: int = Field(4, ge=1)
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]?B?$")
    time: int = Field(240, ge=1)
    pack: int = Field(1, ge=1)
    grace: int = Field(120, ge=1)

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, value: Any) -> Any:
        return minutes(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _time_for_work(self) -> "Resources":
        if self.grace >= self.time * 60:
            raise ValueError(f"grace of {self.grace} s leaves nothing of a time of {self.time} min")
        return self


class Override(BaseModel):
    """Other resources for some runs: those of `tasks` and `role`, where given. All other keys are resources."""

    model_config = ConfigDict(frozen=True, extra="allow")

    tasks: tuple[str, ...] = ()
    role: Role | None = None

    @property
    def resources(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def fits(self, run: PlannedRun) -> bool:
        return (not self.tasks or run.task in self.tasks) and self.role in (None, run.role)


class Profile(Resources):
    """A cluster as a user sees it.

    Attributes:
        modules: what `module load` is to load.
        environment: variables of the job.
        setup: further shell lines before the job.
        container: command in front of the worker's interpreter, such as `apptainer exec --nv image.sif`.
        python: interpreter of the workers; inside the container if there is one.
        throttle: jobs of one launch that may run at the same time.
        time_limits: how many time limits a run may meet in one launch before it counts as failed.
        sbatch: further options of sbatch.
        overrides: other resources for some runs; the last one that fits wins.
    """

    modules: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    setup: tuple[str, ...] = ()
    container: str | None = None
    python: str | None = None
    throttle: int | None = Field(None, ge=1)
    time_limits: int = Field(10, ge=0)
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    overrides: tuple[Override, ...] = ()

    @model_validator(mode="after")
    def _python_of_container(self) -> "Profile":
        if self.container and not self.python:
            raise ValueError("container needs python, the interpreter inside it, such as python3")
        return self

    @model_validator(mode="after")
    def _valid_overrides(self) -> "Profile":
        for override in self.overrides:
            validated(Resources, self._own() | override.resources, "overrides")
        return self

    def resources(self, run: PlannedRun) -> Resources:
        """What a run asks for."""
        wanted = self._own()
        for override in self.overrides:
            if override.fits(run):
                wanted |= override.resources
        return Resources.model_validate(wanted)

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Resources.model_fields}


def minutes(text: str) -> int:
    """Minutes of a time as people or Slurm write it: `90min`, `4h`, `1d`, `90` (minutes), `4:00:00`, `1-12:00:00`.

    Raises:
        ValueError: neither of these.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|d)", text.strip()):
        return max(1, round(float(match[1]) * _UNITS[match[2]]))
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text.strip()):
        return _slurm_minutes(*match.groups())
    if text.strip().isdecimal():
        return int(text)
    raise ValueError(f"{text!r} is no time: write 90min, 4h, 1d, 4:00:00 or 1-12:00:00")


def _slurm_minutes(days: str | None, first: str, second: str, third: str | None) -> int:
    """D-HH:MM, D-HH:MM:SS, HH:MM:SS; two fields without days are MM:SS, as for sbatch."""
    if days is None and third is None:
        return max(1, int(first) + (int(second) > 0))
    return int(days or 0) * 24 * 60 + int(first) * 60 + int(second) + (int(third or 0) > 0)


class _Loader(yaml.SafeLoader):
    """Reads `4:00:00` as it is written, which YAML 1.1 takes for a number to the base 60."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        base_60 = tag in _NUMBERS and ":" in str(value)
        return self.DEFAULT_SCALAR_TAG if base_60 else tag


def load_profile(name: str | Path, changes: Mapping[str, Any] | None = None) -> Profile:
    """A profile from a file, or by its name from the repository's `slurm/profiles`.

    Args:
        changes: keys that the command line sets, for every run.

    Raises:
        UsageError: no such profile, or it is not valid.
    """
    path = _find(Path(name))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a profile is a list of keys with values, such as `partition: gpu`")
    changes = dict(changes or {})
    profile = validated(Profile, content | changes, str(path))
    _check_tasks(profile, path)
    asked = {name: value for name, value in changes.items() if name in Resources.model_fields}
    # The last override that fits wins: the command line's.
    return profile.model_copy(update={"overrides": (*profile.overrides, Override(**asked))}) if asked else profile


def _check_tasks(profile: Profile, path: Path) -> None:
    tasks = [task for override in profile.overrides for task in override.tasks]
    if not tasks:
        return
    from gppdfd.tasks import TASK_NAMES  # late: it loads torch

    for task in tasks:
        if task not in TASK_NAMES:
            raise UsageError(f"{path}: {unknown('task in overrides', task, TASK_NAMES)}")


def _find(path: Path) -> Path:
    shipped = SHIPPED / f"{path}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    raise unknown("profile", str(path), [*_names(), "the path of a file"])


def _names() -> Sequence[str]:
    return [file.stem for file in SHIPPED.glob("*.yaml")]
