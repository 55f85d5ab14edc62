"""A training run step by step: its loss parts, the sparsity, and where snapshots were taken (CAP)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from suites.figures.look import DASHES, MARKERS, legend_below, plain_log_ticks
from suites.figures.places import NOTHING, Wanted, place_of, shown_runs
from suites.records import PlannedRun, Results, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entries = Sequence[Mapping[str, Any]]
PARTS = {"task": "task loss", "soft": "soft labels", "features": "contrastive loss"}
_COLOURS = ("#332288", "#117733", "#CC6677")
MOST = 2


def snapshot_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """Loss parts and scheduled sparsity over the steps of runs that took snapshots, a column per run."""
    from matplotlib.figure import Figure

    histories: dict[PlannedRun, Entries] = {}
    for run in shown_runs(results, wanted, lambda run: bool(snapshot_steps(_history(results, run))))[:MOST]:
        histories[run] = _history(results, run)
    if not histories:
        return None
    figure = Figure(figsize=(max(5.4, 3.4 * len(histories)), 4.0), layout="constrained")
    axes = figure.subplots(2, len(histories), squeeze=False, sharex="col", sharey="row", height_ratios=[2, 1])
    for (losses, sparsity), (run, entries) in zip(axes.T, histories.items(), strict=True):
        _draw_losses(losses, entries)
        _draw_sparsity(sparsity, entries)
        losses.set_title(run.label)
        for axis in (losses, sparsity):
            _mark(axis, entries)
    axes[0, 0].set_ylabel("loss (unweighted)")
    axes[1, 0].set_ylabel("scheduled\nsparsity")
    figure.suptitle(place_of(next(iter(histories))).title, fontsize=9)
    legend_below(figure, _handles(axes[0, 0]))
    return figure


def _history(results: Results, run: PlannedRun) -> Entries:
    return read_history(results.store / run.run_id)


def snapshot_steps(entries: Entries) -> list[int]:
    """Optimiser steps after which snapshots were taken."""
    return [entry["step"] for entry in entries if entry.get("event") == "snapshot"]


def _draw_losses(axis: "Axes", entries: Entries) -> None:
    for place, (part, label) in enumerate(PARTS.items()):
        points = [(entry["step"], entry["losses"][part]) for entry in entries if part in entry.get("losses", {})]
        if points:
            look = {"color": _COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}
            axis.plot(*zip(*points, strict=True), label=label, markevery=max(1, len(points) // 8), markersize=4, **look)
    axis.set_yscale("log")
    plain_log_ticks(axis.yaxis)


def _draw_sparsity(axis: "Axes", entries: Entries) -> None:
    points = [(entry["step"], entry["sparsity"]) for entry in entries if "sparsity" in entry]
    if points:
        axis.plot(*zip(*points, strict=True), color="black", marker=".")
    axis.set_xlabel("optimiser step")


def _mark(axis: "Axes", entries: Entries) -> None:
    """Thin lines at snapshots, grey where the extracted model recovers."""
    for step in snapshot_steps(entries):
        axis.axvline(step, color="black", linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    recovery = [entry["step"] for entry in entries if entry.get("phase") == "recovery"]
    if recovery:
        start = max((entry["step"] for entry in entries if entry.get("phase") == "search"), default=0)
        axis.axvspan(start, recovery[-1], color="#EEEEEE", zorder=0)


def _handles(axis: "Axes") -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        *axis.get_legend_handles_labels()[0],
        Line2D([], [], color="black", linewidth=0.6, linestyle=(0, (1, 2)), label="snapshot"),
        Patch(facecolor="#EEEEEE", label="recovery"),
    ]
