"""What a report's figures share beside the style sheet: the look of each method, the legend below the panels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vPX<>*"
# Their numbers have no common factor with the number of colours: a combination comes back late.
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
Look = dict[str, Any]


def looks_of(labels: Iterable[str]) -> dict[str, Look]:
    """Colour, marker and dashes of each method; call inside `style`."""
    import matplotlib

    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {
        label: {
            "color": colours[place % len(colours)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[place % len(DASHES)],
        }
        for place, label in enumerate(dict.fromkeys(labels))
    }


def look_handles(looks: Mapping[str, Look]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=label, **look) for label, look in looks.items()]


def legend_below(figure: "Figure", handles: Sequence[Any]) -> None:
    """One legend under all panels, in as many columns as its longest label lets fit."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.55 + 0.056 * longest)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
