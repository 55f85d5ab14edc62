"""What a training run notes on its way: losses, wall time, the best weights so far."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gppdfd.errors import DataError
from gppdfd.interface import Losses


class LossLog:
    """Means of loss parts between two history entries; summed on the device, read once per entry."""

    def __init__(self, log: Callable[[dict[str, Any]], None]) -> None:
        self._write = log
        self._start = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._sums: Losses = {}
        self._count = 0

    def add(self, parts: Losses, total: torch.Tensor) -> None:
        self._count += 1
        for part, loss in {**parts, "total": total}.items():
            self._sums[part] = self._sums.get(part, 0.0) + loss.detach()

    def flush(self, phase: str, step: int, rate: float, sparsity: float | None = None) -> None:
        """Write the means; a loss that is no number any more ends the run here.

        Raises:
            DataError: naming the first loss part that is NaN or infinite.
        """
        if not self._count:
            return
        means = {part: float(value) / self._count for part, value in self._sums.items()}
        for part, value in means.items():
            if not math.isfinite(value):
                raise DataError(
                    f"loss part {part!r} is {value} around step {step} of {phase}: lower the learning rate?"
                )
        entry = {"phase": phase, "step": step, "seconds": self._seconds, "lr": rate, "losses": means}
        self._write(entry if sparsity is None else {**entry, "sparsity": sparsity})
        self._reset()

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds, "sums": self._sums, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start = time.perf_counter() - state["seconds"]
        self._sums, self._count = dict(state["sums"]), state["count"]


class Best:
    """Keeps the best weights seen so far, if there is a rule to compare them by."""

    def __init__(self, rule: Callable[[Any], float] | None) -> None:
        self._rule = rule
        self._value = -math.inf
        self._step: int | None = None
        self._weights: dict[str, torch.Tensor] = {}

    def offer(self, step: int, model: nn.Module, scores: Any) -> None:
        assert self._rule is not None
        value = self._rule(scores)
        if value <= self._value:
            return
        self._value, self._step = value, step
        self._weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def restore(self, model: nn.Module) -> int | None:
        """Put the best weights back; returns the step they come from."""
        if self._step is not None:
            model.load_state_dict(self._weights)
        return self._step

    def state_dict(self) -> dict[str, Any]:
        return {"value": self._value, "step": self._step, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._value, self._step, self._weights = state["value"], state["step"], state["weights"]


class Timings:
    """Wall time by phase, of one process or of all that a run was done in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to `name`."""
        self._running[name] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds = self.so_far()
            del self._running[name]

    def so_far(self) -> dict[str, float]:
        """Seconds by phase, those of the phases that are under way included."""
        now = time.perf_counter()
        running = {name: self.seconds.get(name, 0.0) + now - start for name, start in self._running.items()}
        return {**self.seconds, **running}
