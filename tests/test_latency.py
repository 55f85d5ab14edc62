"""The latency table: sums by hand, monotone in every keep, refused where its times do not hold."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gppdfd.compression import latency_table
from gppdfd.errors import DataError, UsageError
from gppdfd.latency import Attention, Curve, FeedForward, LatencyTable, _warn_if_unsteady, monotone, width_grid
from gppdfd.passes import Shape
from gppdfd.structure import Keep, Structure
from gppdfd.timing import Spread, TimingConfig, machine

TINY = Structure(layers=3, hidden=12, heads=2, head_size=4, intermediate=10)
COST = {"head": 4 * 12 * 4 + 3 * 4, "ffn": 2 * 12 + 1}
SIZES = {"hidden": 12, "heads": 2, "head_size": 4, "intermediate": 10, "gated": 0}
TABLE = LatencyTable(
    sizes=SIZES,
    attention=Curve((0, 1, 2), (1.0, 10.0, 12.0)),
    ffn=Curve((0, 4, 10), (0.5, 2.5, 8.5)),
    shape=Shape(2, 8),
    machine=machine(torch.device("cpu"), 1),
)


def keep_of(heads: list[list[int]], dims: list[int], attention: list[int], ffn: list[int]) -> Keep:
    return {
        "head": torch.tensor(heads).bool(),
        "ffn": torch.arange(10) < torch.tensor(dims).unsqueeze(1),
        "mha_layer": torch.tensor(attention).bool(),
        "ffn_layer": torch.tensor(ffn).bool().unsqueeze(1),
    }


def test_seconds_are_the_sum_of_what_is_left() -> None:
    """Attention: whole, one head, removed; FFN: 6 dims (between two points), emptied, removed."""
    keep = keep_of([[1, 1], [0, 1], [1, 1]], [6, 0, 10], attention=[1, 1, 0], ffn=[1, 1, 0])
    assert TABLE.seconds(TINY, keep) == pytest.approx(12 + 10 + 0 + (2.5 + 2) + 0.5 + 0)


def test_dense_is_everything_kept() -> None:
    assert TABLE.dense(TINY) == TABLE.seconds(TINY, TINY.keep_all()) == 3 * (12 + 8.5)


def test_emptied_costs_more_than_removed() -> None:
    emptied = keep_of([[0, 0]] * 3, [0] * 3, attention=[1] * 3, ffn=[1] * 3)
    removed = emptied | {"mha_layer": torch.zeros(3).bool(), "ffn_layer": torch.zeros(3).bool()}
    assert (TABLE.seconds(TINY, emptied), TABLE.seconds(TINY, removed)) == (4.5, 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_smaller_keep_never_takes_longer(data: st.DataObject) -> None:
    seconds = st.lists(st.floats(0, 1), min_size=3, max_size=3)
    curves = [Curve(units, monotone(data.draw(seconds))) for units in ((0, 1, 2), (0, 4, 10))]
    table = replace(TABLE, attention=curves[0], ffn=curves[1])
    large, fewer = ({kind: draw_units(data, units) for kind, units in SHAPES.items()} for _ in range(2))
    small = {kind: units & fewer[kind] for kind, units in large.items()}
    assert table.seconds(TINY, small) <= table.seconds(TINY, large) + 1e-12


SHAPES = {"head": 2, "ffn": 10, "mha_layer": 1, "ffn_layer": 1}


def draw_units(data: st.DataObject, units: int) -> torch.Tensor:
    size = TINY.layers * units
    return torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(TINY.layers, units)


@pytest.mark.parametrize(("kind", "shape"), [("qk", (3, 2, 4)), ("vo", (3, 2, 4)), ("hidden", (12,))])
def test_kinds_without_times_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    whole = torch.ones(shape, dtype=torch.bool)
    assert TABLE.seconds(TINY, {kind: whole}) == TABLE.dense(TINY)
    less = whole.clone().flatten()
    less[5] = False
    with pytest.raises(UsageError, match=f"prunes {kind} too.*parameters or FLOPs"):
        TABLE.seconds(TINY, {kind: less.view(shape)})


def test_dims_of_removed_heads_do_not_count() -> None:
    heads = torch.tensor([[1, 0], [1, 1], [0, 0]]).bool()
    dims = heads.unsqueeze(-1).expand(3, 2, 4)
    assert TABLE.seconds(TINY, {"head": heads, "qk": dims, "vo": dims}) == TABLE.seconds(TINY, {"head": heads})


def test_other_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"hidden 12, .*; the model has hidden 16"):
        TABLE.seconds(replace(TINY, hidden=16), {})


def test_any_number_of_layers() -> None:
    assert TABLE.dense(replace(TINY, layers=5)) == 5 * (12 + 8.5)


def test_monotone_is_the_least_squares_fit() -> None:
    assert monotone([1, 3, 2, 5, 4, 3]) == pytest.approx((1, 2.5, 2.5, 4, 4, 4))
    assert monotone([1, 2, 3]) == (1, 2, 3)


@given(full=st.integers(1, 5000), count=st.integers(4, 30), multiple=st.sampled_from([1, 8, 16]))
def test_grid_ascends_from_nothing_to_everything(full: int, count: int, multiple: int) -> None:
    grid = width_grid(full, count, multiple)
    assert (grid[0], grid[-1]) == (0, full)
    assert all(np.diff(grid) > 0)
    assert len(grid) <= count
    assert all(width % 2 == 1 if multiple == 1 else width % multiple == 0 for width in grid[1:-1])


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("full", [512, 1152, 1536, 2048, 3072, 4096])
def test_grid_of_usual_widths_has_about_sixteen(full: int, multiple: int) -> None:
    assert 13 <= len(width_grid(full, multiple=multiple)) <= 16


def test_measured_table_is_complete_and_monotone() -> None:
    table = LatencyTable.measure(TINY, Shape(2, 5), TimingConfig(1, 0.002, 2))
    assert table.sizes == SIZES
    assert table.attention.units == (0, 1, 2)
    assert table.ffn.units == tuple(width_grid(10))
    for curve in (table.attention, table.ffn):
        assert curve.seconds[0] > 0
        assert all(np.diff(curve.seconds) >= 0)
    assert table.machine == machine(torch.device("cpu"), 1)


@pytest.mark.parametrize(("busy", "warned"), [(1, False), (3, True)])
def test_busy_machine_is_a_warning(busy: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    _warn_if_unsteady([Spread(1.0, 0.5, 1.5, 5)] * busy + [Spread(1.0, 1.0, 1.1, 5)] * 5)
    assert ("measure again" in caplog.text) == warned


def test_grid_of_ones_own() -> None:
    table = LatencyTable.measure(TINY, Shape(1, 4), TimingConfig(1, 0.001, 1), widths=[5])
    assert table.ffn.units == (0, 5, 10)


@pytest.mark.parametrize("units", [0, 1, 2])
def test_timed_modules_have_the_parameters_of_their_units(units: int) -> None:
    states = torch.randn(2, 5, TINY.hidden)
    for module, kind in ((Attention(TINY, units), "head"), (FeedForward(TINY, units), "ffn")):
        linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
        bias = TINY.hidden if units else 0
        assert sum(p.numel() for each in linears for p in each.parameters()) == units * COST[kind] + bias
        assert module(states).shape == states.shape


@dataclass(frozen=True)
class Gated(Structure):
    """Sizes of an encoder whose FFN has two up projections."""

    gated: bool = True


def test_gated_ffn_has_two_up_projections() -> None:
    module = FeedForward(Gated(**{name: getattr(TINY, name) for name in ("layers", *list(SIZES)[:4])}), 7)
    linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
    assert sum(p.numel() for each in linears for p in each.parameters()) == 7 * (3 * TINY.hidden + 2) + TINY.hidden
    assert module(torch.randn(2, 5, TINY.hidden)).shape == (2, 5, TINY.hidden)


# --- files ---


def test_saved_and_loaded(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json", threads=1) == TABLE


def test_times_of_another_machine_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    replace(TABLE, machine=replace(TABLE.machine, device="abacus")).save(path)
    with pytest.raises(DataError, match=r"table\.json was measured on abacus, this is .*measure it again"):
        LatencyTable.load(path, threads=1)


def test_times_of_another_number_of_threads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    TABLE.save(path)
    with pytest.raises(DataError, match=r"with 1 threads, 2 are in use; call torch\.set_num_threads\(1\)"):
        LatencyTable.load(path, threads=2)


def test_of_several_gpus_the_named_one_is_timed(monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(LatencyTable, "measure", lambda structure, shape, timing, device: asked.append(device))
    latency_table(TINY, torch.device("cuda:1"))
    assert asked == ["cuda:1"]


@pytest.mark.parametrize(("gpus", "device", "name"), [(1, "cuda:1", "no GPU 1"), (2, "cuda:1", ""), (1, "cuda", "")])
def test_times_of_a_gpu_are_for_that_one(gpus: int, device: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", str)
    table = replace(TABLE, device=device, machine=replace(TABLE.machine, device=device))
    table.save(tmp_path / "table.json")
    if not name:
        assert LatencyTable.load(tmp_path / "table.json", threads=1) == table
        return
    with pytest.raises(DataError, match=name):
        LatencyTable.load(tmp_path / "table.json", threads=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_times_of_a_gpu_are_refused_without_one(tmp_path: Path) -> None:
    replace(TABLE, device="cuda").save(tmp_path / "table.json")
    with pytest.raises(DataError, match="no GPU"):
        LatencyTable.load(tmp_path / "table.json", threads=1)


def test_another_torch_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    replace(TABLE, machine=replace(TABLE.machine, torch="0.1")).save(tmp_path / "table.json")
    with caplog.at_level(logging.WARNING):
        LatencyTable.load(tmp_path / "table.json", threads=1)
    assert "torch 0.1" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format 1"),
        ({"attention": {"units": [0, 1], "seconds": [2.0, 1.0]}}, "fall"),
        ({"ffn": {"units": [1, 2], "seconds": [1.0, 2.0]}}, "from 0 on"),
        ({"ffn": {"units": [0, 2], "seconds": [1.0]}}, "as many seconds"),
        ({"ffn": {"units": [0], "seconds": [-1.0]}}, "fall"),
        ({"shape": {"batch": 2}}, "shape.length"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = tmp_path / "table.json"
    TABLE.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=reason):
        LatencyTable.load(path, threads=1)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(DataError, match=r"table\.json is no latency table"):
        LatencyTable.load(tmp_path / "table.json")
    with pytest.raises(DataError, match="is no latency table"):
        LatencyTable.load(tmp_path / "absent.json")
