"""Indicator values over the search: the smooth real-to-binary path against the hard variant."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gppdfd.errors import UsageError
from suites.cells import score_columns
from suites.figures.look import Look, legend_below, style
from suites.records import PlannedRun, Results, read_history, read_indicators

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_TITLES = {"head": "attention heads", "ffn": "FFN dimensions"}
_KEPT, _PRUNED = "#332288", "#D98A00"
_KEPT_LINE: Look = {"colors": _KEPT, "linewidths": 0.6, "alpha": 0.7}
_PRUNED_LINE: Look = {"colors": _PRUNED, "linewidths": 0.6, "alpha": 0.7, "linestyles": [(0, (4, 1.5))]}
_SCHEDULE: Look = {"color": "black", "linewidth": 1.8, "linestyle": (0, (1.2, 1.2)), "zorder": 4}
_HARD = "mask=hard_gradual"
Schedule = Sequence[tuple[float, float]]
Pair = tuple[PlannedRun, PlannedRun]
Wanted = Mapping[str, str | float | int]
NOTHING: Wanted = MappingProxyType({})


def indicator_pair(results: Results, wanted: Mapping[str, str | float | int] = MappingProxyType({})) -> Pair | None:
    """The first finished pair of a method and its `mask=hard_gradual` variant on one task, sparsity and seed.

    Args:
        wanted: `task`, `sparsity` and `seed` to look at; what it does not name is free.

    Raises:
        UsageError: something was asked for and no finished pair has it; says what there is.
    """
    pairs = list(_indicator_pairs(results))
    chosen = [pair for pair in pairs if all(getattr(pair[0], name) == value for name, value in wanted.items())]
    if wanted and not chosen:
        given = " ".join(f"{name}={value}" for name, value in wanted.items())
        there = "; ".join(dict.fromkeys(map(_place, pairs))) or "none"
        raise UsageError(f"no finished pair of a method and its hard variant for {given}. There is: {there}")
    return next(iter(chosen), None)


def _place(pair: Pair) -> str:
    return f"task={pair[0].task} sparsity={pair[0].sparsity:g} seed={pair[0].seed}"


def _indicator_pairs(results: Results) -> Iterator[Pair]:
    traced = [run for run in results.planned if _traced(results, run)]
    found = {(run.method, run.task, run.sparsity, run.seed): run for run in traced}
    for hard in traced:
        twin = soft_twin(hard.method)
        if twin and (soft := found.get((twin, hard.task, hard.sparsity, hard.seed))):
            yield soft, hard


def _traced(results: Results, run: PlannedRun) -> bool:
    return run.state == "done" and (results.store / run.run_id / "indicators.parquet").is_file()


def soft_twin(method: str) -> str | None:
    """The method with its smooth mask, `gpp(mask=hard_gradual)+dfd` -> `gpp+dfd`; None if it is not hard."""
    if _HARD not in method:
        return None
    return re.sub(r"\(([^()]*)\)", _without_hard, method)


def _without_hard(options: re.Match[str]) -> str:
    kept = [option for option in options[1].split(",") if option.strip() != _HARD]
    return f"({','.join(kept)})" if kept else ""


def indicator_figure(results: Results, runs: Sequence[PlannedRun]) -> "Figure":
    """Mask values of sampled units over the search: a column per run, a row per kind of unit."""
    from matplotlib.figure import Figure

    traces = [read_indicators(results.store / run.run_id) for run in runs]
    kinds = [kind for kind in KIND_TITLES if any((trace["kind"] == kind).any() for trace in traces)]
    with style():
        size = (3.4 * len(runs), 1.9 * len(kinds) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(kinds), len(runs), squeeze=False, sharex="col", sharey=True)
        for column, run, trace in zip(axes.T, runs, traces, strict=True):
            _draw_run(column, trace, kinds, scheduled_sparsity(results, run))
            column[0].set_title(run.label)
        for axis, kind in zip(axes[:, 0], kinds, strict=True):
            axis.set_ylabel(f"{KIND_TITLES[kind]}\nindicator z")
        figure.suptitle(_what(runs[0]), fontsize=9)
        legend_below(figure, _unit_handles())
    return figure


def _what(run: PlannedRun) -> str:
    return f"{score_columns([run.task])[0].title}, sparsity {run.sparsity:g}, seed {run.seed}"


def _draw_run(axes: Sequence["Axes"], trace: "pd.DataFrame", kinds: Sequence[str], schedule: Schedule) -> None:
    """The column of one run, kind by kind."""
    for axis, kind in zip(axes, kinds, strict=True):
        _draw_units(axis, trace[trace["kind"] == kind], schedule)
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
