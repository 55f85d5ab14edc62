"""What all figures share, those of reports and those of single models: one style sheet, saving, cells of units.

Plain Python with matplotlib loaded late, so that reports need no torch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gppdfd.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("style.mplstyle")
GONE, EDGE, QUIET = "#F1F1F1", "#C8C8C8", "#666666"


# Fonts with Chinese, Japanese or Korean letters, for labels that have some; DejaVu has most others.
_WIDE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Microsoft YaHei")


@contextmanager
def style() -> Iterator[None]:
    """The style sheet of all figures, for drawing and for saving."""
    import matplotlib.style

    with matplotlib.style.context(STYLE), matplotlib.rc_context():
        wide = [font for font in _WIDE_FONTS if font in _installed()]
        matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], *wide]
        yield


@cache
def _installed() -> frozenset[str]:
    """Names of the fonts of this machine."""
    from matplotlib.font_manager import fontManager

    return frozenset(font.name for font in fontManager.ttflist)


def save_figure(figure: "Figure", name: str, folder: Path) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png`; the same content gives the same bytes."""
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "png": {}}
    paths = [folder / f"{name}.{kind}" for kind in undated]
    with style():
        for path, (kind, metadata) in zip(paths, undated.items(), strict=True):
            _save(figure, path, kind, metadata)
    return paths


def _save(figure: "Figure", path: Path, kind: str, metadata: Mapping[str, Any]) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=dict(metadata)))


def box(axis: "Axes", x: float, y: float, width: float, height: float, **look: Any) -> None:
    """A rectangle from its upper left corner (rows count downwards)."""
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x, y), width, height, **look))


def removed_box(axis: "Axes", x: float, y: float, width: float, height: float) -> None:
    """How a sublayer that is skipped looks in every figure."""
    box(axis, x, y, width, height, facecolor="white", edgecolor=EDGE, hatch="////", linewidth=0.5)


def bare(axis: "Axes") -> None:
    """No grid, no frame, quiet labels: for axes whose cells speak for themselves."""
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, colors=QUIET)
