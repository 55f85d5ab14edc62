"""Mask values over the search, for a fixed sample of units: what the figure of the smooth path is drawn from."""

import torch

from gppdfd.structure import Masks, Structure

UNITS, POINTS = 64, 80


class IndicatorTrace:
    """Records at most 64 units per kind at about 80 steps of a search, and the final keep.

    `rows` holds (step, kind, layer, unit, value).
    """

    def __init__(self, structure: Structure, steps: int, generator: torch.Generator) -> None:
        self.rows: list[tuple[int, str, int, int, float]] = []
        self._structure, self._generator = structure, generator
        self._every = max(1, steps // POINTS)
        self._steps = steps
        self._sample: dict[str, torch.Tensor] = {}

    def record(self, step: int, masks: Masks | None) -> None:
        """Take the values of search step `step`, if it is one of those to record."""
        if masks is None or (step % self._every and step != self._steps):
            return
        for kind, values in masks.items():
            units = self._units(kind, values)
            sampled = values.detach().flatten()[units.to(values.device)].tolist()
            layered = values.shape[0] == self._structure.layers
            width = values[0].numel() if layered else values.numel()  # units per layer
            self.rows += [
                (step, kind, unit // width, unit % width, value)
                for unit, value in zip(units.tolist(), sampled, strict=True)
            ]

    def _units(self, kind: str, values: torch.Tensor) -> torch.Tensor:
        if kind not in self._sample:
            order = torch.randperm(values.numel(), generator=self._generator)
            self._sample[kind] = order[:UNITS].sort().values
        return self._sample[kind]
