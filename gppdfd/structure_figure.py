"""A picture of what is left of a model: a row per layer, a cell per head, a bar for the FFN dims."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gppdfd.drawing import EDGE, GONE, QUIET, bare, box, removed_box, style
from gppdfd.structure import Keep, Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "muted" colours, made for colour-blind readers; the two differ in lightness too.
ATTENTION, FFN = "#332288", "#44AA99"


@dataclass(frozen=True)
class LayerLeft:
    """What is left of one layer.

    Attributes:
        query_key, value_output: share of each head's dims that stay, in [0, 1]; empty if the sublayer was removed.
        ffn: number of FFN dims, None if the sublayer was removed.
    """

    query_key: tuple[float, ...]
    value_output: tuple[float, ...]
    ffn: int | None


def layers_left(structure: Structure, keep: Keep) -> list[LayerLeft]:
    """What `keep` leaves of every layer; kinds that it does not name are whole."""
    layers, heads = structure.layers, structure.heads
    whole = _rows(keep, "head", layers, heads).float()
    query_key, value_output = (whole * _share(keep, kind, layers, heads) for kind in ("qk", "vo"))
    dims = _rows(keep, "ffn", layers, structure.intermediate).sum(dim=1)
    attention, ffn = (_rows(keep, kind, layers, 1).flatten() for kind in ("mha_layer", "ffn_layer"))
    return [
        LayerLeft(
            tuple(query_key[layer].tolist()) if attention[layer] else (),
            tuple(value_output[layer].tolist()) if attention[layer] else (),
            int(dims[layer]) if ffn[layer] else None,
        )
        for layer in range(layers)
    ]


def structure_figure(structure: Structure, keep: Keep, title: str) -> "Figure":
    """One row per layer, the first on top."""
    from matplotlib.figure import Figure

    left = layers_left(structure, keep)
    with style():
        figure = Figure(
            figsize=(1.6 + 0.26 * structure.heads + 3.2, 1.5 + 0.3 * structure.layers), layout="constrained"
        )
        ratios = [0.26 * structure.heads, 3.2]
        heads, ffn = figure.subplots(1, 2, sharey=True, width_ratios=ratios)
        for row, layer in enumerate(left):
            _draw_heads(heads, row, layer, structure.heads)
            _draw_ffn(ffn, row, layer, structure.intermediate)
        _label(heads, ffn, structure, left)
        figure.suptitle(_headline(structure, keep, title), x=0.01, ha="left", fontsize=9)
        figure.legend(handles=_legend(left), loc="outside lower left", ncols=4, handlelength=1.2)
    return figure


def _rows(keep: Keep, kind: str, layers: int, units: int) -> torch.Tensor:
    """Bool [layers, units]."""
    return keep[kind].view(layers, units) if kind in keep else torch.ones(layers, units, dtype=torch.bool)


def _share(keep: Keep, kind: str, layers: int, heads: int) -> torch.Tensor:
    """Share of each head's units of a kind, [layers, heads]."""
    if kind not in keep:
        return torch.ones(layers, heads)
    return keep[kind].reshape(layers, heads, -1).float().mean(dim=-1)


def _draw_heads(axis: "Axes", row: int, layer: LayerLeft, heads: int) -> None:
    """A cell per head: its left half filled by the share of query/key dims, its right half by that of value/output."""
    if not layer.query_key:
        return _draw_removed(axis, row, heads)
    for head, shares in enumerate(zip(layer.query_key, layer.value_output, strict=True)):
        box(axis, head + 0.06, row - 0.4, 0.88, 0.8, facecolor=GONE, edgecolor="none")
        for half, share in enumerate(shares):
            box(
                axis,
                head + 0.06 + 0.44 * half,
                row + 0.4 - 0.8 * share,
                0.44,
                0.8 * share,
                facecolor=ATTENTION,
                edgecolor="none",
            )
        box(axis, head + 0.06, row - 0.4, 0.88, 0.8, facecolor="none", edgecolor=EDGE, linewidth=0.5)
    if not any(layer.value_output):
        _say(axis, heads / 2, row, "emptied")


def _draw_ffn(axis: "Axes", row: int, layer: LayerLeft, dims: int) -> None:
    if layer.ffn is None:
        return _draw_removed(axis, row, 1)
    box(axis, 0, row - 0.4, 1, 0.8, facecolor=GONE, edgecolor=EDGE, linewidth=0.5)
    box(axis, 0, row - 0.4, layer.ffn / dims, 0.8, facecolor=FFN, edgecolor="none")
    axis.text(1.03, row, str(layer.ffn), va="center")
    if not layer.ffn:
        _say(axis, 0.5, row, "emptied")


def _draw_removed(axis: "Axes", row: int, width: float) -> None:
    removed_box(axis, 0, row - 0.4, width, 0.8)
    _say(axis, width / 2, row, "removed")


def _say(axis: "Axes", x: float, row: int, word: str) -> None:
    backing = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    axis.text(x, row, word, ha="center", va="center", color=QUIET, style="italic", bbox=backing)


def _label(heads: "Axes", ffn: "Axes", structure: Structure, left: list[LayerLeft]) -> None:
    heads.set_xlim(-0.1, structure.heads + 0.1)
    ffn.set_xlim(-0.02, 1.2)
    heads.set_ylim(structure.layers - 0.4, -0.6)
    heads.set_yticks(range(structure.layers), [f"layer {layer + 1}" for layer in range(structure.layers)])
    heads.set_xticks(
        [head + 0.5 for head in range(structure.heads)], [str(head + 1) for head in range(structure.heads)]
    )
    ffn.set_xticks([0, 0.5, 1], ["0", str(structure.intermediate // 2), str(structure.intermediate)])
    kept = sum(share > 0 for layer in left for share in layer.value_output)
    dims = sum(layer.ffn or 0 for layer in left)
    heads.set_title(f"{kept} of {structure.layers * structure.heads} heads")
    ffn.set_title(f"{dims:,} of {structure.layers * structure.intermediate:,} FFN dims")
    for axis in (heads, ffn):
        bare(axis)


def _headline(structure: Structure, keep: Keep, title: str) -> str:
    hidden = int(keep["hidden"].sum()) if "hidden" in keep else structure.hidden
    return title if hidden == structure.hidden else f"{title}; hidden dims: {hidden} of {structure.hidden}"


def _legend(left: list[LayerLeft]) -> list[Any]:
    from matplotlib.patches import Patch

    partial = any(0 < share < 1 for layer in left for share in (*layer.query_key, *layer.value_output))
    meaning = "head: query/key left, value/output right, filled by what stays" if partial else "head"
    handles = [Patch(color=ATTENTION, label=meaning), Patch(color=FFN, label="FFN dims")]
    return [*handles, Patch(facecolor=GONE, edgecolor=EDGE, label="pruned")]
