"""The report page as a file: its data against the records and the csv files, its escapes, its independence."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.cells import SINGLE_WEIGHTS
from suites.cost_tables import size_table
from suites.formats import NO_EVIDENCE, to_csv
from suites.page import ALL_SEEDS, OTHER_SOURCES, PageData, kept_units, report_page
from suites.records import Record, Results, read_results
from suites.tables import INCOMPLETE, main_table
from tests.suites.fake_store import FakeStore, fake_record, full_store

Data = dict[str, Any]


class Parsed(HTMLParser):
    """Every tag with its attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem:
            self.scripts[-1] += data


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def results_of(store: FakeStore) -> Results:
    return read_results(store.save_plan(), store.root)


def data_of(store: FakeStore) -> Data:
    content: Data = PageData(results_of(store), store.root.parent / "out").content()
    return content


def run_of(data: Data, run_id: str) -> Data:
    return next(run for run in data["runs"] if run["id"] == run_id)


def html_of(store: FakeStore, title: str = "title") -> str:
    return report_page(title, "command", results_of(store), [], store.root.parent / "out")


# --- the numbers ---


def rows_of(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["sparsity"], row["method"]): row for row in csv.DictReader(io.StringIO(text))}


def key_of(row: Data) -> tuple[str, str]:
    return (f"{row['sparsity']:g}", row["label"]) if row["sparsity"] else ("reference", f"{row['label']} (teacher)")


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_means_are_those_of_the_csv(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    store = full_store(tmp_path, tasks=["mrpc", "mnli", "cola"], methods=["gpp+dfd", "random+dfd"], seeds=seeds)
    data, table = data_of(store), rows_of(to_csv(main_table(results_of(store), "")))
    heads = [*((column["title"], column["metric"]) for column in data["columns"]), ("avg", "")]
    for row in data["means"][ALL_SEEDS]:
        numbers = table[key_of(row)]
        for (title, metric), cell in zip(heads, row["cells"], strict=True):
            name = f"{title} {metric}".strip()
            assert (cell["text"], cell["sd"]) == (numbers[name], numbers.get(f"{name} sd", ""))
            assert cell["n"] == len(seeds)


def test_sizes_of_single_runs_are_those_of_the_csv(tmp_path: Path) -> None:
    store = full_store(tmp_path, tasks=["mrpc"], methods=["gpp+dfd", "random+dfd"])
    table = rows_of(to_csv(size_table(results_of(store), "")))
    for run in data_of(store)["runs"]:
        numbers = table[("reference" if run["role"] == "teacher" else f"{run['sparsity']:g}", run["label"])]
        shown = [run[name] for name in ("parameters", "reached", "flops", "speedup")]
        names = ["encoder (M)", "true sparsity (%)", "FLOPs ratio", "speedup"]
        assert shown == [numbers[name] for name in names]


def test_means_of_one_seed_are_its_runs(tmp_path: Path) -> None:
    data = data_of(full_store(tmp_path, tasks=["rte", "mrpc"], methods=["gpp+dfd"], seeds=(1, 2)))
    scores = {(run["label"], run["sparsity"], run["task"], str(run["seed"])): run["score"] for run in data["runs"]}
    for seed in ("1", "2"):
        for row in data["means"][seed]:
            for column, cell in zip(data["columns"], row["cells"], strict=False):
                assert cell["text"] == scores[row["label"], row["sparsity"], column["task"], seed]
                assert (cell["sd"], cell["n"]) == ("", 1)


def test_a_run_shows_its_retention_speedup_and_scores(store: FakeStore) -> None:
    run_id = store.add("mrpc", "gpp+dfd", 0.8)
    teacher = {"run_id": "t", "scores": {"validation": {"f1": 0.8}}}
    latency = {"speedup": 2.456, "batch": 32, "tokens": 128}
    store.finish(run_id, {"validation": [0.7, 0.72]}, teacher=teacher, latency=latency)
    run = run_of(data_of(store), run_id)
    assert (run["score"], run["retention"], run["speedup"]) == ("72.0", "90.0", "2.46")
    assert run["scores"] == [["acc, validation", "70.0"], ["F1, validation", "72.0"]]


def test_unknown_numbers_are_empty(store: FakeStore) -> None:
    run_id = store.add("mrpc", "gpp+none", 0.8)
    store.finish(run_id, size={"flops_task_dense": None}, teacher=None, latency=None)
    run = run_of(data_of(store), run_id)
    assert (run["flops"], run["speedup"], run["retention"]) == ("", "", "")


# --- marks, states ---


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ({"size": {"sparsity": 0.78}}, "missed its target: sparsity 78.0 % of 80.0 %"),
        ({"data": {"subset": ["train"]}}, "only part of the official rows: train"),
        ({"data": {"max_train_rows": 50}}, "trained on at most 50 rows"),
        ({"missing": {"test": "no labels"}}, "no test scores: no labels"),
        ({"warnings": ["constant predictions on validation"]}, "constant predictions on validation"),
        ({"sources": "older"}, OTHER_SOURCES),
        ({"scores": {"validation": [0.505, 0.9]}}, NO_EVIDENCE),
        ({"kept": {"weight": [100]}}, SINGLE_WEIGHTS),
    ],
)
def test_marks_stand_at_the_run_and_at_its_mean(store: FakeStore, changes: Data, mark: str) -> None:
    run_id = store.add("mrpc", "gpp+dfd", 0.8)
    store.finish(run_id, **changes)
    store.finish(store.add("mrpc"), finished="2026-02-02T00:00:00+00:00")
    data = data_of(store)
    assert run_of(data, run_id)["marks"] == [mark]
    assert [row["cells"][0]["marks"] for row in data["means"][ALL_SEEDS] if row["sparsity"]] == [(mark,)]


def test_a_mean_has_the_evidence_of_the_tables(store: FakeStore) -> None:
    """One seed of three is none, their mean is some, in the tables as on the page."""
    for seed, score in ((1, 0.5), (2, 0.8), (3, 0.8)):
        changes = {"warnings": ["odd"]} if seed == 1 else {}
        store.finish(store.add("rte", "gpp+dfd", 0.8, seed), {"validation": [score]}, **changes)
    data = data_of(store)
    assert [run["marks"] for run in data["runs"]] == [[NO_EVIDENCE, "odd"], [], []]
    (mean,) = data["means"][ALL_SEEDS]
    assert mean["cells"][0]["marks"] == ("1 of 3 seeds: odd",)
    (first,) = data["means"]["1"]
    assert first["cells"][0]["marks"] == (NO_EVIDENCE, "odd")


def test_the_averages_have_the_marks_of_the_tables(store: FakeStore) -> None:
    for method, data in (("gpp+dfd", {"content": "other"}), ("gpp+none", {"max_train_rows": 50}), ("random+dfd", {})):
        store.finish(store.add("rte", method, 0.8), {"validation": [0.9]}, data=data)
    averages = [row["cells"][-1] for row in data_of(store)["means"][ALL_SEEDS]]
    assert [cell["marks"] for cell in averages] == [
        ("on other data than most runs: RTE",),
        ("trained on at most 50 rows",),
        (),
    ]
    assert [cell["best"] for cell in averages] == [False, True, True]


def test_a_clean_run_has_no_marks(tmp_path: Path) -> None:
    data = data_of(full_store(tmp_path, tasks=["sst2"], methods=["gpp+dfd"], sparsities=[0.5]))
    assert [run["marks"] for run in data["runs"]] == [[], []]


def test_runs_without_a_result_keep_their_reason(store: FakeStore) -> None:
    failed, missing = store.add("mrpc", "gpp+dfd", 0.8), store.add("mrpc", "gpp+dfd", 0.8, seed=2)
    far = store.add("mrpc", "gpp+dfd", 0.99, reachable=False, reason="one head per layer is more")
    store.fail(failed, "loss is NaN")
    data = data_of(store)
    found = [
        (run["state"], run["note"], bool(run["folder"])) for run in (run_of(data, i) for i in (failed, missing, far))
    ]
    assert found == [
        ("failed", "loss is NaN", True),
        ("missing", "", False),
        ("unreachable", "one head per layer is more", False),
    ]
    marks = [row["cells"][0]["marks"] for row in data["means"][ALL_SEEDS]]
    assert marks == [
        ("1 of 2 seeds failed: loss is NaN", "1 of 2 seeds not run yet"),
        ("not reachable: one head per layer is more",),
    ]


def test_a_store_without_any_record_has_a_page(store: FakeStore) -> None:
    store.add("mrpc", "gpp+dfd", 0.8)
    data = data_of(store)
    assert [row["cells"] for row in data["means"][ALL_SEEDS]] == [
        [{"marks": ("not run yet",)}, {"marks": (INCOMPLETE,)}]
    ]
    assert "No run of 1 is finished" in html_of(store)


# --- settings, structure, links ---


def test_equal_settings_are_stored_once_and_without_paths(store: FakeStore) -> None:
    config = {"task": "rte", "model": "/a/path", "teacher": {"epochs": 1}, "training": {"epochs": 2, "init": None}}
    for seed in (1, 2):
        store.finish(store.add("rte", "gpp+dfd", 0.5, seed), config={**config, "seed": seed})
    store.finish(store.add("rte", "gpp+dfd", 0.8), config={"precision": "fp32"})
    data = data_of(store)
    assert data["settings"] == [{"training.epochs": "2"}, {"precision": "fp32"}]
    assert [run["settings"] for run in data["runs"]] == [0, 0, 1]


@given(units=st.integers(1, 4096), kept=st.lists(st.integers(0, 4096), min_size=1, max_size=24))
def test_whole_layers_follow_from_counts_and_density(units: int, kept: list[int]) -> None:
    kept = [min(count, units) for count in kept]
    row = {"run_id": "r", "task": "rte", "method": "m", "label": "m", "sparsity": 0.5, "seed": 1, "role": "student"}
    content = fake_record(row) | {"kept": {"ffn": kept}}
    content["size"] |= {"density": {"ffn": sum(kept) / (units * len(kept))}}
    assert kept_units(Record.model_validate(content)) == {"ffn": {"kept": kept, "of": units if any(kept) else 0}}


def test_links_lead_from_the_page_to_the_folders(tmp_path: Path) -> None:
    store = FakeStore(tmp_path / "a store" / "runs")
    run_id = store.add("rte", "gpp#1+dfd", 0.5)
    folder, out = store.finish(run_id), tmp_path / "out" / "deep"
    link = run_of(PageData(results_of(store), out).content(), run_id)["folder"]
    assert "#" not in link
    assert (out / unquote(link)).resolve() == folder.resolve()


# --- the file ---

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> & \u2028 {{ 7 * 7 }}"


def test_texts_of_records_cannot_leave_their_place(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.5, label=HOSTILE, paper=HOSTILE), warnings=[HOSTILE])
    store.fail(store.add("rte", "gpp+none", 0.5), HOSTILE)
    page = html_of(store, HOSTILE)
    parsed = Parsed(page)
    assert [attributes.get("type") for tag, attributes in parsed.tags if tag == "script"] == ["application/json", None]
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    data = json.loads(parsed.scripts[0])
    assert {run["label"] for run in data["runs"]} == {HOSTILE, "gpp+none"}
    assert next(run for run in data["runs"] if run["state"] == "done")["marks"][-1] == HOSTILE


def test_the_page_asks_nothing_of_any_network(tmp_path: Path) -> None:
    store = full_store(tmp_path / "runs", tasks=["rte"], methods=["gpp+dfd"])
    page = html_of(store)
    addresses = re.findall(r"""(?:https?:)?//[\w.]+""", re.sub(r"//\s.*", "", page))
    assert set(addresses) <= {"http://www.w3.org"}  # the name space of SVG
    loaded = [attributes for _, attributes in Parsed(page).tags if "src" in attributes or "srcset" in attributes]
    assert not loaded


def test_the_policy_lets_in_the_one_script_and_style(store: FakeStore) -> None:
    store.add("rte")
    page = html_of(store)
    policy = next(a["content"] for tag, a in Parsed(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    style, script = re.search(r"<style>(.*?)</style>", page, re.S), re.findall(r"<script>(.*?)</script>", page, re.S)
    assert style
    assert len(script) == 1
    for text in (style[1], script[0]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in (policy or "")
    assert "unsafe" not in (policy or "")
