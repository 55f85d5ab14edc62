"""Score against sparsity: a panel per task and one for the average, a line per method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil, isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any

from suites.cells import Cells, RowKey, ScoreColumn, metric_label
from suites.comparisons import comparisons_of
from suites.figures.look import HOLLOW, UNLIKE, Look, legend_below, look_handles, looks_of
from suites.figures.places import NOTHING, Wanted
from suites.published import GENERATED, METRICS, PublishedRow, shipped
from suites.published import RowKey as PublishedKey
from suites.records import Results
from suites.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEACHER: Look = {"color": "black", "linewidth": 1.0, "zorder": 1}
_MAJORITY: Look = {"color": "black", "linewidth": 1.0, "linestyle": ":", "zorder": 1}
_PUBLISHED: Look = {"color": "#444444", "linestyle": "none", "markersize": 5.5, "zorder": 3}
BACKBONE = "bert-base-uncased"


@dataclass(frozen=True)
class Point:
    """One method at one sparsity: `sparsity` is what was reached, scores are percentages, no sd is NaN."""

    sparsity: float
    score: float
    sd: float
    weak: bool
    unlike: bool = False
    """Whether its runs missed their target or saw other data than most."""

    @property
    def hollow(self) -> bool:
        return self.weak or self.unlike


@dataclass(frozen=True)
class Panel:
    """One panel: a curve per method label, and the two levels that every curve is read against."""

    title: str
    curves: Mapping[str, Sequence[Point]]
    teacher: float
    majority: float


def score_panels(results: Results) -> list[Panel]:
    """One panel per task (primary metric, selection split) and, with several tasks, one for the average."""
    cells = comparisons_of(results).cells
    panels = [_task_panel(cells, column) for column in cells.tasks]
    return [*panels, _average_panel(cells)] if len(panels) > 1 else panels


def _task_panel(cells: Cells, column: ScoreColumn) -> Panel:
    metric = cells.primary(column.task)
    points = {
        row: _point(cells, row, [column], cells.summaries(row, column).get(metric), cells.weak(row, column))
        for row in cells.rows("student")
    }
    teachers = [cells.summaries(row, column).get(metric) for row in cells.rows("teacher")]
    return Panel(_title(cells, column), _curves(points), _level(teachers), 100 * cells.majority(column, metric))


def _average_panel(cells: Cells) -> Panel:
    points = {row: _point(cells, row, cells.tasks, cells.averages.get(row)) for row in cells.rows("student")}
    teachers = [cells.averages.get(row) for row in cells.rows("teacher")]
    majority = fmean(cells.majority(column, cells.primary(column.task)) for column in cells.tasks)
    return Panel("average", _curves(points), _level(teachers), 100 * majority)


def _point(
    cells: Cells, row: RowKey, columns: Sequence[ScoreColumn], summary: Summary | None, weak: bool = False
) -> Point:
    if summary is None:
        return Point(row[1], nan, nan, False)
    records = [record for column in columns for record in cells.done(cells.by_cell.get((*row, column.task), []))]
    reached = fmean(record.size.sparsity for record in records)
    sd = 100 * summary.sd if summary.n > 1 else nan
    return Point(reached, 100 * summary.mean, sd, weak, bool(cells.unlike(records)))


def _curves(points: Mapping[RowKey, Point]) -> dict[str, list[Point]]:
    """Points by label in order of their target."""
    curves: dict[str, list[Point]] = {}
    for (label, _), point in points.items():
        curves.setdefault(label, []).append(point)
    return curves


def _level(summaries: Iterable[Summary | None]) -> float:
    """The first known mean in percent: the dense row that the suite names first."""
    return next((100 * summary.mean for summary in summaries if summary), nan)


def score_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """Score against sparsity: a panel per task and the average, a line per method."""
    from matplotlib.figure import Figure

    if not any(record.role == "student" for record in results.records.values()):
        return None
    panels, published = score_panels(results), published_points(results)
    columns = min(3, len(panels))
    rows = ceil(len(panels) / columns)
    students = [run for run in results.planned if run.role == "student"]
    width = max(2.5 * columns, 5.0)
    looks = looks_of(run.label for run in students if run.run_id in results.records)
    figure = Figure(figsize=(width, 1.85 * rows + 0.5 + 0.1 * len(looks)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel, looks)
        others = published.get(panel.title, {})
        _draw_published(axis, others)
        shown = {run.sparsity for run in students} | {place[0] for places in others.values() for place in places}
        _tick_targets(axis, shown, width / columns)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    _label_edges(axes[: len(panels)], columns)
    figure.align_ylabels()
    legend_below(figure, [*look_handles(looks), *_level_handles(panels), *_published_handles(published)])
    return figure


def published_points(results: Results) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Published (sparsity, score) by title of the panel and method.

    BERT-base on dev without augmentation, whole units removed, primary metric; none beside runs on generated data.
    """
    if all(record.data.source == GENERATED for record in results.records.values()):
        return {}
    cells = comparisons_of(results).cells
    rows = [row for row in shipped() if _comparable(row.key)]
    return {_title(cells, column): _points_on(cells, column, rows) for column in cells.tasks}


def _comparable(key: PublishedKey) -> bool:
    pruned = bool(key.sparsity) and not key.protocol.unstructured
    return pruned and key.backbone == BACKBONE and key.protocol.split == "dev" and not key.protocol.augmented


def _points_on(cells: Cells, column: ScoreColumn, rows: Sequence[PublishedRow]) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for score in row.scores:
            same_metric = METRICS.get(score.metric, score.metric) == cells.primary(column.task)
            if score.place == (column.task, column.split) and same_metric and row.key.sparsity:
                points.setdefault(row.method, []).append((row.key.sparsity, score.value))
    return points


def _draw_published(axis: "Axes", points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for name, places in points.items():
        axis.plot(*zip(*places, strict=True), **_published_look(name))


def _published_look(name: str) -> Look:
    return {**_PUBLISHED, "marker": rf"$\mathrm{{{name[0]}}}$"}


def _published_handles(published: Mapping[str, Mapping[str, object]]) -> list[Any]:
    from matplotlib.lines import Line2D

    names = dict.fromkeys(name for points in published.values() for name in points)
    return [Line2D([], [], label=f"{name}, published, BERT-base", **_published_look(name)) for name in names]


def _title(cells: Cells, column: ScoreColumn) -> str:
    return f"{column.title} ({metric_label(cells.primary(column.task))})"


def _label_edges(axes: Sequence["Axes"], columns: int) -> None:
    """Axis labels on the left and on the lowest panel of each column only."""
    for axis in axes[-columns:]:
        axis.set_xlabel("encoder sparsity")
    for axis in axes[::columns]:
        axis.set_ylabel("score × 100")


def _draw_panel(axis: "Axes", panel: Panel, looks: Mapping[str, Look]) -> None:
    axis.set_title(panel.title)
    axis.axhline(panel.teacher, **_TEACHER)
    axis.axhline(panel.majority, **_MAJORITY)
    for label, look in looks.items():
        _draw_curve(axis, panel.curves[label], look)
    axis.margins(x=0.1, y=0.08)


def _draw_curve(axis: "Axes", points: Sequence[Point], look: Look) -> None:
    """A line that breaks where a score is missing; hollow markers where it is no evidence or its runs are unlike."""
    sparsities = [point.sparsity for point in points]
    scores = [point.score for point in points]
    axis.plot(sparsities, scores, **look)
    _draw_spread(axis, points, look["color"])
    hollow = [(point.sparsity, point.score) for point in points if point.hollow]
    if hollow:
        axis.plot(*zip(*hollow, strict=True), **(look | HOLLOW))


def _draw_spread(axis: "Axes", points: Sequence[Point], colour: str) -> None:
    """A band of one standard deviation; a bar where a curve has but one point."""
    if all(isnan(point.sd) for point in points):
        return
    if len(points) == 1:
        axis.errorbar(points[0].sparsity, points[0].score, points[0].sd, color=colour, capsize=2, elinewidth=0.9)
        return
    low, high = ([point.score + sign * point.sd for point in points] for sign in (-1, 1))
    axis.fill_between([point.sparsity for point in points], low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)


def _tick_targets(axis: "Axes", targets: Iterable[float], width: float) -> None:
    """Ticks at the suite's own sparsities, from the highest down, those left out that would touch another.

    `width` is the panel's in inches; a label needs about 0.3.
    """
    descending = sorted(targets, reverse=True)
    room = 0.3 / width * (descending[0] - descending[-1])
    ticks: list[float] = []
    for target in descending:
        if not ticks or ticks[-1] - target >= room:
            ticks.append(target)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _level_handles(panels: Sequence[Panel]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label="teacher", **_TEACHER),
        Line2D([], [], label="majority class", **_MAJORITY),
    ]
    points = [point for panel in panels for curve in panel.curves.values() for point in curve]
    reasons = [["no evidence"] * any(point.weak for point in points), [UNLIKE] * any(point.unlike for point in points)]
    if any(reasons):
        told = " or ".join(chain.from_iterable(reasons))
        handles.append(Line2D([], [], label=f"hollow: {told}", color="black", marker="o", **HOLLOW))
    return handles
