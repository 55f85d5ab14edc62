"""Critical difference diagrams (Demsar 2006, JMLR 7): average ranks over tasks, methods that do not differ joined."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from suites.comparisons import comparisons_of
from suites.figures.look import wrapped
from suites.figures.places import NOTHING, Wanted
from suites.records import Results
from suites.statistics import Ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_METHODS, FEWEST_TASKS = 3, 3


def rank_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """A diagram per sparsity at which at least three methods have finished at least three tasks."""
    from matplotlib.figure import Figure

    rankings = {sparsity: found for sparsity in _sparsities(results) if (found := ranking(results, sparsity))}
    if not rankings:
        return None
    titles = {sparsity: _title(results, sparsity, found) for sparsity, found in rankings.items()}
    heights = [
        0.8 + 0.22 * ((len(found.mean) + 1) // 2) + 0.16 * titles[sparsity].count("\n")
        for sparsity, found in rankings.items()
    ]
    figure = Figure(figsize=(6.6, sum(heights) + 0.35 * len(heights)), layout="constrained")
    axes = figure.subplots(len(rankings), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (sparsity, found) in zip(axes, rankings.items(), strict=True):
        _draw(axis, found)
        axis.set_title(titles[sparsity])
    return figure


def _title(results: Results, sparsity: float, found: Ranks) -> str:
    """What the panel shows, and below it the rows that it leaves out."""
    title = f"sparsity {sparsity:g}: average rank over {found.tasks} tasks (1 is best)"
    unranked = comparisons_of(results).unranked(sparsity)
    if not unranked:
        return title
    left_out = "; ".join(f"{label} ({reason})" for label, reason in unranked.items())
    return f"{title}\n{wrapped(f'without a rank: {left_out}', 80)}"


def _sparsities(results: Results) -> list[float]:
    return sorted({run.sparsity for run in results.planned if run.role == "student"})


def ranking(results: Results, sparsity: float) -> Ranks | None:
    """Ranks of methods with comparable runs on every task, best first; None if too few methods or tasks are left."""
    found = comparisons_of(results).ranks(sparsity)
    if found.tasks < FEWEST_TASKS or len(found.mean) < FEWEST_METHODS:
        return None
    return found._replace(mean=dict(sorted(found.mean.items(), key=lambda item: item[1])))


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last place of each longest run of sorted ranks that lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _draw(axis: "Axes", found: Ranks) -> None:
    """The scale on top, names at the sides, bars over methods that do not differ significantly."""
    labels, ranks = list(found.mean), list(found.mean.values())
    bars, count = cliques(ranks, found.critical), len(labels)
    below = 0.35 + 0.22 * len(bars)
    axis.set(xlim=(0.4 - 0.45 * count, 0.6 + 1.45 * count), ylim=(below + 0.3 * ((count + 1) // 2), -1.1))
    axis.set_axis_off()
    _scale(axis, count, found.critical)
    for level, (first, last) in enumerate(bars):
        height = 0.25 + 0.22 * level
        axis.plot([ranks[first] - 0.04, ranks[last] + 0.04], [height, height], color="black", linewidth=3)
    for place, (label, rank) in enumerate(found.mean.items()):
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
