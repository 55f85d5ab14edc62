"""Tables that compare: differences to the reference, kinds of units, halves of methods exchanged."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from suites.comparison_tables import (
    ablation_table,
    distiller_table,
    matrix_table,
    pruner_table,
    unit_table,
    without_unit_options,
)
from suites.figures.matrix import pair_scores
from suites.formats import WORSE, Row, Table
from suites.published import select, shipped
from suites.records import Results, read_results
from tests.suites.fake_store import FakeStore, full_store


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def results_of(store: FakeStore) -> Results:
    return read_results(store.save_plan(), store.root)


def row(table: Table | None, label: str, block: int = 0) -> dict[str, list[str]]:
    """Printed numbers of a row by column."""
    assert table is not None
    (found,) = [row for row in table.blocks[block].rows if row.label == label]
    titles = [column.title for column in table.columns]
    return {title: [n.text for n in cell.numbers] for title, cell in zip(titles, found.cells, strict=True)}


def labels(rows: tuple[Row, ...]) -> list[str]:
    return [row.label for row in rows]


# --- against the reference ---


@pytest.fixture
def ablation(store: FakeStore) -> Table:
    """Four tasks, two seeds; `gpp+none` loses one point everywhere, but for one tie."""
    for task in ("rte", "sst2", "qnli", "mnli"):
        for seed in (1, 2):
            score = 0.7 + 0.05 * seed
            lower = score - (0.01 if (task, seed) != ("rte", 1) else 0)
            splits = ("matched", "mismatched") if task == "mnli" else ("validation",)
            for method, value in (("gpp+dfd", score), ("gpp+none", lower)):
                store.finish(store.add(task, method, 0.8, seed), {split: [value] for split in splits})
    table = ablation_table(results_of(store), "caption")
    assert table is not None
    return table


def test_differences_are_paired_by_task_and_seed(ablation: Table) -> None:
    found = row(ablation, "gpp+none")
    assert found["SST-2"] == ["-1.0"]
    assert found["RTE"] == ["-0.5"], "a tie and a point"
    assert found["Δ all"] == ["-0.9"]
    assert found["pairs"] == ["0", "1", "7"]
    # Seven equal differences of one sign: 2 / 2^7.
    assert found["p"] == found["p (Holm)"] == [f"{2 / 2**7:.3f}"]
    assert found["rank"] == ["2.00"]


def test_the_reference_comes_first_with_its_scores(ablation: Table) -> None:
    found = row(ablation, "gpp+dfd (reference: scores)")
    assert labels(ablation.blocks[0].rows)[0] == "gpp+dfd (reference: scores)"
    assert (found["SST-2"], found["Δ all"], found["p"]) == (["77.5"], ["77.5"], [])


def test_a_test_that_is_impossible_says_so(store: FakeStore) -> None:
    for method in ("gpp+dfd", "gpp+none"):
        store.finish(store.add("rte", method, 0.8), {"validation": [0.7]})
    store.add("rte", "random+dfd", 0.8)
    table = ablation_table(results_of(store), "caption")
    assert table is not None
    marks = {found.label: found.cells[-3].marks for found in table.blocks[0].rows}
    assert marks["gpp+none"] == ("no test: 1 pair, 1 of them ties; Wilcoxon's needs 6 that differ",)
    assert table.blocks[0].rows[2].cells[1].marks == ("no finished pair of runs",)


def test_runs_on_other_data_are_no_pair(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), {"validation": [0.7]})
    store.finish(store.add("rte", "gpp+none", 0.8), {"validation": [0.9]}, data={"content": "other"})
    assert row(ablation_table(results_of(store), "caption"), "gpp+none")["RTE"] == []


def test_the_plan_names_the_reference(store: FakeStore) -> None:
    for method in ("gpp+dfd", "gpp+none"):
        run = store.add("rte", method, 0.8, reference=method == "gpp+none")
        store.finish(run, {"validation": [0.7 if method == "gpp+none" else 0.8]})
    assert row(ablation_table(results_of(store), "caption"), "gpp+dfd")["RTE"] == ["+10.0"]


def test_an_older_plan_takes_its_first_student_for_the_reference(store: FakeStore) -> None:
    for method in ("gpp+dfd", "gpp+none"):
        store.finish(store.add("rte", method, 0.8), {"validation": [0.7]})
    for planned in store.plan:
        del planned["reference"], planned["pair"]
    results = results_of(store)
    assert [run.reference for run in results.planned] == [True, False]
    assert [(run.pruner, run.distiller) for run in results.planned] == [("gpp", "dfd"), ("gpp", "none")]


# --- halves exchanged ---


@pytest.fixture
def crossed(store: FakeStore) -> Results:
    scores = {("gpp", "dfd"): 0.9, ("gpp", "none"): 0.7, ("random", "dfd"): 0.8, ("random", "none"): 0.6}
    for (pruner, distiller), score in {**scores, ("gpp(mask=hard_once)", "dfd"): 0.5}.items():
        name = "fancy" if (pruner, distiller) == ("random", "none") else f"{pruner}+{distiller}"
        run = store.add("rte", name, 0.8, pair=f"{pruner}+{distiller}")
        store.finish(run, {"validation": [score]})
    return results_of(store)


def test_distillers_on_the_references_pruner(crossed: Results) -> None:
    table = distiller_table(crossed, "caption")
    assert table is not None
    assert table.caption == "caption, pruner gpp"
    assert labels(table.blocks[0].rows) == ["dfd", "none"]


def test_pruners_with_the_references_distiller(crossed: Results) -> None:
    table = pruner_table(crossed, "caption")
    assert table is not None
    assert labels(table.blocks[0].rows) == ["gpp", "random", "gpp(mask=hard_once)"]
    assert row(table, "random")["RTE"] == ["80.0"]


def test_the_matrix_knows_the_halves_behind_a_name(crossed: Results) -> None:
    table = matrix_table(crossed, "caption")
    assert table is not None
    assert [column.title for column in table.columns] == ["dfd", "none"]
    assert row(table, "gpp") == {"dfd": ["90.0"], "none": ["70.0"]}
    assert row(table, "random") == {"dfd": ["80.0"], "none": ["60.0"]}
    best = [found.cells[0].numbers[0].best for found in table.blocks[0].rows]
    assert best == [True, False], "and no row for a pruner with a single partner"


def test_the_matrix_tells_partial_and_other_data(store: FakeStore) -> None:
    strange = {("gpp", "dfd"): {"content": "other"}, ("gpp", "none"): {"max_train_rows": 50}}
    for pair, score in zip(product(("gpp", "random"), ("dfd", "none")), (0.9, 0.8, 0.7, 0.6), strict=True):
        run = store.add("rte", "+".join(pair), 0.8)
        store.finish(run, {"validation": [score]}, data={"subset": ["test"], **strange.get(pair, {})})
    table = matrix_table(results_of(store), "caption")
    assert table is not None
    other, limited = table.blocks[0].rows[0].cells
    assert other.marks == ("on other data than most runs: RTE",)
    assert limited.marks == ("trained on at most 50 rows",)
    assert [found.numbers[0].best for found in (other, limited)] == [False, True]
    assert "All runs: only part of the official rows: test." in table.notes


@pytest.fixture
def doubled(store: FakeStore) -> Results:
    """Two pruners with two distillers, and rows of their own training that are better, before and after the others."""
    rows = [("gpp+dfd", "flooding", 0.99), ("gpp+dfd", "gpp+dfd", 0.9), ("gpp+none", "gpp+none", 0.8)]
    rows += [("random+dfd", "random", 0.7), ("random+none", "control", 0.6), ("random+dfd", "longer", 0.98)]
    for place, (pair, label, score) in enumerate(rows):
        run = store.add("rte", label, 0.8, pair=pair, reference=label == "gpp+dfd", order=place)
        store.finish(run, {"validation": [score]})
    return results_of(store)


def test_one_row_stands_for_a_pair(doubled: Results) -> None:
    table = matrix_table(doubled, "caption")
    assert row(table, "gpp") == {"dfd": ["90.0"], "none": ["80.0"]}, "the reference"
    assert row(table, "random") == {"dfd": ["70.0"], "none": ["60.0"]}, "the first of the suite"
    figure = {pair: found.mean for pair, found in pair_scores(doubled)[0.8].items()}
    assert figure[("gpp", "dfd")] == 0.9
    assert figure[("random", "dfd")] == 0.7
    for build, shown in ((distiller_table, ["dfd", "none"]), (pruner_table, ["gpp", "random"])):
        found = build(doubled, "caption")
        assert found is not None
        assert labels(found.blocks[0].rows) == shown
    assert unit_table(doubled, "caption") is None, "training is no kind of unit"


def test_rows_of_one_pair_are_no_partners_of_it(store: FakeStore) -> None:
    for pair, label in (("gpp+dfd", "gpp+dfd"), ("gpp+dfd", "flooding"), ("random+dfd", "r"), ("gpp+none", "n")):
        store.finish(store.add("rte", label, 0.8, pair=pair))
    assert matrix_table(results_of(store), "caption") is None


def test_one_method_alone_makes_none_of_these_tables(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    results = results_of(store)
    for build in (ablation_table, unit_table, distiller_table, pruner_table, matrix_table):
        assert build(results, "caption") is None


# --- kinds of units ---


@pytest.mark.parametrize(
    ("pruner", "rest"),
    [
        ("l0", "l0"),
        ("l0(units=heads+ffn)", "l0"),
        ("l0(units=heads+ffn,size=released)", "l0(size=released)"),
        ("grain(units=heads,ranking=per_kind)", "grain"),
        ("gpp(mask=hard_once)", "gpp(mask=hard_once)"),
    ],
)
def test_options_about_units_are_told_from_others(pruner: str, rest: str) -> None:
    assert without_unit_options(pruner) == rest


def test_unit_kinds_stand_with_published_ones(tmp_path: Path) -> None:
    methods = ["gpp+dfd", "gpp(units=heads)+dfd", "gpp(mask=hard_once)+dfd"]
    store = full_store(tmp_path, tasks=["qnli", "mnli"], methods=methods, sparsities=[0.6])
    rows = select(shipped(), ["qnli", "mnli"], "units")
    table = unit_table(results_of(store), "caption", rows)
    assert table is not None
    assert labels(table.blocks[0].rows) == ["gpp+dfd", "gpp(units=heads)+dfd"]
    assert table.blocks[1].title == "0.6 published, dev, not augmented"
    assert "CoFi, units -hidden" in labels(table.blocks[1].rows)
    assert row(table, "gpp+dfd")["units"] == ["head, ffn"]
    assert len({len(found.cells) for block in table.blocks for found in block.rows}) == 1


def test_predictions_of_all_columns_are_tested(store: FakeStore) -> None:
    labels = np.arange(300) % 2
    for task in ("rte", "sst2"):
        for method, wrong in (("gpp+dfd", 0), ("gpp+none", 100)):
            run = store.add(task, method, 0.8)
            store.finish(run, {"validation": [1 - wrong / 300]})
            store.predict(run, np.where(np.arange(300) < wrong, 1 - labels, labels), labels)
    table = ablation_table(results_of(store), "caption")
    assert table is not None
    assert all(cell.marks[0] == WORSE for cell in table.blocks[0].rows[1].cells[:2])
