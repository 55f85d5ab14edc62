"""Counterparts of published tables and figures: what is written, and that published values are what the file says."""

from pathlib import Path

import pytest

from suites.paper import ABSENT, FIGURES, PAPERS, TABLES, as_published
from suites.published import shipped
from suites.report import main
from tests.suites.fake_store import FakeStore

ITEMS = [item for paper in PAPERS.values() for item in paper.items]
ROWS = {row.key.source.key: row for row in shipped()}


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    """Of all suites only `glue_main` was launched."""
    store = FakeStore(tmp_path / "runs", suite="glue_main")
    for task in ("mrpc", "rte"):
        store.finish(store.add(task))
        for method in ("gpp+dfd", "random+dfd"):
            store.finish(store.add(task, method, 0.8))
    store.save_plan()
    return store


def test_every_paper_has_a_page_with_what_was_launched(
    store: FakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["paper", "--from", str(store.root), "--out", str(out)]) == 0
    written = {Path(line) for line in capsys.readouterr().out.splitlines()}
    assert written == {path for path in out.rglob("*") if path.is_file()}
    for name, paper in PAPERS.items():
        page = (out / name / "README.md").read_text()
        assert page.startswith(f"# {paper.title}")
        assert page.count("\n## ") == len(paper.items)
        assert f"({name}/README.md)" in (out / "README.md").read_text()
    cofi = (out / "cofi" / "README.md").read_text()
    assert "*Not launched: `python -m suites.run cofi_ablation --preset micro`.*" in cofi
    assert "80.6" in (out / "cofi" / "glue_main_main_published.csv").read_text()
    assert "glue_main_score_against_speedup.png" in cofi


def test_nothing_launched_is_refused_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--from", str(tmp_path), "--preset", "base"]) == 2
    assert "python -m suites.run glue_main --preset base" in capsys.readouterr().err


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_items_name_what_there_is(item) -> None:
    assert (item.shows in TABLES) != (item.shows in FIGURES)
    assert set(item.sources) <= set(ROWS)
    assert (Path(__file__).parents[2] / "suites" / "configs" / f"{item.suite}.yaml").is_file()


def test_names_of_items_differ_within_a_paper() -> None:
    for paper in PAPERS.values():
        names = [item.name for item in paper.items]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("source", sorted(ROWS))
def test_published_tables_hold_every_number_of_their_rows(source: str) -> None:
    rows = [row for row in shipped() if row.key.source.key == source]
    table = as_published("t", "c", rows)
    shown = [
        number.text for block in table.blocks for row in block.rows for cell in row.cells[5:] for number in cell.numbers
    ]
    distinct = [{(score.task, score.metric) for score in row.scores} for row in rows]
    assert len(shown) == sum(map(len, distinct))
    values = {score.value for row in rows for score in row.scores}
    assert {float(text) for text in shown} <= values
    absent = {score.task for row in rows for score in row.scores} & ABSENT
    assert any("not in this suite" in note for note in table.notes) == bool(absent)
