"""What a score costs: average score against measured speedup (with its Pareto front), and against training time."""

from collections.abc import Callable, Iterable, Sequence
from math import isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from suites.cells import Cells, RowKey
from suites.comparisons import comparisons_of
from suites.figures.look import HOLLOW, UNLIKE, Look, legend_below, look_handles, looks_of, plain_log_ticks
from suites.figures.places import NOTHING, Wanted
from suites.records import Record, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Callable[[Record], float]
_FRONT: Look = {"color": "black", "linewidth": 0.9, "linestyle": (0, (3, 2)), "zorder": 1, "drawstyle": "steps-pre"}
_DENSE: Look = {"color": "black", "marker": "*", "markersize": 9, "linestyle": "none"}
_ROOM = 0.07
"""Share of an axis that the label of a point takes."""


class Point(NamedTuple):
    """One method at one sparsity: means over tasks and seeds; score in percent, its sd over seeds (NaN for one)."""

    sparsity: float
    x: float
    score: float
    sd: float
    unlike: bool = False
    """Whether its runs missed their target or saw other data than most."""


def pareto_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """Average score against the speedup of the encoder, a line per method from low to high sparsity."""
    records = list(results.records.values())
    timed = [record for record in records if record.latency and record.role == "student"]
    if not timed:
        return None
    shapes = sorted({f"{record.latency.batch} × {record.latency.tokens} tokens" for record in timed if record.latency})
    label = f"speedup of the encoder's layers ({', '.join(shapes)})"
    return _figure(results, speedup, label, dense=1.0, front=True)


def cost_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """Average score against the wall time of training, a line per method."""
    devices = sorted({record.environment.device or "unknown" for record in results.records.values()})
    if not any(record.role == "student" for record in results.records.values()):
        return None
    return _figure(results, training_seconds, f"training time of a run in seconds (on {', '.join(devices)})", log=True)


def speedup(record: Record) -> float:
    return record.latency.speedup if record.latency else nan


def training_seconds(record: Record) -> float:
    """Search, extraction and recovery; without its teacher, reading data and evaluation."""
    phases = [record.timings.get(phase, 0.0) for phase in ("search", "extraction", "recovery")]
    return sum(phases) or nan


def trade_offs(results: Results, measure: Measure) -> dict[str, list[Point]]:
    """Points of each method whose runs are finished on all tasks, from low to high sparsity."""
    cells = comparisons_of(results).cells
    points: dict[str, list[Point]] = {}
    for row in cells.rows("student"):
        if point := _point(cells, row, measure):
            points.setdefault(row[0], []).append(point)
    return points


def _point(cells: Cells, row: RowKey, measure: Measure) -> Point | None:
    summary = cells.averages.get(row)
    records = cells.done(cells.runs_of(row))
    values = [measure(record) for record in records]
    if summary is None or not values or any(map(isnan, values)):
        return None
    return Point(row[1], fmean(values), 100 * summary.mean, 100 * summary.sd, bool(cells.unlike(records)))


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other point beats in both score and x, from low to high x."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, point.score), reverse=True):
        if not best or point.score > best[-1].score:
            best.append(point)
    return best[::-1]


def _figure(
    results: Results, measure: Measure, label: str, dense: float = nan, front: bool = False, log: bool = False
) -> "Figure | None":
    from matplotlib.figure import Figure

    curves = trade_offs(results, measure)
    if not curves:
        return None
    looks = looks_of(run.label for run in results.planned if run.role == "student" and run.label in curves)
    figure = Figure(figsize=(5.6, 3.6 + 0.17 * len(curves) / 2), layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        _draw(axis, points, looks[name])
    if front:
        _draw_front(axis, [point for points in curves.values() for point in points])
    handles = (
        look_handles(looks)
        + _hollow_handles(curves.values())
        + _levels(axis, comparisons_of(results).cells, dense, front)
    )
    if log:
        _log_axis(axis, [point.x for points in curves.values() for point in points])
    axis.set(xlabel=label, ylabel="score × 100, average over tasks")
    axis.margins(x=0.06, y=0.08)
    legend_below(figure, handles)
    return figure


def _draw(axis: "Axes", points: Sequence[Point], look: Look) -> None:
    xs, scores, sds = ([getattr(point, name) for point in points] for name in ("x", "score", "sd"))
    axis.errorbar(xs, scores, sds, capsize=2, elinewidth=0.8, **look)
    hollow = [(point.x, point.score) for point in points if point.unlike]
    if hollow:
        axis.plot(*zip(*hollow, strict=True), **(look | HOLLOW))


def _hollow_handles(curves: Iterable[Sequence[Point]]) -> list:
    from matplotlib.lines import Line2D

    if not any(point.unlike for points in curves for point in points):
        return []
    return [Line2D([], [], label=f"hollow: {UNLIKE}", color="black", marker="o", **HOLLOW)]


def _draw_front(axis: "Axes", points: Sequence[Point]) -> None:
    """The front as steps; its points tell their sparsity where it changes along the front."""
    best = front(points)
    axis.plot([point.x for point in best], [point.score for point in best], **_FRONT)
    for point in told_sparsities(best, _span(point.x for point in points), _span(point.score for point in points)):
        axis.annotate(f"{point.sparsity:g}", (point.x, point.score), (3, 5), textcoords="offset points", fontsize=7)


def told_sparsities(best: Sequence[Point], width: float, height: float) -> list[Point]:
    """Points of the front that change its sparsity and have room for a label, on axes of this width and height."""
    told: list[Point] = []
    for point in best:
        near = any(abs(point.x - at.x) < _ROOM * width and abs(point.score - at.score) < _ROOM * height for at in told)
        if not near and (not told or told[-1].sparsity != point.sparsity):
            told.append(point)
    return told


def _span(values: Iterable[float]) -> float:
    known = list(values)
    return max(known) - min(known)


def _levels(axis: "Axes", cells: Cells, dense: float, front: bool) -> list:
    """Draw the dense model; handles of it and of the front."""
    from matplotlib.lines import Line2D

    scores = [100 * cells.averages[row].mean for row in cells.rows("teacher") if row in cells.averages]
    handles = []
    if front:
        handles.append(Line2D([], [], label="Pareto front (with sparsity)", **{**_FRONT, "drawstyle": "default"}))
    if scores and not isnan(dense):
        axis.plot([dense], scores[:1], **_DENSE)
        handles.append(Line2D([], [], label="dense teacher", **_DENSE))
    elif scores:
        axis.axhline(scores[0], color="black", linewidth=1.0, zorder=1)
        handles.append(Line2D([], [], label="dense teacher", color="black", linewidth=1.0))
    return handles


def _log_axis(axis: "Axes", values: Sequence[float]) -> None:
    """Logarithmic where times differ by more than three, with plain numbers as ticks."""
    if max(values) < 3 * min(values):
        return
    axis.set_xscale("log")
    plain_log_ticks(axis.xaxis)
