"""What all figures share: the style sheet, saving, the look of each method, the legend below the panels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gppdfd.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).parents[1] / "style.mplstyle"
MARKERS = "osD^vPX<>*"
# Their numbers have no common factor with the number of colours: a combination comes back late.
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
Look = dict[str, Any]


@contextmanager
def style() -> Iterator[None]:
    """The style sheet of all figures, for drawing and for saving."""
    import matplotlib.style

    with matplotlib.style.context(STYLE):
        yield


def save_figure(figure: "Figure", name: str, folder: Path) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png`; the same records give the same bytes."""
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "png": {}}
    paths = [folder / f"{name}.{kind}" for kind in undated]
    with style():
        for path, (kind, metadata) in zip(paths, undated.items(), strict=True):
            _save(figure, path, kind, metadata)
    return paths


def _save(figure: "Figure", path: Path, kind: str, metadata: Mapping[str, Any]) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=dict(metadata)))


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
