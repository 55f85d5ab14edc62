"""Files for the GLUE server: names, rows and answers; and where the test answers come from."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gppdfd.errors import DataError, UsageError
from gppdfd.models import load_encoder, load_tokenizer
from gppdfd.tasks import task_spec
from gppdfd.tasks.micro import MODEL
from suites import report
from suites.submission import SERVER_FILES, Answers, ServerFile, write_submission, written_answers
from suites.unlabelled import predict_split, read_test_split
from tests.suites.fake_store import FakeStore

REAL = {"source": "data/glue"}
ROWS = {"CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "QQP": 390965, "STS-B": 1379, "MNLI-m": 9796, "MNLI-mm": 9847,
        "QNLI": 5463, "RTE": 3000, "WNLI": 146, "AX": 1104}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def constant(folder: Path, task: str, split: str, data_dir: Path | None) -> Answers:
    """Class 1 (or the score 6.5) for every official row."""
    rows = next(file.rows for file in SERVER_FILES[task] if file.split == split)
    return [6.5 if task == "stsb" else 1] * rows


def run_of(store: FakeStore, task: str) -> Path:
    return store.finish(store.add(task, "gpp+dfd", 0.8), data=REAL)


def column(path: Path) -> list[str]:
    header, *lines = path.read_text().splitlines()
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == [str(place) for place in range(len(lines))]
    return [line.split("\t")[1] for line in lines]


def test_a_whole_submission_has_the_servers_files(store: FakeStore, tmp_path: Path) -> None:
    tasks = ("rte", "mrpc", "cola", "stsb", "mnli", "sst2", "qnli", "qqp")
    written = write_submission([run_of(store, task) for task in tasks], tmp_path / "out", None, constant)
    assert [path.name for path in written] == [*(f"{name}.tsv" for name in ROWS), "README.md"]
    answers = {path.stem: column(path) for path in written[:-1]}
    assert {name: len(rows) for name, rows in answers.items()} == ROWS
    seen = {name: set(rows) for name, rows in answers.items()}
    assert seen["CoLA"] == seen["MRPC"] == seen["SST-2"] == seen["QQP"] == {"1"}
    assert seen["MNLI-m"] == seen["MNLI-mm"] == {"neutral"}
    assert seen["RTE"] == seen["QNLI"] == {"not_entailment"}
    assert seen["STS-B"] == {"5.000"}, "scores end at 5"
    page = written[-1].read_text()
    assert "| WNLI.tsv | 146 | no model: every row is `0`, the majority class |" in page
    assert "| AX.tsv | 1104 | no model: every row is `entailment`, the majority class |" in page
    assert re.search(r"\| RTE\.tsv \| 3000 \| `rte-gpp\+dfd-0\.8-seed1` \(gpp\+dfd; on dev", page)
    assert "Complete" in page


def test_an_incomplete_one_says_what_is_missing(store: FakeStore, tmp_path: Path) -> None:
    page = write_submission([run_of(store, "rte")], tmp_path / "out", None, constant)[-1].read_text()
    assert "Not complete: the server also wants CoLA.tsv, SST-2.tsv, MRPC.tsv" in page


@pytest.mark.parametrize(
    ("answers", "message"),
    [([0] * 9, "9 answers, the server wants 10"), ([0] * 9 + [2], "class 2 is none of the 2")],
)
def test_answers_that_the_server_would_refuse(answers: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        written_answers(ServerFile("RTE", 10, ("entailment", "not_entailment")), answers)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="not a number"):
        written_answers(ServerFile("STS-B", 2, ()), [1.0, float("nan")])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (lambda store: [run_of(store, "rte"), store.finish(store.add("rte", "gpp+none", 0.8), data=REAL)], "two runs"),
        (lambda store: [store.root / "nothing"], "no finished run"),
        (lambda store: [store.finish(store.add("rte", "gpp+dfd", 0.8))], "generated data"),
        (lambda store: [run_of(store, "squad")], "no task squad"),
    ],
)
def test_runs_that_make_no_submission(
    store: FakeStore, tmp_path: Path, runs: Callable[[FakeStore], list[Path]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_submission(runs(store), tmp_path / "out", None, constant)


# --- test splits and their answers ---

TEXTS = [f"this is sentence number {place}" + " and more" * place for place in range(12)]


def parquet_folder(root: Path, rows: dict[str, list], name: str = "test.parquet") -> Path:
    folder = root / "glue" / "sst2"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(rows), folder / name)
    return root


def test_rows_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = {"sentence": TEXTS[::-1], "label": [-1] * 12, "idx": list(range(12))[::-1]}
    found = read_test_split(task_spec("sst2"), "test", parquet_folder(tmp_path, rows))
    assert found.texts == (TEXTS,)


def test_the_servers_own_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "QQP"
    folder.mkdir()
    lines = ["id\tquestion1\tquestion2", *(f"{place}\tis it {place}?\twhy {place}?" for place in range(5))]
    (folder / "test.tsv").write_text("\n".join(lines) + "\n")
    found = read_test_split(task_spec("qqp"), "test", tmp_path)
    assert found.texts[1] == [f"why {place}?" for place in range(5)]


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        ({"sentence": ["a", "b"], "idx": [0, 2]}, "test.parquet", "not numbered from 0 to 1"),
        ({"sentence": ["a"], "label": [-1]}, "test.parquet", "no column idx"),
        ({"sentence": ["a"], "idx": [0]}, "test_subset5.parquet", "only part of the official rows"),
        ({"sentence": ["a"], "idx": [0]}, "train.parquet", "no test split of sst2"),
    ],
)
def test_what_is_no_official_split_is_refused(tmp_path: Path, rows: dict, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_test_split(task_spec("sst2"), "test", parquet_folder(tmp_path, rows, name))


def test_answers_are_the_saved_models(tmp_path: Path) -> None:
    data = parquet_folder(tmp_path, {"sentence": TEXTS, "label": [-1] * 12, "idx": list(range(12))})
    model, tokenizer = load_encoder(str(MODEL), task_spec("sst2"), seed=1).eval(), load_tokenizer(str(MODEL))
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
        model.classifier.bias -= logits.median(0).values  # both answers occur
    expected = (logits - logits.median(0).values).argmax(1).tolist()
    assert len(set(expected)) == 2
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert predict_split(tmp_path / "model", "sst2", "test", data, 32, "fp32") == expected


def test_the_command_finds_runs_by_id_and_says_errors_in_one_line(
    store: FakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suites.submission.predict_test", constant)
    run_of(store, "rte")
    arguments = ["submission", "rte-gpp+dfd-0.8-seed1", "--store", str(store.root), "--out", str(tmp_path / "out")]
    assert report.main(arguments) == 0
    assert "Not complete" in capsys.readouterr().out
    assert np.unique(column(tmp_path / "out" / "RTE.tsv")).tolist() == ["not_entailment"]
    assert report.main(["submission", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: nothing is no finished run")
