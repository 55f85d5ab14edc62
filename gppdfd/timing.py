"""Timing with `torch.utils.benchmark`: interleaved rounds, medians with quartiles, and where they were taken.

Several functions are timed in turn, round after round in one process: a machine that is busy for a while then slows
all of them, and the ratio of two is taken within each round.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.benchmark import Timer

Name = TypeVar("Name")
Rounds = list[list[float]]
"""Seconds per call, a list for each round."""


UNSTEADY = 0.2
"""Interquartile range, as a share of the median, above which a time tells more of other processes than of the model."""


@dataclass(frozen=True)
class TimingConfig:
    """How long to time.

    Attributes:
        threads: threads within an operator.
        seconds: time spent on each function, over all rounds; a call that takes longer is timed once per round.
        rounds: how often the functions take turns.
    """

    threads: int = 1
    seconds: float = 1.0
    rounds: int = 5


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of something measured `count` times."""

    median: float
    low: float
    high: float
    count: int

    @property
    def iqr(self) -> float:
        """Distance of the quartiles."""
        return self.high - self.low

    @property
    def steady(self) -> bool:
        return self.iqr <= UNSTEADY * self.median


@dataclass(frozen=True)
class Machine:
    """What a time was measured on; times of two machines are never compared.

    `device` names the processor with its number of cores, or the GPU.
    """

    device: str
    torch: str
    threads: int


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear interpolation)."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high), len(values))


def machine(device: torch.device, threads: int) -> Machine:
    """The machine that this process runs on."""
    return Machine(device_name(device), torch.__version__, threads)


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with the number of its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} ({platform.machine()}, {_cores()} cores)"


def times(functions: Mapping[Name, Callable[[], Any]], config: TimingConfig) -> dict[Name, Rounds]:
    """Seconds per call of every function, in rounds: a, b, a, b, ...

    Runs under `torch.inference_mode`. Every turn begins with untimed calls: `blocked_autorange` finds with them how
    many calls it needs, and they warm up caches and allocator.
    """
    timers = {name: _timer(function, config) for name, function in functions.items()}
    share = config.seconds / config.rounds
    found: dict[Name, Rounds] = {name: [] for name in timers}
    with torch.inference_mode():
        for _ in range(config.rounds):
            for name, timer in timers.items():
                found[name].append(timer.blocked_autorange(min_run_time=share).times)
    return found


def pooled(rounds: Rounds) -> Spread:
    """Spread over the calls of all rounds."""
    return spread([seconds for each in rounds for seconds in each])


def ratio(slow: Rounds, fast: Rounds) -> Spread:
    """Spread over the rounds of the ratio of a round's medians: what slows a whole round cancels out."""
    return spread([float(np.median(a) / np.median(b)) for a, b in zip(slow, fast, strict=True)])


def _timer(function: Callable[[], Any], config: TimingConfig) -> Timer:
    return Timer("run()", globals={"run": function}, num_threads=config.threads)


def _processor() -> str:
    """Model name of the processor; `platform` alone does not know it on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "CPU"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
