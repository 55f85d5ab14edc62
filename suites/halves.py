"""The students of a suite as pairs of a pruner and a distiller: what tables and figures that exchange one half show."""

from dataclasses import dataclass
from functools import cached_property

from suites.cells import Cells
from suites.comparisons import Comparisons

Pair = tuple[str, str]
"""(pruner, distiller), each with its options."""


@dataclass(frozen=True)
class Halves:
    """Which row of the suite stands for which pair.

    A pair may have several rows, which differ in their training: the reference stands for its own pair, and the first
    row of the suite for any other.
    """

    comparisons: Comparisons

    @property
    def cells(self) -> Cells:
        return self.comparisons.cells

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """Pair by label, one label each, where the plan knows them."""
        students = [run for run in self.cells.results.planned if run.role == "student" and run.distiller]
        pairs = {run.label: (run.pruner, run.distiller) for run in students}
        shown = {pair: label for label, pair in reversed(pairs.items())}  # the first of several comes last, and stays
        if self.comparisons.reference in pairs:
            shown[pairs[self.comparisons.reference]] = self.comparisons.reference
        return {label: pair for label, pair in pairs.items() if shown[pair] == label}

    @property
    def reference(self) -> Pair:
        return self.pairs.get(self.comparisons.reference, ("", ""))

    def labels(self, pruner: str | None = None, distiller: str | None = None) -> dict[str, str]:
        """Labels with this half, and their other half."""
        found = {}
        for label, (first, second) in self.pairs.items():
            if pruner in (None, first) and distiller in (None, second):
                found[label] = first if pruner is None else second
        return found

    @cached_property
    def crossed(self) -> dict[Pair, str]:
        """Label by pair, of pairs of which both halves have several partners; empty unless two of each are left.

        Pruners and distillers that a suite combines with one partner alone are ablations of themselves.
        """
        partners = list(zip(*self.pairs.values(), strict=True))
        crossed = {
            pair: label
            for label, pair in self.pairs.items()
            if all(column.count(half) > 1 for column, half in zip(partners, pair, strict=True))
        }
        return crossed if crossed and all(len(set(side)) > 1 for side in zip(*crossed, strict=True)) else {}
