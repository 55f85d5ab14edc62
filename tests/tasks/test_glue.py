"""GLUE from folders and from the hub; every kind of bad file gives one message that names it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gppdfd.errors import DataError, UsageError
from gppdfd.tasks import TASK_NAMES, load_task, sources, task_spec
from gppdfd.tasks.glue import load
from tests.tasks.files import (
    OFFICIAL_FOLDERS,
    ROWS,
    columns,
    table,
    tsv_text,
    write_parquet,
    write_parquet_task,
    write_tsv_task,
)

# Rows and share of the named class in the training file, from the data sets' own publications.
OFFICIAL = {
    "cola": (8551, 1043, 0.704),
    "sst2": (67349, 872, 0.558),
    "mrpc": (3668, 408, 0.674),
    "rte": (2490, 277, 0.498),
}


@pytest.fixture(autouse=True)
def _no_data_outside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Only tests with real data see the user's folder; nothing looks at the network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    if "data" not in request.keywords:
        monkeypatch.delenv("GPPDFD_DATA", raising=False)


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("GPPDFD_DATA")
    if not folder:
        pytest.skip("GPPDFD_DATA is not set")
    return Path(folder)


def test_specs_are_consistent() -> None:
    for name in TASK_NAMES:
        spec = task_spec(name)
        assert spec.primary in spec.metrics
        assert spec.regression == (name == "stsb")
        assert 0 < spec.floor < 1
    assert task_spec("mnli").outputs == 3


def test_importing_tasks_imports_nothing_slow() -> None:
    slow = ["evaluate", "datasets", "sklearn", "scipy", "pandas", "pyarrow", "transformers"]
    imports = "import sys, gppdfd.tasks, gppdfd.tasks.encoding, gppdfd.tasks.metrics"
    code = f"{imports}; print([name for name in {slow} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("task", TASK_NAMES)
def test_parquet_folder(tmp_path: Path, task: str) -> None:
    write_parquet_task(tmp_path, task)
    data = load_task(task, "glue", tmp_path)
    assert list(data.evaluations) == (["matched", "mismatched"] if task == "mnli" else ["validation"])
    assert data.source == f"{tmp_path.name}/glue/{task}"
    assert (data.missing, data.subset) == ({}, ())
    assert len(data.train) == ROWS
    expected = columns(task, mark="train")
    assert data.train.texts == tuple(expected[name] for name in data.spec.columns)
    assert data.train.labels.tolist() == expected["label"]
    assert data.train.labels.dtype == (np.float32 if data.spec.regression else np.int64)
    assert data.train.ids.tolist() == expected["idx"]


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize("official", [True, False])
def test_tsv_folder(tmp_path: Path, task: str, official: bool) -> None:
    write_tsv_task(tmp_path / (OFFICIAL_FOLDERS[task] if official else f"glue/{task}"), task)
    data = load_task(task, "glue", tmp_path)
    assert len(data.evaluations) == (2 if task == "mnli" else 1)
    assert data.train.labels.tolist() == columns(task)["label"]
    assert data.train.ids.tolist() == list(range(ROWS))
    first = {"sst2": "text 3 ", "mrpc": 'The "first 3', "cola": "Text 3.", "mnli": "Premise 3"}
    assert data.train.texts[0][3] == first.get(task, data.train.texts[0][3])
    assert all(text.strip().rstrip("?.").endswith(" 3") for text in (column[3] for column in data.train.texts))


def test_mrpc_as_distributed_by_its_authors(tmp_path: Path) -> None:
    folder = tmp_path / "glue_data" / "MRPC"
    folder.mkdir(parents=True)
    (folder / "msr_paraphrase_train.txt").write_text("\ufeff" + tsv_text("mrpc"), encoding="utf-8")
    (folder / "dev_ids.tsv").write_text("31\t32\n71\t72\n", encoding="utf-8")
    data = load("mrpc", tmp_path)
    assert data.evaluations["validation"].ids.tolist() == [3, 7]
    assert data.train.ids.tolist() == [n for n in range(ROWS) if n not in (3, 7)]
    (folder / "dev_ids.tsv").write_text("31\t32\n8\t9\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"dev_ids\.tsv lists 2 pairs, but .* has 1"):
        load("mrpc", tmp_path)


def test_mnli_rows_without_gold_label_are_left_out(tmp_path: Path) -> None:
    folder = write_tsv_task(tmp_path / "MNLI", "mnli")
    file = folder / "train.tsv"
    file.write_text(file.read_text().replace("Hypothesis 4\tneutral\tneutral", "Hypothesis 4\tneutral\t-"))
    assert load("mnli", tmp_path).train.ids.tolist() == [n for n in range(ROWS) if n != 4]


def test_the_odd_torn_line_and_empty_question_are_tolerated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in the official QQP file; the hub's copy leaves torn lines out and keeps empty questions."""
    folder = write_tsv_task(tmp_path / "QQP", "qqp", rows=2000)
    text = tsv_text("qqp", 2000).replace("How 7?", "").replace("Why 9?\tHow 9?\t1", '"')
    (folder / "train.tsv").write_text(text, encoding="utf-8")
    train = load("qqp", tmp_path).train
    assert len(train) == 1999
    assert train.texts[1][7] == ""
    assert 9 not in train.ids
    assert "fewer than 6 fields: 1 of 2000" in caplog.text
    assert "question2 has empty texts: 1 of 1999" in caplog.text


def test_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet_task(tmp_path, "rte")
    monkeypatch.setenv("GPPDFD_DATA", str(tmp_path))
    assert len(load("rte").train) == ROWS


def test_content_is_that_of_the_rows_not_of_the_files(tmp_path: Path) -> None:
    write_tsv_task(tmp_path / "a" / "RTE", "rte")
    rows = {"sentence1": [], "sentence2": [], "label": []}
    for n in range(ROWS):
        rows["sentence1"].append(f"First {n}")
        rows["sentence2"].append(f"Second {n}")
        rows["label"].append(n % 2)
    for split in ("train", "validation"):
        write_parquet(tmp_path / "b" / "glue" / "rte" / f"{split}.parquet", "rte", rows)
    assert load("rte", tmp_path / "a").content == load("rte", tmp_path / "b").content
    rows["sentence1"][:2] = ["First 0F", "irst 1"]
    write_parquet(tmp_path / "b" / "glue" / "rte" / "train.parquet", "rte", rows)
    assert load("rte", tmp_path / "a").content != load("rte", tmp_path / "b").content


@pytest.mark.parametrize("column", ["sentence1", "label"])
def test_content_changes_with_every_column(tmp_path: Path, column: str) -> None:
    file = write_parquet_task(tmp_path, "stsb") / "validation.parquet"
    before = load("stsb", tmp_path).content
    rows = columns("stsb", mark="validation")
    rows[column][5] = "other" if column == "sentence1" else 4.75
    write_parquet(file, "stsb", rows)
    assert load("stsb", tmp_path).content != before


def test_shards_are_joined(tmp_path: Path) -> None:
    folder = write_parquet_task(tmp_path, "cola")
    (folder / "train.parquet").unlink()
    for shard in range(2):
        write_parquet(folder / f"train-0000{shard}-of-00002.parquet", "cola", columns("cola", mark=f"shard{shard} "))
    assert load("cola", tmp_path).train.texts[0][ROWS] == "shard1 sentence text 0"
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="neither one file nor a whole set of shards: train-00001"):
        load("cola", tmp_path)


def test_a_subset_serves_where_the_whole_is_absent(tmp_path: Path) -> None:
    folder = write_parquet_task(tmp_path, "qqp")
    (folder / "train.parquet").rename(folder / "train_subset.parquet")
    (folder / "validation.parquet").rename(folder / "validation_subset7600.parquet")
    assert load("qqp", tmp_path).subset == ("train", "validation")
    write_parquet(folder / "validation.parquet", "qqp", columns("qqp", 5))
    data = load("qqp", tmp_path)
    assert data.subset == ("train",)
    assert len(data.evaluations["validation"]) == 5


def test_two_subsets_are_ambiguous(tmp_path: Path) -> None:
    folder = write_parquet_task(tmp_path, "qqp")
    (folder / "train.parquet").rename(folder / "train_subset100.parquet")
    write_parquet(folder / "train_subset200.parquet", "qqp")
    with pytest.raises(DataError, match=r"train_subset100\.parquet, train_subset200\.parquet"):
        load("qqp", tmp_path)


@pytest.mark.parametrize(
    "name", ["validation_mismatched_single_annotator", "validation_mismatched_subset_single_annotator"]
)
def test_one_annotators_labels_are_no_evaluation_split(tmp_path: Path, name: str) -> None:
    folder = write_parquet_task(tmp_path, "mnli")
    (folder / "validation_mismatched.parquet").rename(folder / f"{name}.parquet")
    data = load("mnli", tmp_path)
    assert list(data.evaluations) == ["matched"]
    assert f"{name}.parquet holds one annotator's labels" in data.missing["mismatched"]


def test_one_annotators_labels_cannot_replace_the_selection_split(tmp_path: Path) -> None:
    folder = write_parquet_task(tmp_path, "rte")
    (folder / "validation.parquet").rename(folder / "validation_single_annotator.parquet")
    with pytest.raises(DataError, match=r"rte.*one annotator's labels"):
        load("rte", tmp_path)


def test_missing_mismatched_split_has_a_reason(tmp_path: Path) -> None:
    write_tsv_task(tmp_path / "MNLI", "mnli")
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    data = load("mnli", tmp_path)
    assert data.missing == {"mismatched": f"no dev_mismatched.tsv in {tmp_path.name}/MNLI"}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_missing_file_is_named(tmp_path: Path, split: str) -> None:
    (write_parquet_task(tmp_path, "rte") / f"{split}.parquet").unlink()
    with pytest.raises(DataError, match=rf"rte.*no {split}\.parquet"):
        load("rte", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_broken_parquet_is_named(tmp_path: Path, damage: str) -> None:
    file = write_parquet_task(tmp_path, "rte") / "train.parquet"
    content = {"cut": file.read_bytes()[:-20], "text": b"no parquet at all", "empty": b""}
    file.write_bytes(content[damage])
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as parquet"):
        load("rte", tmp_path)


def test_swapped_label_names_are_refused(tmp_path: Path) -> None:
    folder = write_parquet_task(tmp_path, "rte")
    write_parquet(folder / "validation.parquet", "rte", names=["not_entailment", "entailment"])
    with pytest.raises(DataError, match=r"validation\.parquet: label names are not_entailment, entailment"):
        load("rte", tmp_path)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("rte", {"label": [-1] * ROWS}, r"label -1 in row 0 is outside 0 to 1 \(12 of 12 rows\)"),
        ("rte", {"label": [0, 1, 2] * 4}, "label 2 in row 2 is outside 0 to 1"),
        ("rte", {"label": [0.0, 1.0] * 6}, "labels are float64, but task rte has classes"),
        ("rte", {"label": ["entailment", "neutral"] * 6}, "label 'neutral' in row 1 is outside"),
        ("rte", {"label": [0, None] * 6}, "6 of 12 rows have no label"),
        ("stsb", {"label": [5.5] * ROWS}, "label 5.5 in row 0 is outside 0 to 5"),
        ("stsb", {"label": [float("nan")] * ROWS}, "label nan in row 0 is outside 0 to 5"),
        ("stsb", {"label": ["high"] * ROWS}, "a label is no number"),
        ("rte", {"sentence1": ["", " "] + ["text"] * 10}, "column sentence1 has empty texts: 2 of 12"),
        ("rte", {"sentence2": [None] * ROWS}, "column sentence2"),
        ("rte", {"sentence2": list(range(ROWS))}, "column sentence2 holds int64, not text"),
        ("rte", {"sentence2": pa.array([b"\xff"] * ROWS).view(pa.string())}, "column sentence2 is not UTF-8"),
        ("rte", {"idx": [None] * ROWS}, "column idx must hold whole numbers"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, task: str, changes: dict, message: str) -> None:
    file = write_parquet_task(tmp_path, task) / "train.parquet"
    pq.write_table(pa.table({**columns(task), **changes}), file)
    with pytest.raises(DataError, match=rf"train\.parquet: {message}"):
        load(task, tmp_path)


def test_class_names_as_texts_are_read(tmp_path: Path) -> None:
    file = write_parquet_task(tmp_path, "rte") / "train.parquet"
    pq.write_table(pa.table({**columns("rte"), "label": ["not_entailment", "entailment"] * 6}), file)
    assert load("rte", tmp_path).train.labels.tolist() == [1, 0] * 6


@pytest.mark.parametrize("absent", ["sentence1", "label"])
def test_missing_column_is_named(tmp_path: Path, absent: str) -> None:
    file = write_parquet_task(tmp_path, "rte") / "train.parquet"
    pq.write_table(pq.read_table(file).drop_columns([absent]), file)
    with pytest.raises(DataError, match=rf"train\.parquet: task rte needs the column {absent}"):
        load("rte", tmp_path)


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    file = write_parquet_task(tmp_path, "rte") / "train.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(DataError, match=r"train\.parquet: no rows"):
        load("rte", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column sentence1 and sentence2 and label"),
        (b"index\tsentence1\tsentence2\tlabel\n", "no rows"),
        (b"index\tsentence1\tsentence2\n0\ta\tb\n", "no column label in the header: index, sentence1"),
        (b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\n", "fewer than 4 fields: 1 of 1"),
        (b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n", "label 'perhaps' in row 0"),
        (b"index\tsentence1\tsentence2\tlabel\n0\t\xff\tb\tentailment\n", "cannot be read as UTF-8"),
    ],
)
def test_bad_tsv_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (write_tsv_task(tmp_path / "RTE", "rte") / "train.tsv").write_bytes(content)
    with pytest.raises(DataError, match=rf"train\.tsv.*{message}"):
        load("rte", tmp_path)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    folder = write_tsv_task(tmp_path / "SST-2", "sst2")
    (folder / "train.tsv").write_text("sentence\tlabel\none\u2028more\x85still\t1\n", encoding="utf-8")
    assert load("sst2", tmp_path).train.texts[0] == ["one\u2028more\x85still"]


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        load("rte", tmp_path / "absent")


def test_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "glue" / "rte").mkdir(parents=True)
    with pytest.raises(DataError, match=r"glue/rte holds neither parquet .* nor TSV"):
        load("rte", tmp_path)


def test_unknown_task_source_and_row_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'mrpc'"):
        load_task("mrcp", "glue", tmp_path)
    with pytest.raises(UsageError, match="unknown data source 'glu'"):
        load_task("mrpc", "glu")
    write_parquet_task(tmp_path, "mrpc")
    with pytest.raises(UsageError, match="max_train_rows must be at least 1, got 0"):
        load_task("mrpc", "glue", tmp_path, max_train_rows=0)


def test_micro_is_generated_and_sampled_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet_task(tmp_path, "mrpc")
    generated = load("mrpc", tmp_path)
    monkeypatch.setattr("gppdfd.tasks.micro.load", lambda name: generated, raising=False)
    assert load_task("mrpc", "micro", tmp_path / "ignored") is generated
    part = load_task("mrpc", "micro", max_train_rows=5)
    assert part.content == load("mrpc", tmp_path, max_train_rows=5).content


def test_sample_of_training_rows(tmp_path: Path) -> None:
    write_parquet_task(tmp_path, "mrpc")
    whole, part = load("mrpc", tmp_path), load("mrpc", tmp_path, max_train_rows=5)
    assert len(part.train) == 5
    assert part.subset == ("train",)
    assert part.content != whole.content
    assert len(part.evaluations["validation"]) == ROWS
    places = part.train.ids - 100
    assert (np.diff(places) > 0).all()
    assert part.train.texts[1] == [whole.train.texts[1][place] for place in places]
    assert part.train.labels.tolist() == whole.train.labels[places].tolist()
    assert load("mrpc", tmp_path, max_train_rows=5).content == part.content
    assert load("mrpc", tmp_path, max_train_rows=5, seed=1).content != part.content
    assert load("mrpc", tmp_path, max_train_rows=ROWS).content == whole.content


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {name: datasets.Dataset(table("rte", columns("rte", mark=name))) for name in ("train", "validation")}
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or datasets.DatasetDict(splits))
    data = load("rte", tmp_path)
    write_parquet_task(tmp_path, "rte")
    assert asked == [("nyu-mll/glue", "rte")]
    assert data.source == "nyu-mll/glue/rte"
    assert data.content == load("rte", tmp_path).content


def test_hub_label_order_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = datasets.Dataset(table("rte", columns("rte"), names=["not_entailment", "entailment"]))
    splits = datasets.DatasetDict({"train": swapped, "validation": swapped})
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: splits)
    with pytest.raises(DataError, match="nyu-mll/glue/rte, split train: label names are not_entailment"):
        load("rte")


def test_offline_without_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    started = time.monotonic()
    with pytest.raises(DataError, match=r"holds no folder glue/rte.*Give a folder that holds glue/rte.*--data-dir"):
        load("rte", tmp_path)
    assert time.monotonic() - started < 5


def test_no_network_is_seen_at_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        assert timeout <= 10
        raise OSError("name not known")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=refuse))
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: pytest.fail("must not be tried"))
    with pytest.raises(DataError, match=f"{sources.HUB_NAME} cannot be read .*out of reach: name not known"):
        load("rte")


@pytest.mark.data
@pytest.mark.parametrize("task", OFFICIAL)
def test_real_rows_and_balance(real_data: Path, task: str) -> None:
    train, validation, share = OFFICIAL[task]
    data = load(task, real_data)
    assert (len(data.train), len(data.evaluations["validation"])) == (train, validation)
    assert data.train.labels.mean() == pytest.approx(share, abs=5e-4)
    assert data.subset == ()


@pytest.mark.data
def test_real_stsb(real_data: Path) -> None:
    data = load("stsb", real_data)
    assert (len(data.train), len(data.evaluations["validation"])) == (5749, 1500)
    assert (data.train.labels.min(), data.train.labels.max()) == (0.0, 5.0)


@pytest.mark.data
def test_real_mnli_matched_is_official_and_mismatched_has_gold_labels_or_none(real_data: Path) -> None:
    data = load("mnli", real_data)
    assert np.bincount(data.evaluations["matched"].labels).tolist() == [3479, 3123, 3213]
    assert ("mismatched" in data.evaluations) != ("mismatched" in data.missing)
    if (real_data / "glue" / "mnli" / "train_subset3000.parquet").exists():
        assert data.subset == ("train",)
        assert len(data.train) == 3000


@pytest.mark.data
@pytest.mark.parametrize(("task", "whole"), [("qnli", (104743, 5463)), ("qqp", (363846, 40430))])
def test_real_subsets_are_listed(real_data: Path, task: str, whole: tuple[int, int]) -> None:
    data = load(task, real_data)
    rows = {"train": len(data.train), "validation": len(data.evaluations["validation"])}
    expected = dict(zip(("train", "validation"), whole, strict=True))
    assert data.subset == tuple(split for split in rows if rows[split] != expected[split])
