"""Indicator values over the search: how each pruner's masks get from 1 to their final values."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from suites.figures.look import Look, legend_below, quiet_note, wrapped
from suites.figures.places import NOTHING, Wanted, first_of_each, place_of, shown_runs
from suites.records import PlannedRun, Results, read_history, read_indicators

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_TITLES = {
    "head": "attention heads",
    "qk": "query/key dims",
    "vo": "value/output dims",
    "ffn": "FFN dims",
    "mha_layer": "attention sublayers",
    "ffn_layer": "FFN sublayers",
    "hidden": "hidden dims",
}
MOST_PRUNERS = 4
_KEPT, _PRUNED = "#332288", "#D98A00"
_KEPT_LINE: Look = {"colors": _KEPT, "linewidths": 0.6, "alpha": 0.7}
_PRUNED_LINE: Look = {"colors": _PRUNED, "linewidths": 0.6, "alpha": 0.7, "linestyles": [(0, (4, 1.5))]}
_SCHEDULE: Look = {"color": "black", "linewidth": 1.8, "linestyle": (0, (1.2, 1.2)), "zorder": 4}
Schedule = Sequence[tuple[float, float]]


def traced_runs(results: Results, wanted: Wanted = NOTHING) -> list[PlannedRun]:
    """A run for each way of moving masks, of those with stored indicators at one place; at most four."""

    def traced(run: PlannedRun) -> bool:
        return (results.store / run.run_id / "indicators.parquet").is_file()

    return first_of_each(shown_runs(results, wanted, traced), mask_path)[:MOST_PRUNERS]


def mask_path(run: PlannedRun) -> tuple[str, ...]:
    """The pruner's name and its option `mask`: `gpp(mask=hard_once,l1=0)` -> `gpp`, `mask=hard_once`."""
    name, _, options = run.pruner.partition("(")
    return name, *re.findall(r"mask=\w+", options)


def indicator_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """Mask values of sampled units over the search: a column per pruner, a row per kind of unit."""
    from matplotlib.figure import Figure

    runs = traced_runs(results, wanted)
    if not runs:
        return None
    traces = [read_indicators(results.store / run.run_id) for run in runs]
    kinds = [kind for kind in KIND_TITLES if any((trace["kind"] == kind).any() for trace in traces)]
    width = 3.4 if len(runs) < 3 else 2.4
    figure = Figure(figsize=(max(5.0, width * len(runs)), 1.55 * len(kinds) + 1.2), layout="constrained")
    axes = figure.subplots(len(kinds), len(runs), squeeze=False, sharex="col", sharey=True)
    for column, run, trace in zip(axes.T, runs, traces, strict=True):
        _draw_run(column, trace, kinds, scheduled_sparsity(results, run))
        column[0].set_title(wrapped(run.label, int(10 * width)))
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        axis.set_ylabel(f"{KIND_TITLES[kind]}\nindicator z")
    figure.suptitle(place_of(runs[0]).title, fontsize=9)
    legend_below(figure, _unit_handles())
    return figure


def _draw_run(axes: Sequence["Axes"], trace: "pd.DataFrame", kinds: Sequence[str], schedule: Schedule) -> None:
    """The column of one run, kind by kind."""
    for axis, kind in zip(axes, kinds, strict=True):
        units = trace[trace["kind"] == kind]
        if units["step"].nunique() < 2:
            quiet_note(axis, "not pruned" if units.empty else "follows from the others")
        else:
            _draw_units(axis, units, schedule)
    axes[-1].set_xlabel("search step")


def scheduled_sparsity(results: Results, run: PlannedRun) -> Schedule:
    """(search step, scheduled sparsity) as logged during the search."""
    # History counts the steps of the whole run, indicators those of the search.
    before = results.records[run.run_id].steps.get("before", 0)
    logged = read_history(results.store / run.run_id, ["search"])
    return [(entry["step"] - before, entry["sparsity"]) for entry in logged if "sparsity" in entry]


def _draw_units(axis: "Axes", trace: "pd.DataFrame", schedule: Schedule) -> None:
    """One thin line per unit; kept are those whose last value is above one half."""
    from matplotlib.collections import LineCollection

    values = trace.pivot(index="step", columns=["layer", "unit"], values="z")
    kept = values.iloc[-1].to_numpy() > 0.5
    for chosen, look in ((~kept, _PRUNED_LINE), (kept, _KEPT_LINE)):
        paths = [_path(values.index, unit) for unit in values.to_numpy().T[chosen]]
        axis.add_collection(LineCollection(paths, **look))
    if schedule:
        axis.plot(*zip(*schedule, strict=True), **_SCHEDULE)
    axis.set_ylim(-0.04, 1.04)
    axis.margins(x=0.02)
    axis.autoscale(axis="x")


def _path(steps: Iterable[float], values: Iterable[float]) -> list[tuple[float, float]]:
    """Points of one unit's line; a mask that is only ever 0 or 1 jumps instead of sloping."""
    points = list(zip(steps, values, strict=True))
    if any(value not in (0, 1) for _, value in points):
        return points
    jumps = [(step, before) for (_, before), (step, _) in pairwise(points)]
    return points[:1] + [point for pair in zip(jumps, points[1:], strict=True) for point in pair]


def _unit_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=_KEPT, linewidth=1.0, label="kept unit"),
        Line2D([], [], color=_PRUNED, linewidth=1.0, linestyle=(0, (4, 1.5)), label="pruned unit"),
        Line2D([], [], label="scheduled sparsity", **_SCHEDULE),
    ]
