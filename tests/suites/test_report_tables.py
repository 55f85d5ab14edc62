"""Tables: their rules, their statistics against numpy, and that the three formats say the same."""

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.formats import (
    LATEX,
    MARKDOWN,
    NO_EVIDENCE,
    Block,
    Cell,
    Column,
    Number,
    Row,
    Table,
    letters,
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)
from suites.records import Results, read_results
from suites.statistics import Summary, average_summaries, no_evidence, score_summaries
from suites.tables import main_table, percent, size_table, with_best
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


# --- statistics ---


def test_summaries_agree_with_numpy(tmp_path: Path) -> None:
    store = full_store(tmp_path, tasks=["mrpc", "mnli"], methods=["gpp+dfd", "random+dfd"], seeds=(1, 2, 3, 5))
    results = results_of(store)
    for key, summary in score_summaries(results).items():
        label, sparsity, task, split, metric = key
        values = [
            record.scores[split][metric]
            for record in results.records.values()
            if (record.label, record.sparsity_target, record.task) == (label, sparsity, task)
        ]
        np.testing.assert_allclose(summary, (np.mean(values), np.std(values, ddof=1), 4), rtol=1e-12)


def test_averages_are_over_tasks_first_and_seeds_then(store: FakeStore) -> None:
    numbers = {
        ("mrpc", 1): 0.9,
        ("mrpc", 2): 0.8,
        ("mnli", 1): 0.7,
        ("mnli", 2): 0.5,
        ("rte", 1): 0.6,
        ("rte", 2): 0.65,
    }
    for (task, seed), value in numbers.items():
        scores = {"mnli": {"matched": [value], "mismatched": [0.1]}, "mrpc": {"validation": [0.2, value]}}
        run = store.add(task, "gpp+dfd", 0.8, seed)
        store.finish(run, scores.get(task, {"validation": [value]}))
    by_seed = [np.mean([value for (_, seed), value in numbers.items() if seed == wanted]) for wanted in (1, 2)]
    averages = average_summaries(results_of(store))
    np.testing.assert_allclose(averages["gpp+dfd", 0.8], (np.mean(by_seed), np.std(by_seed, ddof=1), 2))


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


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_no_evidence_is_at_most_a_point_above_the_majority(score: float, majority: float) -> None:
    assert no_evidence(majority + 0.01, majority)
    assert not no_evidence(majority + 0.0101, majority)
    assert no_evidence(min(score, majority), majority)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_printed_numbers_are_within_half_a_tenth(values: list[float]) -> None:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    number = percent(Summary(float(np.mean(values)), sd, len(values)))
    assert abs(float(number.text) - 100 * np.mean(values)) <= 0.05 + 1e-9
    assert re.fullmatch(r"-?\d+\.\d", number.text)
    assert number.text != "-0.0"
    assert bool(number.spread) == (len(values) > 1)


# --- rules of the main table ---


def test_columns_are_in_the_order_of_glue(tmp_path: Path) -> None:
    store = full_store(tmp_path, methods=["gpp+dfd"], sparsities=[0.8])
    titles = [column.title for column in table_of(store).columns]
    assert titles == ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "avg"]


def test_other_tasks_come_after_glue_by_name(store: FakeStore) -> None:
    for task in ("zeta", "rte", "alpha"):
        store.finish(store.add(task, "gpp+dfd", 0.8))
    assert [column.title for column in table_of(store).columns] == ["RTE", "alpha", "zeta", "avg"]


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


def test_no_evidence_is_marked_by_the_primary_metric_and_never_best(store: FakeStore) -> None:
    for method, pair in (("gpp+dfd", (0.99, 0.61)), ("gpp+none", (0.4, 0.612)), ("random+dfd", (0.3, 0.3))):
        store.finish(store.add("mrpc", method, 0.8), {"validation": pair})
    table = table_of(store)
    marks = {row.label: row.cells[0].marks for row in table.blocks[1].rows}
    assert marks == {"gpp+dfd": (NO_EVIDENCE,), "gpp+none": (), "random+dfd": (NO_EVIDENCE,)}
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


def test_constant_predictions_are_marked(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), {"validation": [0.5]}, constant_predictions=["validation"])
    assert cell(table_of(store), "0.8", "gpp+dfd", "RTE").marks == (
        NO_EVIDENCE,
        "constant predictions on validation",
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


# --- the table of sizes ---


def test_sizes_are_means_over_the_finished_runs(store: FakeStore) -> None:
    store.finish(store.add("rte"))
    store.finish(store.add("rte", "gpp+dfd", 0.8), size={"encoder_kept": 100_000, "flops_task": 10_000_000})
    store.finish(store.add("mrpc", "gpp+dfd", 0.8), size={"encoder_kept": 200_000, "flops_task": 20_000_000})
    store.add("cola", "gpp+dfd", 0.8)
    table = size_table(results_of(store), "caption")
    dense, student = (block.rows[0].cells for block in table.blocks)
    assert [texts(found)[0] for found in dense] == ["1", "0.786", "0.0", "1.00", "6.0"]
    assert [texts(found)[0] for found in student] == ["2", "0.150", "80.0", "3.00", "6.8"]
    assert student[0].marks == ("3 runs planned",)


def test_sizes_mark_missed_targets_and_unknown_flops(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), size={"sparsity": 0.7, "flops_task_dense": None})
    cells = size_table(results_of(store), "caption").blocks[0].rows[0].cells
    assert cells[2].marks == ("1 of 1 runs more than 0.5 points off their target",)
    assert cells[3] == Cell()


# --- formats ---


def numbers_in(text: str) -> list[str]:
    return re.findall(r"-?\d+\.\d+", text)


def csv_numbers(table: Table) -> list[list[str]]:
    """Numbers and spreads by row, in the order of the columns."""
    rows = csv.DictReader(io.StringIO(to_csv(table)))
    skip = table.corner
    return [
        [value for name, value in row.items() if name not in skip and not name.endswith(" notes") and "." in value]
        for row in rows
    ]


def markdown_numbers(table: Table) -> list[list[str]]:
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")][2:]
    return [numbers_in(line.split("|", 3)[3]) for line in lines]


def latex_numbers(table: Table) -> list[list[str]]:
    body = to_latex(table).split("\\midrule", 1)[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if "&" in line]
    return [numbers_in(line.split("&", 2)[2].replace("$-$", "-")) for line in lines]


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three seeds, negative scores, failures, marks in headers and cells."""
    store = full_store(tmp_path_factory.mktemp("runs"), methods=["gpp+dfd", "gpp(mask=hard_gradual)+dfd"], seeds=(1, 2))
    store.finish(store.add("cola", "random+dfd", 0.8), {"validation": [-0.031]}, data={"subset": ["train"]})
    store.fail(store.add("mrpc", "random+dfd", 0.8), "100 % of {a} & b_c # $x$ ~ ^ \\ <script> | [x](y) `z`")
    return results_of(store)


@pytest.mark.parametrize("build", [main_table, size_table])
def test_all_formats_have_the_same_numbers(rich: Results, build: Callable[[Results, str], Table]) -> None:
    table = build(rich, "caption")
    rows = csv_numbers(table)
    assert sum(map(len, rows)) > 20
    assert rows == markdown_numbers(table) == latex_numbers(table)


def test_formats_agree_on_best_and_on_footnotes(rich: Results) -> None:
    table = main_table(rich, "caption")
    best = [
        n.text for block in table.blocks for row in block.rows for found in row.cells for n in found.numbers if n.best
    ]
    assert best
    assert re.findall(r"\*\*(-?\d+\.\d)\*\*", to_markdown(table)) == best
    assert re.findall(r"\\textbf\{(\d+\.\d)\}", to_latex(table)) == best
    for text, sign in table.signs().items():
        assert f"<sup>{sign}</sup> {MARKDOWN.escape(text)}" in to_markdown(table)
        assert f"{LATEX.raised(sign)} {LATEX.escape(text)}" in to_latex(table)
        assert text in to_csv(table)


def test_footnotes_are_lettered_in_reading_order() -> None:
    table = Table(
        "t", "c", ("a", "b"), (Column("x", marks=("head",)), Column("y")),
        (Block("1", (Row("r", (Cell(marks=("first", NO_EVIDENCE)), Cell(marks=("head", "second")))),)),),
    )  # fmt: skip
    assert table.signs() == {NO_EVIDENCE: "†", "head": "a", "first": "b", "second": "c"}


@given(st.integers(0, 10_000))
def test_footnote_letters_never_repeat(place: int) -> None:
    assert re.fullmatch(r"[a-z]+", letters(place))
    assert (len(letters(place)), letters(place)) < (len(letters(place + 1)), letters(place + 1))


HOSTILE = r"gpp(a=1)+x_y & 50% #1 {b} $m$ ~ ^ \cmd <i>|[l](u)* `c`"


def test_latex_escapes_every_special_character() -> None:
    escaped = LATEX.escape(HOSTILE)
    assert escaped.startswith(
        r"gpp(a=1)+x\_y \& 50\% \#1 \{b\} \$m\$ \textasciitilde{} \textasciicircum{} \textbackslash{}cmd"
    )
    assert not re.search(r"(?<!\\)[&%#_]", escaped)
    assert LATEX.escape("-1.5") == "$-$1.5"


def test_markdown_escapes_keep_the_row_whole(rich: Results) -> None:
    table = main_table(rich, "caption")
    hostile = replace(table, blocks=(Block("b", (Row(HOSTILE, table.blocks[0].rows[0].cells),)),))
    row = to_markdown(hostile).splitlines()[4]
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == len(table.columns) + 4
    assert re.sub(r"\\(.)", r"\1", cells[2].strip()) == HOSTILE.replace("\\cmd", "\\cmd")


def test_csv_can_be_read_back(rich: Results) -> None:
    import pandas as pd

    frame = pd.read_csv(io.StringIO(to_csv(main_table(rich, "caption"))))
    row = frame[(frame["sparsity"] == "0.8") & (frame["method"] == "random+dfd")].iloc[0]
    assert row["CoLA MCC"] == -3.1
    assert "[x](y) `z`" in row["MRPC notes"]
    assert {"MRPC acc", "MRPC acc sd", "MRPC F1", "seeds", "avg"} <= set(frame.columns)


def test_latex_has_the_structure_of_booktabs(rich: Results) -> None:
    text = to_latex(main_table(rich, "caption"))
    table = main_table(rich, "caption")
    assert [text.count(rule) for rule in ("\\toprule", "\\bottomrule")] == [1, 1]
    assert text.count("\\midrule") == len(table.blocks)
    assert text.count("{") == text.count("}") + text.count("\\{") - text.count("\\}")
    for line in text.split("\\midrule", 1)[1].split("\\bottomrule")[0].splitlines():
        if line and "\\midrule" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) + 1


def latex_works() -> bool:
    def found(package: str) -> bool:
        return subprocess.run(["kpsewhich", package], capture_output=True, check=False).returncode == 0

    programs = all(map(shutil.which, ("pdflatex", "kpsewhich")))
    return programs and all(map(found, ("booktabs.sty", "graphicx.sty")))


@pytest.mark.skipif(not latex_works(), reason="no LaTeX with booktabs and graphicx")
def test_a_real_latex_compiles_the_tables(rich: Results, tmp_path: Path) -> None:
    hostile = replace(main_table(rich, HOSTILE), name="table_hostile")
    for table in (main_table(rich, "caption"), size_table(rich, "caption"), hostile):
        write_table(table, tmp_path)
    inputs = "\n".join(f"\\input{{{path.name}}}" for path in sorted(tmp_path.glob("*.tex")))
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}"
    document = f"{head}{inputs}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
