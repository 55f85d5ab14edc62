"""What each part of a method is worth: differences to the reference, paired over tasks and seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isnan, nan, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from suites.cells import RowKey
from suites.comparisons import comparisons_of
from suites.figures.look import Look, wrapped
from suites.figures.places import NOTHING, Wanted
from suites.records import Results
from suites.statistics import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORSE, BETTER = "#CC6677", "#56A0C8"
LEVEL = 0.95
LEAST = 3
"""With two pairs the interval is 13 times their spread: it says nothing, and hides all others."""


class Difference(NamedTuple):
    """Mean of (method - reference) over n pairs in points; `margin` is half of its 95 % interval, NaN if n < 3."""

    mean: float
    margin: float
    n: int


def ablation_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """A panel per sparsity, a bar per method, sorted by the mean over the panels."""
    from matplotlib.figure import Figure

    found = differences(results)
    labels = _sorted_labels(found)
    if not labels:
        return None
    panels = [sparsity for sparsity in sorted(found) if found[sparsity]]
    figure = Figure(figsize=(2.2 + 2.3 * len(panels), 1.0 + 0.3 * len(labels)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, sparsity in zip(axes, panels, strict=True):
        _draw(axis, [found[sparsity].get(label) or _absence(results, (label, sparsity)) for label in labels])
        pairs = sorted({difference.n for difference in found[sparsity].values()})
        axis.set_title(f"sparsity {sparsity:g}, n = {', '.join(map(str, pairs))}")
        axis.set_xlabel("difference in points")
    axes[0].set_yticks(range(len(labels)), [wrapped(label, 34) for label in labels])
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.suptitle(f"score × 100 minus that of {comparisons_of(results).reference}", fontsize=9)
    return figure


def differences(results: Results) -> dict[float, dict[str, Difference]]:
    """Differences to the reference by sparsity and label, over the (task, seed) pairs that both have finished."""
    found: dict[float, dict[str, Difference]] = defaultdict(dict)
    for (label, sparsity), comparison in comparisons_of(results).over_runs.items():
        if comparison.pairs:
            found[sparsity][label] = in_points(comparison)
    return dict(found)


def in_points(comparison: Comparison) -> Difference:
    """Mean and half width of its t interval, in points."""
    from scipy.special import (
        stdtrit,  # The quantile of Student's t, without the seconds that scipy.stats takes to load.
    )

    n = comparison.pairs
    margin = comparison.sd / sqrt(n) * stdtrit(n - 1, (1 + LEVEL) / 2) if n >= LEAST else nan
    return Difference(100 * comparison.difference, 100 * float(margin), n)


def _sorted_labels(found: Mapping[float, Mapping[str, Difference]]) -> list[str]:
    """Best first, by the mean over sparsities."""
    means: dict[str, list[float]] = {}
    for panel in found.values():
        for label, difference in panel.items():
            means.setdefault(label, []).append(difference.mean)
    return sorted(means, key=lambda label: -fmean(means[label]))


def _absence(results: Results, row: RowKey) -> str:
    """Why a row has no difference, in two words."""
    states = {run.state for run in comparisons_of(results).cells.runs_of(row)}
    if not states:
        return "not planned"
    if states == {"unreachable"}:
        return "not reachable"
    return "no pair" if "done" in states else "not finished"


def _draw(axis: "Axes", bars: Sequence[Difference | str]) -> None:
    """Bars with their intervals, worse ones hatched; or why there is none."""
    for place, bar in enumerate(bars):
        if isinstance(bar, str):
            axis.text(0, place, f" {bar}", va="center", fontsize=7, style="italic")
            continue
        look: Look = {"color": BETTER} if bar.mean >= 0 else {"color": WORSE, "hatch": "////"}
        axis.barh(place, bar.mean, height=0.62, edgecolor="white", **look)
        margin = None if isnan(bar.margin) else bar.margin
        axis.errorbar(bar.mean, place, xerr=margin, color="black", marker=".", capsize=2, linewidth=0.9)
    axis.axvline(0, color="black", linewidth=0.9)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.08)
