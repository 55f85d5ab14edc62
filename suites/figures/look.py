"""What a report's figures share beside the style sheet: the look of each method, the legend below the panels."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gppdfd.drawing import GONE, QUIET, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MARKERS = "osD^vPX<>*"
# Their numbers have no common factor with the number of colours: a combination comes back late.
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
Look = dict[str, Any]
HOLLOW: Look = {"linestyle": "none", "markerfacecolor": "white", "zorder": 4}
UNLIKE = "missed target or other data"


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


def shades() -> "Colormap":
    """Light grey for 0 to dark for 1: lightness falls evenly, so that it reads without colour."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shades", [GONE, "#8E84C6", "#332288"])


def ink(share: float) -> str:
    """Colour of a number on a cell shaded by `share`."""
    return "white" if share > 0.45 else "black"


def wrapped(text: str, width: int) -> str:
    """A label on several lines, broken between words and after plus signs."""
    return "\n".join(fill_lines(text, width))


def fill_lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in re.findall(r"[^\s+,]+[\s+,]*|[\s+,]+", text):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def quiet_note(axis: "Axes", text: str) -> None:
    """A few words in the middle of a panel that has nothing to show."""
    bare(axis)
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=QUIET, style="italic")


def plain_log_ticks(axis: "Axis") -> None:
    """Plain numbers on a logarithmic axis, in place of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
