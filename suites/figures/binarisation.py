"""What it costs to turn the masks of a search into kept and pruned units, and what recovery brings back."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from suites.comparisons import comparisons_of
from suites.figures.look import Look, legend_below, wrapped
from suites.figures.places import NOTHING, Wanted
from suites.records import Record, Results, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEFORE: Look = {"color": "#D98A00", "marker": "o", "linestyle": "none", "markerfacecolor": "white", "zorder": 3}
_AFTER: Look = {"color": "#332288", "marker": "s", "linestyle": "none", "markersize": 4.5, "zorder": 4}
_FINAL: Look = {"color": "black", "marker": "|", "linestyle": "none", "markersize": 9, "zorder": 2}
_BAR: Look = {"color": "#CC6677", "linewidth": 2.2, "zorder": 1}


class Passage(NamedTuple):
    """Mean primary scores x 100 of a method at one sparsity, over the runs that noted them."""

    label: str
    before: float
    after: float
    final: float


def binarisation_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """A panel per sparsity, a row per searching method; those that lose most come first."""
    from matplotlib.figure import Figure

    found = passages(results)
    if not found:
        return None
    most = max(map(len, found.values()))
    figure = Figure(figsize=(1.2 + 3.6 * len(found), 1.2 + 0.27 * most), layout="constrained")
    for axis, (sparsity, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        _draw(axis, rows)
        axis.set_title(f"sparsity {sparsity:g}")
        axis.set_ylim(most - 0.4, -0.6)
    legend_below(figure, _handles())
    return figure


def passages(results: Results) -> dict[float, list[Passage]]:
    """The methods' scores by sparsity, the largest loss first; incomplete rows say how many runs they rest on."""
    cells = comparisons_of(results).cells
    found: dict[float, list[Passage]] = defaultdict(list)
    for row in cells.rows("student"):
        runs = cells.runs_of(row)
        records = [record for record in cells.done(runs) if record.binarisation]
        if records:
            some = "" if len(records) == len(runs) else f" ({len(records)} of {len(runs)} runs)"
            found[row[1]].append(_mean(row[0] + some, records))
    return {sparsity: sorted(found[sparsity], key=lambda row: row.after - row.before) for sparsity in sorted(found)}


def _mean(label: str, records: Sequence[Record]) -> Passage:
    marks = [record.binarisation for record in records if record.binarisation]
    return Passage(
        label,
        _primary(records, (mark.before for mark in marks)),
        _primary(records, (mark.after for mark in marks)),
        _primary(records, (record.scores for record in records)),
    )


def _primary(records: Sequence[Record], scores: Iterable[Scores]) -> float:
    pairs = zip(records, scores, strict=True)
    return 100 * fmean(found[record.primary.split][record.primary.metric] for record, found in pairs)


def _draw(axis: "Axes", rows: Sequence[Passage]) -> None:
    places = range(len(rows))
    axis.hlines(places, [row.before for row in rows], [row.after for row in rows], **_BAR)
    axis.plot([row.final for row in rows], places, **_FINAL)
    axis.plot([row.before for row in rows], places, **_BEFORE)
    axis.plot([row.after for row in rows], places, **_AFTER)
    axis.set_yticks(places, [wrapped(row.label, 34) for row in rows])
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("mean score × 100")
    axis.margins(x=0.06)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D

    looks = {"masks of the last search step": _BEFORE, "binary masks": _AFTER, "after recovery": _FINAL}
    return [Line2D([], [], label=label, **look) for label, look in looks.items()]
