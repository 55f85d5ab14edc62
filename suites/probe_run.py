"""The worker's side of a probe: a run with a few steps per phase, and what the whole one would take.

Everything but the steps is as in the whole run: the same data, evaluation, extraction, measurements. A step's time is
the median of those measured in its phase, so what is done once (a teacher's outputs, a pass that scores units) counts
once and not per step. What grows with the number of epochs, scoring passes and evaluations for `best_dev`, is added.
"""

import math
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from transformers import PreTrainedModel

from gppdfd.files import write_json
from gppdfd.models import load_structure
from gppdfd.settings import TrainingConfig
from suites.config import Inputs, RunConfig
from suites.execute import Report, Run, load_teacher
from suites.probe import FOLDER, RESULT
from suites.sources import sources_hash
from suites.store import DONE, Progress

STEPS = 12
"""Steps of a probe in each phase; the first one of a phase is not measured."""


def execute(
    config: RunConfig, folder: Path, store_root: Path, data_dir: Path | None, report: Report, *more: Any
) -> None:
    """Do a probe and write `probe.json` into `folder`; called like `suites.execute.execute`."""
    # Once for nothing: data that is tokenised once per store and models that stay in memory are no part of a run.
    ProbeRun(config, folder, store_root, data_dir, report, *more)
    clock, started = StepClock(report), time.perf_counter()
    run = ProbeRun(config, folder, store_root, data_dir, clock, *more)
    run.execute()
    measured = time.perf_counter() - started
    told = {"seconds": run.whole(clock, measured), "measured": measured, "sources": sources_hash()}
    write_json(folder / RESULT, told)


class StepClock:
    """Passes progress on and notes how long the steps of each phase take."""

    def __init__(self, report: Report) -> None:
        self._report, self._last, self._time = report, Progress("", 0, 0), 0.0
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, progress: Progress) -> None:
        now, last = time.perf_counter(), self._last
        if progress.phase == last.phase and progress.step == last.step + 1:
            self._seconds[progress.phase].append(now - self._time)
        self._report(progress)
        self._last, self._time = progress, now

    def step(self, phase: str) -> float:
        """Seconds of one step of a phase; 0 where none was measured."""
        return median(self._seconds[phase]) if self._seconds[phase] else 0.0


class ShortConfig(RunConfig):
    """A run's settings with other training."""

    short: TrainingConfig

    @property
    def settings(self) -> TrainingConfig:
        return self.short


class ProbeRun(Run):
    """A run with a few steps per phase."""

    def __init__(self, config: RunConfig, folder: Path, store_root: Path, *more: Any) -> None:
        self._probes = store_root
        # Teachers that are done and tokenised data are those of the real store.
        super().__init__(config, folder, store_root.parent if store_root.name == FOLDER else store_root, *more)
        self._per_epoch = math.ceil(len(self.encoded.train) / config.settings.batch_size)
        self._whole, self._whole_scoring = self._steps(config), self._scoring(config)
        self.config = ShortConfig(**config.model_dump(), short=self._shortened(config.settings))
        self._short, self._short_scoring = self._steps(self.config), self._scoring(self.config)

    def whole(self, clock: StepClock, measured: float) -> float:
        """Seconds that the whole run would take, from those of this one."""
        steps = sum((self._whole[phase] - self._short[phase]) * clock.step(phase) for phase in self._whole)
        scoring = (self._whole_scoring - self._short_scoring) * self._per_epoch * clock.step("search")
        return measured + steps + scoring + self._more_evaluations * self.timings.seconds.get("evaluation", 0.0)

    @property
    def _more_evaluations(self) -> int:
        """How many more the whole run makes to select its best step."""
        if self.config.select == "last":
            return 0
        return math.ceil(self._whole["recovery"] / self._per_epoch) - math.ceil(
            self._short["recovery"] / self._per_epoch
        )

    def _shortened(self, settings: TrainingConfig) -> TrainingConfig:
        epochs = {f"{phase}_epochs": min(steps, STEPS) / self._per_epoch for phase, steps in self._whole.items()}
        # Scoring that is taken off the search would leave nothing of a short one.
        return settings.model_copy(update={**epochs, "before_share": 0.0, "scoring": "extra"})

    def _steps(self, config: RunConfig) -> dict[str, int]:
        rows = {config.task: len(self.encoded.train)}
        return Inputs(None, {}, rows, load_structure(config.model)).steps(config)

    def _scoring(self, config: RunConfig) -> float:
        """Epochs that the pruner spends on scoring units."""
        pruner, _ = config.parsed.build()
        return pruner.scoring_epochs(load_structure(config.model), config.target, config.settings.search_epochs)

    def _load_teacher(self) -> PreTrainedModel | None:
        """The teacher of the real store, else the probe of it: how good it is makes no difference in time."""
        if self.teacher_config is None:
            return None
        run_id = self.teacher_config.run_id
        real = self.store / run_id
        return load_teacher(real if (real / DONE).exists() else self._probes / run_id)[0]

    def _teacher_entry(self) -> None:
        return None
