"""The main table: its rules, its marks, and published rows beside ours."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.cells import SINGLE_WEIGHTS
from suites.comparison_tables import ablation_table, distiller_table
from suites.formats import BETTER, NO_EVIDENCE, WORSE, Cell, Number, Row, Table, to_csv, to_latex, to_markdown
from suites.published import select, shipped
from suites.records import Results, read_results
from suites.statistics import Summary
from suites.tables import main_table, percent, with_best
from tests.suites.fake_store import FakeStore, full_store


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def results_of(store: FakeStore) -> Results:
    return read_results(store.save_plan(), store.root)


def table_of(store: FakeStore) -> Table:
    return main_table(results_of(store), "caption")


def cell(table: Table, block: str, label: str, column: str) -> Cell:
    place = [head.title for head in table.columns].index(column)
    rows = next(found.rows for found in table.blocks if found.title == block)
    return next(row.cells[place] for row in rows if row.label == label)


def texts(found: Cell) -> list[str]:
    return [number.text for number in found.numbers]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_printed_numbers_are_within_half_a_tenth(values: list[float]) -> None:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    number = percent(Summary(float(np.mean(values)), sd, len(values)))
    assert abs(float(number.text) - 100 * np.mean(values)) <= 0.05 + 1e-9
    assert re.fullmatch(r"-?\d+\.\d", number.text)
    assert number.text != "-0.0"
    assert bool(number.spread) == (len(values) > 1)


# --- rules of the main table ---


def test_a_seed_that_lacks_a_task_never_enters_the_average(store: FakeStore) -> None:
    for seed in (1, 2):
        store.finish(store.add("mrpc", "gpp+dfd", 0.8, seed), {"validation": [0.1, 0.5 + seed / 10]})
    store.finish(store.add("rte", "gpp+dfd", 0.8, 1), {"validation": [0.8]})
    store.add("rte", "gpp+dfd", 0.8, 2)
    shown = cell(table_of(store), "0.8", "gpp+dfd", "avg")
    assert texts(shown) == ["70.0"]
    assert shown.marks == ("average over the 1 of 2 seeds that finished every task",)


def test_a_row_without_any_complete_seed_has_no_average(store: FakeStore) -> None:
    store.finish(store.add("mrpc", "gpp+dfd", 0.8))
    store.finish(store.add("rte", "gpp+none", 0.8))
    table = table_of(store)
    shown = cell(table, "0.8", "gpp+dfd", "avg")
    assert shown.numbers == ()
    assert "no average" in shown.marks[0]
    assert cell(table, "0.8", "gpp+dfd", "RTE").marks == ("not planned",)


def test_columns_are_in_the_order_of_glue(tmp_path: Path) -> None:
    store = full_store(tmp_path, methods=["gpp+dfd"], sparsities=[0.8])
    titles = [column.title for column in table_of(store).columns]
    assert titles == ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "avg", "kept (%)"]


def test_other_tasks_come_after_glue_by_name(store: FakeStore) -> None:
    for task in ("zeta", "rte", "alpha"):
        store.finish(store.add(task, "gpp+dfd", 0.8))
    assert [column.title for column in table_of(store).columns] == ["RTE", "alpha", "zeta", "avg", "kept (%)"]


def test_teacher_and_majority_stand_on_top_and_blocks_ascend(tmp_path: Path) -> None:
    store = full_store(tmp_path, tasks=["mrpc"], methods=["random+dfd", "gpp+dfd"], sparsities=[0.95, 0.5])
    table = table_of(store)
    assert [block.title for block in table.blocks] == ["reference", "0.5", "0.95"]
    assert [row.label for row in table.blocks[0].rows] == ["dense (teacher)", "majority class"]
    assert [row.label for row in table.blocks[1].rows] == ["random+dfd", "gpp+dfd"]
    assert texts(cell(table, "reference", "majority class", "MRPC")) == ["50.0", "60.0"]


def test_best_is_bold_by_printed_number_and_only_among_rivals(store: FakeStore) -> None:
    for method, score in (("gpp+dfd", 0.8001), ("gpp+none", 0.8004), ("random+dfd", 0.7)):
        store.finish(store.add("rte", method, 0.8), {"validation": [score]})
    store.finish(store.add("rte", "gpp+dfd", 0.95), {"validation": [0.7]})
    table = table_of(store)
    bold = {(block.title, row.label) for block in table.blocks for row in block.rows if row.cells[0].numbers[0].best}
    assert bold == {("0.8", "gpp+dfd"), ("0.8", "gpp+none")}


def test_each_of_two_metrics_has_its_own_best() -> None:
    rows = [
        Row("a", (Cell((Number("80.0"), Number("70.0"))),)),
        Row("b", (Cell((Number("79.0"), Number("71.0"))),)),
    ]
    marked = with_best(rows)
    assert [[number.best for number in row.cells[0].numbers] for row in marked] == [
        [True, False],
        [False, True],
    ]


def test_no_evidence_is_marked_by_any_metric_and_never_best(store: FakeStore) -> None:
    scores = {"gpp+dfd": (0.99, 0.61), "gpp+none": (0.512, 0.612), "random+dfd": (0.51, 0.9), "random+none": (0.3, 0.3)}
    for method, pair in scores.items():
        store.finish(store.add("mrpc", method, 0.8), {"validation": pair})
    table = table_of(store)
    marks = {row.label: row.cells[0].marks for row in table.blocks[1].rows}
    assert marks == {
        "gpp+dfd": (NO_EVIDENCE,),
        "gpp+none": (),
        "random+dfd": (NO_EVIDENCE,),
        "random+none": (NO_EVIDENCE,),
    }
    assert not any(number.best for row in table.blocks[1].rows for number in row.cells[0].numbers)


def test_a_missed_target_is_marked_and_never_best(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), {"validation": [0.9]}, size={"sparsity": 0.781})
    for method, score in (("gpp+none", 0.8), ("random+dfd", 0.7)):
        store.finish(store.add("rte", method, 0.8), {"validation": [score]})
    table = table_of(store)
    missed = cell(table, "0.8", "gpp+dfd", "RTE")
    assert missed.marks == ("true sparsity 78.1 %, target 80.0 %",)
    assert not missed.numbers[0].best
    assert cell(table, "0.8", "gpp+none", "RTE").numbers[0].best
    assert cell(table, "0.8", "gpp+dfd", "avg").marks == ("averages runs that missed their sparsity target",)


def test_unfinished_runs_are_marked_with_their_share(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8, 1), {"validation": [0.9]})
    store.fail(store.add("rte", "gpp+dfd", 0.8, 2), "out of memory")
    store.add("rte", "gpp+dfd", 0.8, 3)
    store.add("rte", "depth+none", 0.8, 1, reachable=False, reason="only whole layers")
    table = table_of(store)
    shown = cell(table, "0.8", "gpp+dfd", "RTE")
    assert shown.marks == ("1 of 3 seeds failed: out of memory", "1 of 3 seeds not run yet")
    assert texts(shown) == ["90.0"]
    assert shown.numbers[0].spread == ""
    assert texts(cell(table, "0.8", "gpp+dfd", "seeds")) == ["3"]
    assert cell(table, "0.8", "depth+none", "RTE") == Cell(marks=("not reachable: only whole layers",))


def test_marks_of_a_whole_column_move_to_its_header(store: FakeStore) -> None:
    reason = {"mismatched": "no gold labels"}
    for method in ("gpp+dfd", "gpp+none"):
        store.finish(store.add("mnli", method, 0.8), {"matched": [0.8]}, missing=reason)
        store.finish(store.add("rte", method, 0.8), data={"subset": ["validation"], "max_train_rows": 500})
        store.finish(store.add("cola", method, 0.8), data={"subset": ["train"]} if method == "gpp+none" else {})
    table = table_of(store)
    heads = {column.title: column.marks for column in table.columns}
    assert heads["MNLI-mm"] == ("no mismatched scores: no gold labels",)
    assert heads["RTE"] == ("only part of the official rows: validation", "trained on at most 500 rows")
    assert heads["CoLA"] == ()
    assert cell(table, "0.8", "gpp+none", "CoLA").marks == ("only part of the official rows: train",)
    assert cell(table, "0.8", "gpp+dfd", "MNLI-mm") == Cell()
    assert texts(cell(table, "0.8", "gpp+dfd", "avg")), "MNLI counts by its matched split"


def test_different_data_in_one_column_is_marked(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), data={"content": "a"})
    store.finish(store.add("rte", "gpp+none", 0.8), data={"content": "b"})
    assert table_of(store).columns[0].marks == ("runs on 2 different versions of the data",)


def test_averages_tell_partial_and_other_data(store: FakeStore) -> None:
    changes = {"gpp+dfd": {"max_train_rows": 50}, "gpp+none": {"content": "other"}, "random+dfd": {}, "gpp+logits": {}}
    for method, data in changes.items():
        store.finish(store.add("rte", method, 0.8), {"validation": [0.9]}, data={"subset": ["test"], **data})
    table = table_of(store)
    heads = {column.title: column.marks for column in table.columns}
    assert heads["avg"] == ("only part of the official rows: test",)
    assert cell(table, "0.8", "gpp+dfd", "avg").marks == ("trained on at most 50 rows",)
    strange = cell(table, "0.8", "gpp+none", "avg")
    assert strange.marks == ("on other data than most runs: RTE",)
    assert cell(table, "0.8", "gpp+none", "RTE").marks == ("on other data than most runs",)
    assert not any(cell(table, "0.8", "gpp+none", title).numbers[0].best for title in ("RTE", "avg"))
    assert cell(table, "0.8", "random+dfd", "avg").numbers[0].best


def test_constant_predictions_are_marked(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), {"validation": [0.5]}, constant_predictions=["validation"])
    assert cell(table_of(store), "0.8", "gpp+dfd", "RTE").marks == (
        NO_EVIDENCE,
        "constant predictions on validation",
    )


def test_marks_of_some_seeds_say_how_many(store: FakeStore) -> None:
    for seed in (1, 2, 3):
        run, one = store.add("rte", "gpp+dfd", 0.8, seed), seed == 1
        constant, size = ["validation"] * one, {"sparsity": 0.781 if one else 0.8}
        store.finish(run, {"validation": [0.5 + 0.1 * seed]}, constant_predictions=constant, size=size)
    assert cell(table_of(store), "0.8", "gpp+dfd", "RTE").marks == (
        "1 of 3 seeds: true sparsity 78.1 %, target 80.0 %",
        "1 of 3 seeds: constant predictions on validation",
    )


def test_seeds_show_mean_spread_and_count(store: FakeStore) -> None:
    values = [0.7, 0.75, 0.82]
    for seed, value in enumerate(values):
        store.finish(store.add("rte", "gpp+dfd", 0.8, seed), {"validation": [value]})
    table = table_of(store)
    number = cell(table, "0.8", "gpp+dfd", "RTE").numbers[0]
    assert (number.text, number.spread) == (
        f"{100 * np.mean(values):.1f}",
        f"{100 * np.std(values, ddof=1):.1f}",
    )
    assert texts(cell(table, "0.8", "gpp+dfd", "seeds")) == ["3"]
    assert cell(table, "reference", "majority class", "seeds") == Cell()


def test_the_foot_says_where_the_numbers_come_from(store: FakeStore) -> None:
    store.finish(store.add("rte"), finished="2026-03-01T00:00:00+00:00")
    store.finish(store.add("mrpc"), sources="other", selection={"rule": "best_dev"})
    store.add("cola")
    foot = "\n".join(table_of(store).notes)
    assert "Records up to 2026-03-01, commit 0123456789; 2 of 3 runs finished, 1 seed." in foot
    assert "scores of the last step, the best step on dev; data: micro; model: micro; precision: fp32" in foot
    assert "2 different versions of the sources" in foot
    assert "RTE acc, " not in foot
    assert "MRPC F1, RTE acc" in foot


def test_a_launch_with_nothing_finished_is_a_table_of_dashes(store: FakeStore) -> None:
    store.add("mrpc")
    store.add("mrpc", "gpp+dfd", 0.8)
    table = table_of(store)
    assert not any(cell.numbers for block in table.blocks for row in block.rows for cell in row.cells)
    assert table.notes[-1] == "No run of 2 is finished."
    assert "not run yet" in to_markdown(table)
    to_latex(table)
    to_csv(table)


# --- what the marks of a comparison are made of ---


def test_arrows_say_what_differs_from_the_reference(store: FakeStore) -> None:
    labels = np.arange(400) % 2
    right, wrong = labels, 1 - labels
    for method, share in (("gpp+dfd", 0.8), ("gpp+none", 0.9), ("random+dfd", 0.6), ("random+none", 0.8)):
        run = store.add("rte", method, 0.8)
        store.finish(run, {"validation": [share]})
        store.predict(run, np.where(np.arange(400) < 400 * share, right, wrong), labels)
    table = table_of(store)
    marks = {row.label: row.cells[0].marks for row in table.blocks[1].rows}
    assert marks == {"gpp+dfd": (), "gpp+none": (BETTER,), "random+dfd": (WORSE,), "random+none": ()}
    assert any("3 tests of the table" in note for note in table.notes)
    assert any(note.startswith("With one seed") for note in table.notes)
    assert "<sup>↑</sup>" in to_markdown(table)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_damaged_predictions_are_named_and_left_out(store: FakeStore, content: bytes) -> None:
    labels = np.arange(400) % 2
    for method, share in (("gpp+dfd", 0.8), ("gpp+none", 0.9), ("random+dfd", 0.6)):
        run = store.add("rte", method, 0.8)
        store.finish(run, {"validation": [share]})
        store.predict(run, np.where(np.arange(400) < 400 * share, labels, 1 - labels), labels)
    (store.root / "rte-gpp+none-0.8-seed1" / "predictions.parquet").write_bytes(content)
    table = table_of(store)
    marks = {row.label: row.cells[0].marks for row in table.blocks[1].rows}
    assert marks == {"gpp+dfd": (), "gpp+none": (), "random+dfd": (WORSE,)}
    (note,) = (note for note in table.notes if "rte-gpp+none-0.8-seed1" in note)
    assert "predictions.parquet is damaged" in note


def test_seeds_that_disagree_make_no_arrow(store: FakeStore) -> None:
    labels = np.arange(400) % 2
    for seed, share in ((1, 0.9), (2, 0.6)):
        for method, right in (("gpp+dfd", 0.5), ("gpp+none", share)):
            run = store.add("rte", method, 0.8, seed)
            store.finish(run, {"validation": [right]})
            store.predict(run, np.where(np.arange(400) < 400 * right, labels, 1 - labels), labels)
    table = table_of(store)
    assert not {BETTER, WORSE} & {mark for row in table.blocks[1].rows for cell in row.cells for mark in cell.marks}
    assert not any(note.startswith("With one seed") for note in table.notes)


def test_a_run_that_missed_its_target_is_never_compared(store: FakeStore) -> None:
    labels = np.arange(400) % 2
    for method, sparsity in (("gpp+dfd", 0.8), ("gpp+none", 0.7)):
        run = store.add("rte", method, 0.8)
        store.finish(run, {"validation": [0.5]}, size={"sparsity": sparsity})
        store.predict(run, labels if method == "gpp+none" else 0 * labels, labels)
    assert BETTER not in cell(table_of(store), "0.8", "gpp+none", "RTE").marks


def test_single_weights_are_told_from_units(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    folder = store.finish(store.add("rte", "gpp+none", 0.8))
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"kept": {"weight": [100]}}))
    marks = {row.label: row.marks for row in table_of(store).blocks[1].rows}
    assert marks == {"gpp+dfd": (), "gpp+none": (SINGLE_WEIGHTS,)}
    compared = ablation_table(results_of(store), "caption")
    assert compared is not None
    assert [row.marks for row in compared.blocks[0].rows] == [(), (SINGLE_WEIGHTS,)]
    exchanged = distiller_table(results_of(store), "caption")
    assert exchanged is not None
    assert [row.marks for row in exchanged.blocks[0].rows] == [(), (SINGLE_WEIGHTS,)]


def test_retention_is_over_the_own_teacher(store: FakeStore) -> None:
    store.finish(store.add("rte"), {"validation": [0.8]})
    scores = {"validation": {"accuracy": 0.6}}
    store.finish(store.add("rte", "gpp+dfd", 0.8), {"validation": [0.54]}, teacher={"run_id": "t", "scores": scores})
    store.finish(store.add("rte", "gpp+none", 0.8), {"validation": [0.6]}, teacher=None)
    table = table_of(store)
    assert texts(cell(table, "0.8", "gpp+dfd", "kept (%)")) == ["90.0"]
    assert texts(cell(table, "0.8", "gpp+none", "kept (%)")) == ["75.0"], "no teacher: the dense run of the same seed"


# --- published rows ---


def published_main(store: FakeStore) -> Table:
    results = results_of(store)
    return main_table(results, "caption", select(shipped(), {run.task for run in results.planned}, "main"))


def test_published_rows_stand_beside_ours_and_never_in_one_block(tmp_path: Path) -> None:
    table = published_main(full_store(tmp_path, methods=["gpp+dfd", "gpp+none"], sparsities=[0.95], seeds=(1, 2)))
    heads = [column.title for column in table.columns]
    assert heads[:4] == ["backbone", "split", "augmented", "seeds"]
    for block in table.blocks[1:]:
        protocols = {tuple(row.cells[place].numbers[0].text for place in (1, 2)) for row in block.rows}
        ours = {bool(row.label in ("gpp+dfd", "gpp+none")) for row in block.rows}
        assert len(protocols) == len(ours) == 1, block.title
        assert not any(n.best for row in block.rows for c in row.cells for n in c.numbers) or ours == {True}
    titles = [block.title for block in table.blocks]
    assert "0.95 published, dev, not augmented" in titles
    assert "0.95 published, dev, augmented" in titles


def test_a_published_row_names_its_source_and_its_numbers(tmp_path: Path) -> None:
    table = published_main(full_store(tmp_path, methods=["gpp+dfd", "gpp+none"], sparsities=[0.95]))
    block = next(block for block in table.blocks if block.title == "0.95 published, dev, not augmented")
    row = next(row for row in block.rows if "Xia et al., ACL 2022, arXiv 2204.00408, Table 2" in row.marks[0])
    shown = dict(zip((column.title for column in table.columns), row.cells, strict=True))
    assert texts(shown["CoLA"]) == ["35.6"]
    assert texts(shown["MRPC"]) == ["82.6", ""], "accuracy alone: F1 is unknown"
    assert shown["STS-B"].unnamed
    assert [texts(shown[name]) for name in ("backbone", "split", "augmented", "seeds")] == [
        ["bert-base-uncased"],
        ["dev"],
        ["no"],
        ["not stated"],
    ]
    assert "Xia et al., ACL 2022" in to_markdown(table)


def test_our_rows_say_their_protocol_too(tmp_path: Path) -> None:
    table = published_main(full_store(tmp_path, methods=["gpp+dfd"], sparsities=[0.95], seeds=(1, 2)))
    assert [cell.numbers[0].text for cell in table.blocks[0].rows[0].cells[:4]] == ["micro", "dev", "no", "2"]
