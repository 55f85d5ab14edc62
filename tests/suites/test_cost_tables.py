"""Tables of size, structure and training, and what is counted for them."""

import json
from math import isnan
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gppdfd.errors import DataError
from gppdfd.structure.base import Keep, Structure
from gppdfd.structure.kept import describe
from suites.cost_tables import size_table, structure_table, training_table
from suites.formats import Table
from suites.kept import counted, described, read_kept
from suites.records import Results, read_results
from tests.suites.fake_store import FakeStore
from tests.tiny import keeps

STRUCTURE = Structure(layers=3, hidden=32, heads=4, head_size=8, intermediate=40)
CONFIG = {"hidden_size": STRUCTURE.hidden, "num_attention_heads": STRUCTURE.heads}


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def results_of(store: FakeStore) -> Results:
    return read_results(store.save_plan(), store.root)


def texts(table: Table, block: int = 0) -> dict[str, str]:
    """First printed number of the first row of a block, by column."""
    cells = table.blocks[block].rows[0].cells
    return {
        column.title: cell.numbers[0].text if cell.numbers else ""
        for column, cell in zip(table.columns, cells, strict=True)
    }


def marks(table: Table, title: str) -> tuple[str, ...]:
    place = [column.title for column in table.columns].index(title)
    return table.blocks[0].rows[0].cells[place].marks


# --- size ---


def test_sizes_are_means_over_the_finished_runs(store: FakeStore) -> None:
    store.finish(store.add("rte"))
    half = {"batch": 32, "tokens": 32, "seconds": 0.01, "speedup": 4.0}
    size = {"encoder_kept": 100_000, "flops_task": 10_000_000, "total": 300_000}
    store.finish(store.add("rte", "gpp+dfd", 0.8), size=size, latency={**half, "speedup": 2.0})
    size = {"encoder_kept": 200_000, "flops_task": 20_000_000, "total": 500_000}
    store.finish(store.add("mrpc", "gpp+dfd", 0.8), size=size, latency=half)
    store.add("cola", "gpp+dfd", 0.8)
    table = size_table(results_of(store), "caption")
    assert [*texts(table).values()] == ["1", "0.786", "0.886", "0.0", "1.00", "20.0", "1.00"]
    assert [*texts(table, 1).values()] == ["2", "0.150", "0.400", "80.0", "3.00", "10.0", "3.00"]
    assert table.blocks[1].rows[0].cells[0].marks == ("3 runs planned",)
    assert table.blocks[1].rows[0].cells[-1].marks == ("batch 32, 32 tokens",)


def test_sizes_mark_missed_targets_and_leave_out_what_nobody_knows(store: FakeStore) -> None:
    size = {"sparsity": 0.7, "flops_task_dense": None}
    store.finish(store.add("rte", "gpp+dfd", 0.8), size=size, latency=None)
    table = size_table(results_of(store), "caption")
    assert marks(table, "true sparsity (%)") == ("1 of 1 runs more than 0.5 points off their target",)
    assert [*texts(table)] == ["runs", "encoder (M)", "all (M)", "true sparsity (%)"]


def test_a_speedup_over_some_of_the_runs_says_so(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    store.finish(store.add("mrpc", "gpp+dfd", 0.8), latency=None)
    found = marks(size_table(results_of(store), "caption"), "speedup")
    assert found == ("batch 32, 32 tokens", "1 of 2 runs were not timed")


# --- training ---


def test_costs_of_training_are_means_and_hours_a_sum(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), timings={"total": 1800}, peak_memory=2_000_000_000)
    gpu = {"device": "cuda: a big one"}
    store.finish(store.add("mrpc", "gpp+dfd", 0.8), timings={"total": 5400}, peak_memory=3_000_000_000, environment=gpu)
    assert texts(training_table(results_of(store), "caption")) == {
        "runs": "2",
        "before": "0",
        "search": "60",
        "recovery": "40",
        "scoring passes": "7",
        "minutes": "60.0",
        "hours in all": "2.00",
        "device": "CPU, GPU",
        "GB": "2.50",
    }


def test_memory_that_was_not_recorded_is_no_column(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    assert "GB" not in texts(training_table(results_of(store), "caption"))


# --- structure ---


def test_counts_of_a_record_without_a_model(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    table = structure_table(results_of(store), "caption")
    assert texts(table) == {"runs": "1", "attention layers": "3.0", "heads": "6.0", "FFN/layer": "100.0"}


def test_single_dims_in_a_record_do_not_tell_heads() -> None:
    found = counted({"qk": (3, 0), "vo": (5, 0), "ffn": (1, 2)})
    assert isnan(found.heads)
    assert found.ffn == 1.5


@settings(deadline=None)
@given(st.data())
def test_a_description_is_counted_as_the_keep_that_it_describes(data: st.DataObject) -> None:
    keep: Keep = STRUCTURE.settled(data.draw(keeps(STRUCTURE)))
    found = described(describe(STRUCTURE, keep), CONFIG)
    heads = keep["head"] & keep["mha_layer"][:, None]
    assert found.heads == heads.sum()
    assert found.attention_layers == heads.any(1).sum()
    assert found.hidden == keep["hidden"].sum()
    assert found.ffn == pytest.approx((keep["ffn"] & keep["ffn_layer"][:, None]).sum(1).float().mean().item())
    if heads.any():
        for kind in ("qk", "vo"):
            assert getattr(found, kind) == pytest.approx(keep[kind][heads].sum(1).float().mean().item())
    else:
        assert isnan(found.qk)


def test_a_model_is_read_from_its_folder(store: FakeStore) -> None:
    folder = store.finish(store.add("rte", "gpp+dfd", 0.8))
    record = results_of(store).records[folder.name]
    (folder / "model").mkdir()
    config = folder / "model" / "config.json"
    keep = STRUCTURE.keep_all(("head", "ffn"))
    config.write_text(json.dumps(CONFIG | {"pruned_structure": describe(STRUCTURE, keep)}))
    assert read_kept(folder, record).heads == STRUCTURE.layers * STRUCTURE.heads
    config.write_text(json.dumps(CONFIG))
    assert read_kept(folder, record)[1:4] == (6, 8, 8), "nothing cut: the record's heads, all of them whole"
    config.write_text("{")
    with pytest.raises(DataError, match=r"config\.json: not readable"):
        read_kept(folder, record)
