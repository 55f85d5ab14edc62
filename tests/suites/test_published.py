"""Published numbers: shipped ones are sound, and a row without a source is refused."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gppdfd.errors import DataError
from suites.published import FOLDER, PublishedRow, load_published, select, shipped

ROOT = Path(__file__).parents[2]
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
Change = Callable[[dict[str, str]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "literature"))


def change(folder: Path, name: str, how: Change, line: int = 0) -> None:
    """Change one row of a file."""
    path = folder / name
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    how(rows[line])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def row_of(key: str, **wanted: object) -> PublishedRow:
    rows = [row for row in shipped() if row.key.source.key == key and row.key.protocol.split == "dev"]
    (found,) = [row for row in rows if all(getattr(row.key, name) == value for name, value in wanted.items())]
    return found


def test_every_number_has_a_source_and_every_source_a_number() -> None:
    with (FOLDER / "sources.csv").open() as file:
        listed = {row["key"] for row in csv.DictReader(file)}
    with (FOLDER / "published.csv").open() as file:
        used = {row["source_key"] for row in csv.DictReader(file)}
    assert used == listed
    assert all(row.scores for row in shipped())


def test_known_numbers_are_there() -> None:
    scores = {score.task: score.value for score in row_of("cofi_t2", method="cofi").scores}
    assert (scores["cola"], scores["mnli"], scores["squad"]) == (35.6, 80.6, 82.6)
    grain = row_of("grain_t1", variant="", method="grain", sparsity=0.95)
    assert grain.key.seeds == 3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda row: row.update(source=""), r"published\.csv, line 2: source"),
        (lambda row: row.update(table=""), r"published\.csv, line 2: table"),
        (lambda row: row.update(source_key="hearsay"), "sources.csv lists no source 'hearsay'"),
        (lambda row: row.update(split="train"), r"line 2: split"),
        (lambda row: row.update(value="101"), r"line 2: value"),
        (lambda row: row.update(value=""), r"line 2: value"),
        (lambda row: row.update(augmented="perhaps"), r"line 2: augmented"),
    ],
)
def test_a_row_that_says_too_little_is_refused(folder: Path, how: Change, message: str) -> None:
    change(folder, "published.csv", how)
    with pytest.raises(DataError, match=message):
        load_published(folder)


def test_a_source_without_a_citation_is_refused(folder: Path) -> None:
    change(folder, "sources.csv", lambda row: row.update(citation=""))
    with pytest.raises(DataError, match=r"sources\.csv, line 2: citation"):
        load_published(folder)


def test_a_folder_without_the_files_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_published(tmp_path)


def test_single_weights_are_told_from_units_even_where_the_note_does_not_say_so() -> None:
    quoted = [row for row in shipped() if row.key.source.key == "smp_t1" and row.key.method == "magnitude"]
    assert quoted
    assert all(row.key.protocol.unstructured for row in quoted)
    dense = [row for row in shipped() if row.dense]
    assert not any(row.key.protocol.unstructured for row in dense)


def test_the_more_reliable_source_of_a_model_is_shown() -> None:
    rows = select(shipped(), GLUE, "main")
    at_95 = [row.key.source for row in rows if row.key.method == "cofi" and row.key.sparsity == 0.95]
    assert "cofi_t2" in [source.key for source in at_95]
    assert "cofi_issues" not in [source.key for source in at_95]
    digitised = [row for row in rows if row.key.source.key == "cofi_fig2"]
    assert {row.key.sparsity for row in digitised} == {0.7, 0.75, 0.8, 0.85, 0.9}, "where nothing else exists"
    assert all("read off the figure" in row.reference for row in digitised)


def test_rows_are_chosen_by_task_and_use() -> None:
    rows = select(shipped(), ["qnli"], "units")
    assert {row.key.source.key for row in rows} == {"cofi_t4", "grain_t3"}
    assert {score.task for row in rows for score in row.scores} == {"qnli"}


def test_the_repository_shows_them_among_its_results() -> None:
    assert (ROOT / "results" / "published" / "published.csv").samefile(FOLDER / "published.csv")
