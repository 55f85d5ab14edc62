"""DFD's fusion weights, as noted at the end of training: what each teacher and student layer puts into each feature."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from suites.figures.look import ink, shades, wrapped
from suites.figures.places import NOTHING, Wanted, place_of, shown_runs
from suites.records import Results

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MATRICES = {
    "teacher_fusion": ("teacher", r"teacher: $\omega_{l,k}$ of layer $k$ in $G_l$"),
    "student_fusion": ("student", r"student: weight of layer $k$ in $P_l$"),
}
_ENTRY = re.compile(r"(\w+)\[(\d+),(\d+)\]")


def fusion_figure(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """The matrices of the first run that noted its fusions: teacher left, student right."""
    from matplotlib.figure import Figure

    runs = shown_runs(results, wanted, lambda run: bool(noted_matrices(results.records[run.run_id].notes)))
    if not runs:
        return None
    matrices = noted_matrices(results.records[runs[0].run_id].notes)
    side = 1.3 + 0.3 * len(next(iter(matrices.values())))
    figure = Figure(figsize=(max(5.0, (side + 0.5) * len(matrices)), side + 0.9), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
        _draw(axis, matrix, MATRICES[name][1])
        axis.set_xlabel(f"{MATRICES[name][0]} layer k")
    axes[0].set_ylabel("feature l")
    figure.suptitle(wrapped(f"{runs[0].label}: {place_of(runs[0]).title}", 60), fontsize=9)
    return figure


def noted_matrices(notes: Mapping[str, float]) -> dict[str, "np.ndarray"]:
    """Square matrices from notes such as `teacher_fusion[1,4]`; entries that were not noted are 0."""
    import numpy as np

    entries = [(*found.groups(), value) for name, value in notes.items() if (found := _ENTRY.fullmatch(name))]
    matrices = {}
    for name in MATRICES:
        places = [(int(row) - 1, int(column) - 1, value) for own, row, column, value in entries if own == name]
        if places:
            size = 1 + max(max(row, column) for row, column, _ in places)
            matrices[name] = np.zeros((size, size))
            for row, column, value in places:
                matrices[name][row, column] = value
    return matrices


def _draw(axis: "Axes", matrix: "np.ndarray", title: str) -> None:
    """Shaded by weight, each entry that is not 0 with its number."""
    import numpy as np

    low, high = min(0.0, matrix.min()), max(1.0, matrix.max())
    axis.imshow(np.ma.masked_equal(matrix, 0), cmap=shades(), vmin=low, vmax=high)
    for (row, column), value in _entries(matrix):
        colour = ink((value - low) / (high - low))
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=6)
    ticks = range(len(matrix))
    axis.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    axis.set_yticks(ticks, [str(tick + 1) for tick in ticks])
    axis.grid(False)
    axis.set_title(title, fontsize=8, parse_math=True)


def _entries(matrix: "np.ndarray") -> list[tuple[tuple[int, int], float]]:
    import numpy as np

    return [(place, float(value)) for place, value in np.ndenumerate(matrix) if value]
