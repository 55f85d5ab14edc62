"""The report command from end to end, and that it needs no torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from suites.report import main, write_report
from suites.store import Store
from tests.suites.fake_store import FakeStore, full_store

FIGURES = (
    "score_against_sparsity",
    "score_against_speedup",
    "score_against_cost",
    "ablation",
    "indicators",
    "binarisation",
    "schedules",
    "structure",
    "fusion_weights",
)
TABLES = ("main", "ablation", "pruners", "size", "structure", "training")
FILES = {
    "README.md",
    "report.html",
    *(f"table_{table}.{kind}" for table in TABLES for kind in ("csv", "md", "tex")),
    *(f"{figure}.{kind}" for figure in FIGURES for kind in ("pdf", "png")),
}
# Not by None in sys.modules, which scipy would take for torch itself.
BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "datasets", "evaluate", "baselines"):
            raise ImportError(f"{name} is refused")

sys.meta_path.insert(0, Refuse())
import suites.records, suites.report
"""


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return full_store(
        tmp_path / "runs",
        tasks=["mrpc", "rte"],
        methods=["gpp+dfd", "gpp(mask=hard_gradual)+dfd", "random+dfd"],
    )


def report(store: FakeStore, out: Path, *more: str) -> int:
    return main(["glue_ablation", "--store", str(store.root), "--out", str(out), *more])


def test_everything_is_written_printed_and_linked(
    store: FakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert report(store, out) == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == FILES
    index = (out / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", index)
    assert set(links) == FILES - {"README.md"}
    assert "python -m suites.report glue_ablation --preset micro" in index
    assert "2026-01-02" in index
    assert "commit 0123456789" in index
    assert str(tmp_path) not in index
    assert (out / "table_main.md").read_text() in index


def test_the_same_records_give_the_same_bytes(store: FakeStore, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        paths = write_report("glue_ablation", "micro", store.root, store.plan_file, tmp_path / "out")
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


def test_unfinished_runs_and_warnings_are_listed(tmp_path: Path) -> None:
    store = FakeStore(tmp_path / "runs")
    store.finish(store.add("mrpc"), warnings=["constant predictions on a_b"])
    store.fail(store.add("mrpc", "gpp+dfd", 0.8), "loss | NaN")
    paths = write_report("glue_ablation", "micro", store.root, store.save_plan(), tmp_path / "out")
    index = paths[0].read_text()
    assert r"| mrpc-gpp+dfd-0.8-seed1 | failed | loss \| NaN |" in index
    assert r"- constant predictions on a\_b: mrpc-dense-0-seed1" in index
    assert "- `score_against_sparsity`: a finished student" in index
    assert not list((tmp_path / "out").glob("*.png"))


def test_the_index_shows_the_options_that_were_given(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["glue_ablation", "--store", "runs", "--show", "task=rte", "sparsity=0.95"]) == 0
    index = (tmp_path / "results" / "glue_ablation" / "micro" / "README.md").read_text()
    assert "suites.report glue_ablation --preset micro --store runs --show task=rte sparsity=0.95\n" in index


def test_the_only_preset_needs_no_naming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore(tmp_path / "runs", preset="base")
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    store.save_plan()
    (tmp_path / "my.yaml").write_text("name: glue_ablation\n")
    monkeypatch.chdir(tmp_path)
    assert main(["./my.yaml", "--store", "runs"]) == 0
    index = (tmp_path / "results" / "glue_ablation" / "base" / "README.md").read_text()
    assert "suites.report glue_ablation --preset base --store runs\n" in index


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "mini"], r"python -m suites\.run glue_ablation --preset mini"),
        (["--show", "task=cola"], "There is: task=mrpc"),
        (["--show", "colour=red"], "--show colour=red"),
        (["--show", "seed=first"], "--show seed=first"),
    ],
)
def test_a_wrong_request_is_one_message_and_code_2(
    store: FakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert report(store, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_broken_record_is_one_message_and_code_1(
    store: FakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = store.root / store.plan[0]["run_id"] / "record.json"
    broken.write_text("{")
    assert report(store, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert str(broken) in error
    assert error.count("\n") == 1


def test_an_out_that_is_a_file_is_code_1(store: FakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert report(store, tmp_path / "out") == 1
    assert str(tmp_path / "out") in capsys.readouterr().err


def test_a_whole_report_needs_no_torch(store: FakeStore, tmp_path: Path) -> None:
    arguments = ["glue_ablation", "--store", str(store.root), "--out", str(tmp_path / "out")]
    code = f"{BLOCKED}\nsys.exit(suites.report.main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "indicators.pdf").is_file()


def test_published_numbers_stand_beside_real_tasks_alone(store: FakeStore, tmp_path: Path) -> None:
    report(store, tmp_path / "generated")
    assert "published" not in (tmp_path / "generated" / "table_main.md").read_text()
    for row in store.plan:
        store.finish(row["run_id"], data={"source": "data/glue"})
    report(store, tmp_path / "real")
    assert "published, dev, not augmented" in (tmp_path / "real" / "table_main.md").read_text()
    assert "[md](table_published.md)" in (tmp_path / "real" / "README.md").read_text()


def test_the_plan_lies_where_the_launch_puts_it(store: FakeStore) -> None:
    assert Store(store.root).plan_path("glue_ablation", "micro") == store.plan_file
