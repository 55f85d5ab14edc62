"""Critical difference diagrams (Demsar 2006, JMLR 7): average ranks over tasks, methods that do not differ joined."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from suites.figures.places import NOTHING, Wanted
from suites.records import Results
from suites.statistics import primary_scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_METHODS, FEWEST_TASKS = 3, 3


class Ranking(NamedTuple):
    """Average rank of each method (1 is best), critical difference at 5 %, number of tasks."""

    ranks: Mapping[str, float]
    difference: float
    tasks: int


def rank_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """A diagram per sparsity at which at least three methods have finished at least three tasks."""
    from matplotlib.figure import Figure

    rankings = {sparsity: found for sparsity in _sparsities(results) if (found := ranking(results, sparsity))}
    if not rankings:
        return None
    heights = [0.8 + 0.22 * ((len(found.ranks) + 1) // 2) for found in rankings.values()]
    figure = Figure(figsize=(6.6, sum(heights) + 0.35 * len(heights)), layout="constrained")
    axes = figure.subplots(len(rankings), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (sparsity, found) in zip(axes, rankings.items(), strict=True):
        _draw(axis, found)
        axis.set_title(f"sparsity {sparsity:g}: average rank over {found.tasks} tasks (1 is best)")
    return figure


def _sparsities(results: Results) -> list[float]:
    return sorted({run.sparsity for run in results.planned if run.role == "student"})


def ranking(results: Results, sparsity: float) -> Ranking | None:
    """Ranks by the mean over seeds, of methods and tasks without gaps; None if too few are left."""
    scores = primary_scores(results)
    table = scores[(scores["role"] == "student") & (scores["sparsity"] == sparsity)].pivot_table(
        index="task", columns="label", values="value"
    )
    whole = table.loc[:, table.notna().sum() == len(table)]
    if len(whole) < FEWEST_TASKS or whole.shape[1] < FEWEST_METHODS:
        return None
    return Ranking(average_ranks(whole), critical_difference(whole.shape[1], len(whole)), len(whole))


def average_ranks(table: "pd.DataFrame") -> dict[str, float]:
    """Mean rank of each column over the rows, best first; ties share their ranks."""
    ranks = table.rank(axis=1, ascending=False).mean()
    return {str(label): float(rank) for label, rank in ranks.sort_values(kind="stable").items()}


def critical_difference(methods: int, tasks: int, level: float = 0.05) -> float:
    """Difference of average ranks that the Nemenyi test finds significant."""
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(1 - level, methods, float("inf")) / sqrt(2)
    return float(quantile * sqrt(methods * (methods + 1) / (6 * tasks)))


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last place of each longest run of sorted ranks that lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _draw(axis: "Axes", found: Ranking) -> None:
    """The scale on top, names at the sides, bars over methods that do not differ significantly."""
    labels, ranks = list(found.ranks), list(found.ranks.values())
    bars, count = cliques(ranks, found.difference), len(labels)
    below = 0.35 + 0.22 * len(bars)
    axis.set(xlim=(0.4 - 0.45 * count, 0.6 + 1.45 * count), ylim=(below + 0.3 * ((count + 1) // 2), -1.1))
    axis.set_axis_off()
    _scale(axis, count, found.difference)
    for level, (first, last) in enumerate(bars):
        height = 0.25 + 0.22 * level
        axis.plot([ranks[first] - 0.04, ranks[last] + 0.04], [height, height], color="black", linewidth=3)
    for place, (label, rank) in enumerate(found.ranks.items()):
        left = place < (count + 1) // 2
        row = place if left else count - 1 - place
        height, side = below + 0.3 * row, (0.8 if left else count + 0.2)
        axis.plot([rank, rank, side], [0, height, height], color="black", linewidth=0.8)
        axis.text(side, height, f" {label} {rank:.2f} ", ha="right" if left else "left", va="center", fontsize=8)


def _scale(axis: "Axes", count: int, difference: float) -> None:
    axis.plot([1, count], [0, 0], color="black", linewidth=1)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [0, -0.12], color="black", linewidth=1)
        axis.text(rank, -0.2, str(rank), ha="center", va="bottom", fontsize=7)
    shown = min(difference, count - 1)
    axis.plot([1, 1 + shown], [-0.75, -0.75], color="black", linewidth=2, marker="|", markersize=6)
    more = "" if shown == difference else ": longer than the scale"
    axis.text(1 + shown / 2, -0.82, f"critical difference {difference:.2f}{more}", ha="center", va="bottom", fontsize=7)
