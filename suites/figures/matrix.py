"""Pruners against distillers: the average score of every pair."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from gppdfd.drawing import EDGE, bare, box
from suites.comparisons import comparisons_of
from suites.figures.look import UNLIKE, ink, shades, wrapped
from suites.figures.places import NOTHING, Wanted
from suites.halves import Halves, Pair
from suites.records import Results
from suites.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def matrix_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """A panel per sparsity, a row per pruner, a column per distiller, best first; hatched where there is no score."""
    from matplotlib.figure import Figure

    panels = {sparsity: scores for sparsity, scores in pair_scores(results).items() if _crossed(scores)}
    if not panels:
        return None
    pruners, distillers = (_sorted(list(panels.values()), side) for side in (0, 1))
    width, height = 1.5 + 0.62 * len(distillers), 1.5 + 0.32 * len(pruners)
    figure = Figure(figsize=(max(4.5, width), height * len(panels) + 0.2), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (sparsity, scores) in zip(axes, panels.items(), strict=True):
        unlike = unlike_pairs(results, sparsity) & set(scores)
        _draw(axis, scores, pruners, distillers, unlike)
        title = f"sparsity {sparsity:g}: score × 100, average over {_tasks(results)}"
        # As many characters as fit beside the names of the pruners.
        lines = wrapped(title, int(12 * (figure.get_figwidth() - 1.4)))
        axis.set_title(f"{lines}\n*: {UNLIKE}" if unlike else lines)
    return figure


def unlike_pairs(results: Results, sparsity: float) -> set[Pair]:
    """Pairs whose runs at a sparsity missed their target or saw other data than most."""
    comparisons = comparisons_of(results)
    labels = comparisons.unranked(sparsity)
    return {pair for pair, label in Halves(comparisons).crossed.items() if label in labels}


def pair_scores(results: Results) -> dict[float, dict[Pair, Summary]]:
    """Average over tasks of each (pruner, distiller) by sparsity, of those pairs of the table that have one."""
    halves = Halves(comparisons_of(results))
    averages = halves.cells.averages
    return {
        sparsity: {
            pair: averages[label, sparsity] for pair, label in halves.crossed.items() if (label, sparsity) in averages
        }
        for sparsity in sorted({row[1] for row in halves.cells.rows("student")})
    }


def _crossed(scores: Mapping[Pair, Summary]) -> bool:
    return len(scores) > 3


def _sorted(panels: Sequence[Mapping[Pair, Summary]], side: int) -> list[str]:
    """Pruners (side 0) or distillers (side 1), best mean first."""
    values: dict[str, list[float]] = {}
    for scores in panels:
        for pair, summary in scores.items():
            values.setdefault(pair[side], []).append(summary.mean)
    return sorted(values, key=lambda name: -fmean(values[name]))


def _draw(
    axis: "Axes",
    scores: Mapping[Pair, Summary],
    pruners: Sequence[str],
    distillers: Sequence[str],
    unlike: Container[Pair],
) -> None:
    means = [summary.mean for summary in scores.values()]
    low, span = min(means), (max(means) - min(means)) or 1.0
    for row, pruner in enumerate(pruners):
        for column, distiller in enumerate(distillers):
            summary = scores.get((pruner, distiller))
            if summary is None:
                box(axis, column, row, 1, 1, facecolor="white", edgecolor=EDGE, hatch="....", linewidth=0.4)
                continue
            shade = (summary.mean - low) / span
            box(axis, column, row, 1, 1, facecolor=shades()(shade), edgecolor="white", linewidth=0.6)
            text = _text(summary, "*" if (pruner, distiller) in unlike else "")
            axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink(shade), fontsize=7)
    axis.set(xlim=(0, len(distillers)), ylim=(len(pruners), 0), ylabel="pruner", xlabel="distiller")
    bare(axis)
    axis.tick_params(labelcolor="black")
    axis.set_yticks([row + 0.5 for row in range(len(pruners))], _short(pruners))
    axis.set_xticks([column + 0.5 for column in range(len(distillers))], _short(distillers), rotation=35, ha="right")


def _short(names: Sequence[str]) -> list[str]:
    """Names without their options, which would take more room than the cells, where no other has the same name."""
    bare_names = [name.partition("(")[0] for name in names]
    shared = Counter(bare_names)
    return [short if shared[short] == 1 else name for name, short in zip(names, bare_names, strict=True)]


def _text(summary: Summary, mark: str) -> str:
    spread = f"\n±{100 * summary.sd:.1f}" if summary.n > 1 else ""
    return f"{100 * summary.mean:.1f}{mark}{spread}"


def _tasks(results: Results) -> str:
    return ", ".join(column.title for column in comparisons_of(results).cells.tasks)
