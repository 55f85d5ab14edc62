"""The picture of the kept structure: what it shows, and that it shows something."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from gppdfd.drawing import save_figure
from gppdfd.structure import Keep, Structure
from gppdfd.structure_figure import ATTENTION, FFN, layers_left, structure_figure

TINY = Structure(layers=2, hidden=6, heads=3, head_size=2, intermediate=10)


def keep_of_all_kinds() -> Keep:
    """Layer 1: heads whole, half, gone; 4 of 10 dims. Layer 2: attention removed, FFN emptied."""
    return {
        "head": torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(),
        "qk": torch.tensor([[1, 1, 1, 0, 1, 1], [1] * 6]).bool(),
        "vo": torch.tensor([[1, 1, 0, 0, 1, 1], [1] * 6]).bool(),
        "ffn": torch.tensor([[1] * 4 + [0] * 6, [0] * 10]).bool(),
        "hidden": torch.tensor([1, 1, 1, 1, 1, 0]).bool(),
        "mha_layer": torch.tensor([1, 0]).bool(),
        "ffn_layer": torch.tensor([1, 1]).bool(),
    }


def test_layers_left_of_all_kinds() -> None:
    first, second = layers_left(TINY, keep_of_all_kinds())
    assert (first.query_key, first.value_output, first.ffn) == ((1, 0.5, 0), (1, 0, 0), 4)
    assert (second.query_key, second.value_output, second.ffn) == ((), (), 0)


def test_missing_kinds_are_whole() -> None:
    (first, _) = layers_left(TINY, {"ffn_layer": torch.tensor([[False], [True]])})
    assert (first.query_key, first.ffn) == ((1, 1, 1), None)


def test_words_and_numbers_are_on_the_picture() -> None:
    heads, ffn = structure_figure(TINY, keep_of_all_kinds(), "tiny").axes
    assert [text.get_text() for text in heads.texts] == ["removed"]
    assert [text.get_text() for text in ffn.texts] == ["4", "0", "emptied"]
    assert "5 of 6" in structure_figure(TINY, keep_of_all_kinds(), "tiny").get_suptitle()


@pytest.mark.parametrize(("keep", "gone"), [({}, ()), ({"head": torch.zeros(2, 3).bool()}, (ATTENTION,))])
def test_picture_shows_the_colours_of_what_is_left(tmp_path: Path, keep: Keep, gone: tuple[str, ...]) -> None:
    pdf, png = save_figure(structure_figure(TINY, keep, "tiny"), "structure", tmp_path)
    pixels = (matplotlib.image.imread(png)[..., :3] * 255).round().astype(int)
    for colour in (ATTENTION, FFN):
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        share = float(np.all(pixels == wanted, axis=-1).mean())
        # The legend alone has a small patch of every colour.
        assert (share > 0.02) == (colour not in gone)
    assert pdf.read_bytes().startswith(b"%PDF")


def test_same_structure_same_bytes(tmp_path: Path) -> None:
    once, again = (save_figure(structure_figure(TINY, {}, "t"), "structure", tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
