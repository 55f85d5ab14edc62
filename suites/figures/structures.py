"""What each method leaves of every layer, side by side: heads, query/key dims, value/output dims, FFN dims."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gppdfd.drawing import EDGE, bare, box, removed_box
from suites.figures.look import ink, shades, wrapped
from suites.figures.places import NOTHING, Wanted, place_of, shown_runs
from suites.records import Record, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"head": "heads", "qk": "QK", "vo": "VO", "ffn": "FFN"}
SUBLAYER = {"head": "mha_layer", "qk": "mha_layer", "vo": "mha_layer", "ffn": "ffn_layer"}
MOST, COLUMNS = 8, 4
_WHOLE_MODEL = ("hidden", "weight")


def structure_grid(results: Results, wanted: Wanted = NOTHING) -> "Figure | None":
    """A panel per method, a row per layer, a column per kind of unit; cells say how many units stay."""
    from matplotlib.figure import Figure

    runs = shown_runs(results, wanted, lambda run: has_layers(results.records[run.run_id]))[:MOST]
    if not runs:
        return None
    kinds = [kind for kind in KINDS if any(kind in results.records[run.run_id].kept for run in runs)]
    columns = min(COLUMNS, len(runs))
    rows = -(-len(runs) // columns)
    layers = max(map(layers_of, (results.records[run.run_id] for run in runs)))
    figure = Figure(
        figsize=(max(4.5, (0.7 + 0.35 * len(kinds)) * columns + 0.8), rows * (0.24 * layers + 0.9) + 0.4),
        layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis, run in zip(axes, runs, strict=False):
        _draw(axis, results.records[run.run_id], kinds, wrapped(run.label, 22))
    for first in axes[: len(runs) : columns]:
        first.set_ylabel("layer")
    for spare in axes[len(runs) :]:
        spare.set_axis_off()
    _colour_bar(figure, axes)
    figure.suptitle(place_of(runs[0]).title, fontsize=9)
    return figure


def has_layers(record: Record) -> bool:
    """Whether the record counts units layer by layer."""
    return bool(record.kept.keys() - set(_WHOLE_MODEL))


def layers_of(record: Record) -> int:
    """Number of layers of the dense model."""
    return max(len(units) for kind, units in record.kept.items() if kind not in _WHOLE_MODEL)


def shares(record: Record, kind: str) -> list[float]:
    """Share of a kind's units that stay, layer by layer."""
    kept, density = record.kept[kind], record.size.density[kind]
    dense = sum(kept) / density / len(kept) if density else 1.0
    return [units / dense for units in kept]


def _draw(axis: "Axes", record: Record, kinds: Sequence[str], title: str) -> None:
    layers = layers_of(record)
    for place, kind in enumerate(kinds):
        _draw_kind(axis, place, record, kind)
    axis.set(xlim=(0, len(kinds)), ylim=(layers, 0))
    axis.set_xticks([place + 0.5 for place in range(len(kinds))], [KINDS[kind] for kind in kinds], fontsize=7)
    axis.set_yticks([layer + 0.5 for layer in range(layers)], [str(layer + 1) for layer in range(layers)], fontsize=7)
    bare(axis)
    axis.set_title(title + _hidden(record.kept, record), fontsize=8)


def _draw_kind(axis: "Axes", place: int, record: Record, kind: str) -> None:
    """A cell per layer; an outline where the method leaves this kind whole."""
    layers = layers_of(record)
    there = record.kept.get(SUBLAYER[kind], (1,) * layers)
    left = shares(record, kind) if kind in record.kept else [None] * layers
    for layer, share in enumerate(left):
        where = (place + 0.05, layer + 0.06, 0.9, 0.88)
        if not there[layer]:
            removed_box(axis, *where)
        elif share is None:
            box(axis, *where, facecolor="white", edgecolor=EDGE, linewidth=0.5)
        else:
            box(axis, *where, facecolor=shades()(share), edgecolor="none")
            text = str(record.kept[kind][layer])
            axis.text(place + 0.5, layer + 0.5, text, ha="center", va="center", color=ink(share), fontsize=7)


def _hidden(kept: Mapping[str, Sequence[int]], record: Record) -> str:
    """How many hidden dims stay, if the method prunes them."""
    if "hidden" not in kept or not record.size.density.get("hidden"):
        return ""
    return f"\nhidden: {kept['hidden'][0]} of {round(kept['hidden'][0] / record.size.density['hidden'])}"


def _colour_bar(figure: "Figure", axes: Sequence["Axes"]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), shades()), ax=list(axes), fraction=0.03, pad=0.02)
    # As many characters as fit beside the bar.
    bar.set_label(wrapped("share kept; empty: whole; hatched: removed", int(12 * figure.get_figheight())))
    bar.outline.set_visible(False)
