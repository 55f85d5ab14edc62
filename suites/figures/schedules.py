"""The sparsity that each pruner schedules over its search."""

from operator import attrgetter
from typing import TYPE_CHECKING

from suites.figures.indicators import scheduled_sparsity
from suites.figures.look import legend_below, look_handles, looks_of
from suites.figures.places import NOTHING, Wanted, first_of_each, place_of, shown_runs
from suites.records import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 12


def schedule_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """Scheduled sparsity over the search, a line per pruner; pruners with the same schedule share a line."""
    from matplotlib.figure import Figure

    schedules = {
        run: scheduled_sparsity(results, run)
        for run in first_of_each(shown_runs(results, wanted), attrgetter("pruner"))
    }
    distinct: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for run, schedule in schedules.items():
        if schedule:
            distinct.setdefault(tuple(schedule), []).append(run.label)
    if not distinct:
        return None
    labels = {points: _together(names) for points, names in list(distinct.items())[:_MOST]}
    looks = looks_of(labels.values())
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    for points, label in labels.items():
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, markevery=max(1, len(points) // 8), **looks[label])
    place = place_of(next(iter(schedules)))
    axis.axhline(place.sparsity, color="black", linewidth=0.8, linestyle=":", zorder=1)
    axis.set(xlabel="search step (optimiser steps)", ylabel="scheduled sparsity", title=place.title)
    legend_below(figure, look_handles(looks))
    return figure


def _together(labels: list[str], most: int = 3) -> str:
    rest = len(labels) - most
    return "; ".join(labels[:most]) + (f" and {rest} more" if rest > 0 else "")
