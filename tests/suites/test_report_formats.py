"""One table in three formats: the same numbers, marks and footnotes, whatever the texts."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.formats import (
    LATEX,
    MARKDOWN,
    MOST_ROWS,
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
from suites.published import select, shipped
from suites.published_rows import published_table
from suites.records import Results, read_results
from suites.report import suite_tables
from suites.tables import main_table
from tests.suites.fake_store import full_store

TABLES = ("main", "ablation", "units", "distillers", "pruners", "matrix", "size", "structure", "training", "published")


NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e-\d+)?")


def csv_numbers(table: Table) -> list[list[str]]:
    """Numbers and spreads by row, in the order of the columns."""
    rows = csv.DictReader(io.StringIO(to_csv(table)))
    return [
        [number for name, value in row.items() if not _said_in_words(name, table) for number in NUMBER.findall(value)]
        for row in rows
    ]


def _said_in_words(name: str, table: Table) -> bool:
    return name in table.corner or name.endswith("notes")


def markdown_numbers(table: Table) -> list[list[str]]:
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")][2:]
    cells = [re.split(r"(?<!\\)\|", line, maxsplit=3)[3] for line in lines]
    return [NUMBER.findall(re.sub(r"<sup>.*?</sup>", "", text).replace("±", " ")) for text in cells]


def latex_numbers(table: Table) -> list[list[str]]:
    text = to_latex(table)
    start, end = ("\\endlastfoot", "\\end{longtable}") if "longtable}" in text else ("\\midrule", "\\bottomrule")
    body = text.split(start, 1)[1].split(end)[0]
    cells = [re.split(r"(?<!\\)&", line, maxsplit=2)[2] for line in body.splitlines() if "&" in line]
    marks = re.compile(r"\\textsuperscript\{(?:[^{}]|\{[^{}]*\})*\}")
    return [NUMBER.findall(marks.sub("", text).replace("$-$", "-").replace(r"$\pm$", " ")) for text in cells]


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two seeds, negative scores, failures, marks in headers, rows and cells, every table, published rows."""
    methods = ["gpp+dfd", "gpp(units=heads)+dfd", "gpp+none", "random+dfd", "random+none"]
    data = {"source": "data/glue"}
    store = full_store(
        tmp_path_factory.mktemp("runs"), methods=methods, sparsities=(0.6, 0.95), seeds=(1, 2), data=data
    )
    run = store.add("cola", "magnitude+dfd", 0.95)
    store.finish(run, {"validation": [-0.031]}, data={"subset": ["train"], **data})
    store.fail(store.add("mrpc", "magnitude+dfd", 0.95), "100 % of {a} & b_c # $x$ ~ ^ \\ <script> | [x](y) `z`")
    return read_results(store.save_plan(), store.root)


@pytest.fixture(scope="module")
def tables(rich: Results) -> dict[str, Table]:
    rows = select(shipped(), (run.task for run in rich.planned), "main")
    made = [*suite_tables(rich, "caption"), published_table(rich, "published", rows)]
    return {table.name.removeprefix("table_"): table for table in made if table}


@pytest.mark.parametrize("name", TABLES)
def test_all_formats_have_the_same_numbers(tables: dict[str, Table], name: str) -> None:
    rows = csv_numbers(tables[name])
    assert sum(map(len, rows)) > 5
    assert rows == markdown_numbers(tables[name])
    assert rows == latex_numbers(tables[name])


def test_no_table_of_the_report_is_left_out_here(tables: dict[str, Table]) -> None:
    assert set(tables) == set(TABLES)


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
GREEK = "Größe αβγδεζηθικλμνξοπρςστυφχψω ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ ≤≈→←↔"


def test_latex_escapes_every_special_character() -> None:
    escaped = LATEX.escape(HOSTILE)
    assert escaped.startswith(
        r"gpp(a=1)+x\_y \& 50\% \#1 \{b\} \$m\$ \textasciitilde{} \textasciicircum{} \textbackslash{}cmd"
    )
    assert not re.search(r"(?<!\\)[&%#_]", escaped)
    assert LATEX.escape("-1.5") == "$-$1.5"


def test_greek_letters_and_arrows_are_commands() -> None:
    assert LATEX.escape("λ→β, Δ≤Ω") == r"$\lambda$$\rightarrow$$\beta$, $\Delta$$\leq$$\Omega$"


def test_what_pdflatex_cannot_write_is_said(rich: Results) -> None:
    assert "cannot write" not in to_latex(main_table(rich, GREEK))
    assert to_latex(main_table(rich, "模型")).startswith("% pdflatex cannot write 模型: needs lualatex")


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
    row = frame[(frame["sparsity"] == "0.95") & (frame["method"] == "magnitude+dfd")].iloc[0]
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


def long_table() -> Table:
    rows = tuple(Row(f"row {number}", (Cell((Number(str(number)),)),)) for number in range(2 * MOST_ROWS))
    blocks = (Block("first", rows[:50]), Block("second", rows[50:]))
    return Table("table_long", "Long", ("block", "row"), (Column("value"),), blocks, ("A note.",))


def test_a_long_table_breaks_across_pages() -> None:
    text = to_latex(long_table())
    assert text.count("\\begin{longtable}") == text.count("\\end{longtable}") == 1
    assert "table*" not in text
    body = text.split("\\endlastfoot\n")[1]
    assert [line.split(" & ")[1] for line in body.splitlines() if " & " in line] == [
        f"row {number}" for number in range(2 * MOST_ROWS)
    ]
    assert body.splitlines()[50] == "\\midrule"
    assert body.count("A note.") == 1


def latex_works() -> bool:
    def found(package: str) -> bool:
        return subprocess.run(["kpsewhich", package], capture_output=True, check=False).returncode == 0

    programs = all(map(shutil.which, ("pdflatex", "kpsewhich")))
    return programs and all(map(found, ("booktabs.sty", "graphicx.sty", "longtable.sty")))


@pytest.mark.skipif(not latex_works(), reason="no LaTeX with booktabs, graphicx and longtable")
def test_a_real_latex_compiles_the_tables(rich: Results, tables: dict[str, Table], tmp_path: Path) -> None:
    hostile = replace(main_table(rich, f"{HOSTILE} {GREEK}"), name="table_hostile")
    for table in (*tables.values(), hostile, long_table()):
        write_table(table, tmp_path)
    inputs = "\n".join(f"\\input{{{path.name}}}" for path in sorted(tmp_path.glob("*.tex")))
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx,longtable}\\begin{document}"
    document = f"{head}{inputs}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
