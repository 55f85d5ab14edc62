"""`compress` and its command: a real tiny run of every kind of task, and every mistake before any training."""

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from gppdfd import compress_command
from gppdfd.__main__ import main
from gppdfd.budget import Target
from gppdfd.compression import DEFAULT_TARGET, TARGETS, Report, compress, target_of, training_settings
from gppdfd.errors import DataError, UsageError
from gppdfd.interface import parse_method
from gppdfd.latency import Curve, LatencyTable, layer_sizes
from gppdfd.models import model_content
from gppdfd.passes import Shape
from gppdfd.progress import PlainProgress, RichProgress
from gppdfd.pruned import kept, load_pruned
from gppdfd.settings import TrainingConfig
from gppdfd.structure import structure_of
from gppdfd.tasks.micro import MODEL
from gppdfd.tasks.table import named_rows, read_table, table_of
from gppdfd.timing import machine
from gppdfd.training import Trainer
from tests.suites.test_interruptions import mounted, needs_mount
from tests.tiny import tiny_config, tiny_model

TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
WORDS = sorted(word for word in TOKENIZER.get_vocab() if word.isalpha() and len(word) > 3)[-20:]
BRIEF = {"batch_size": 8, "search_epochs": 2, "recovery_epochs": 1, "learning_rate": 1e-3}
TEXTS = [f"{WORDS[row % 20]} {WORDS[(3 * row) % 20]} {WORDS[(7 * row + row // 20) % 20]}" for row in range(24)]
NAMES = [("spam", "ham", "eggs")[row % 3] for row in range(24)]
NUMBERS = [row % 3 for row in range(24)]


def tiny(labels: int = 3, seed: int = 0) -> PreTrainedModel:
    model = tiny_model(labels=labels, seed=seed)
    model.resize_token_embeddings(len(TOKENIZER))
    return model.eval()


def small(model: Any, rows: Any, **options: Any) -> PreTrainedModel:
    settings = {
        "tokenizer": TOKENIZER, "training": BRIEF, "target": {"sparsity": 0.5}, "max_length": 16, "progress": False
    }  # fmt: skip
    return compress(model, rows, **{**settings, **options})


def refused(error: type[Exception], match: str, model: Any, rows: Any, **options: Any) -> None:
    """`compress` fails with the message, and no training step was made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", lambda *_, **__: pytest.fail("training began"))
        with pytest.raises(error, match=match):
            small(model, rows, **options)


def rows(labels: list[Any] = NAMES, texts: list[Any] = TEXTS) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


def pairs(labels: list[Any] = NAMES) -> list[dict[str, Any]]:
    return [{"a": text, "b": text[::-1], "label": label} for text, label in zip(TEXTS, labels, strict=True)]


def declared(labels: list[int], names: list[str]) -> datasets.Dataset:
    """Rows of `datasets` whose label column names its classes."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_list(rows(labels), features=features)


def logits(model: PreTrainedModel, texts: list[str] = TEXTS) -> torch.Tensor:
    with torch.no_grad():
        return model(**TOKENIZER(texts, return_tensors="pt", padding=True)).logits


def states(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# What comes out


def test_names_as_labels_and_scores_of_student_and_teacher() -> None:
    reports: list[Report] = []
    model = small(str(MODEL), rows(), eval_dataset=rows(), report=reports.append)
    assert model.config.id2label == {0: "eggs", 1: "ham", 2: "spam"}
    assert model.config.label2id == {"eggs": 0, "ham": 1, "spam": 2}
    assert not model.training
    assert logits(model).shape == (24, 3)
    (report,) = reports
    assert report.teacher == "trained here"
    assert set(report.scores) == {"student", "teacher", "majority"}
    assert report.scores["majority"]["accuracy"] == pytest.approx(1 / 3)
    predictions = logits(model).argmax(1).tolist()
    right = sum(model.config.id2label[number] == name for number, name in zip(predictions, NAMES, strict=True))
    assert report.scores["student"]["accuracy"] == pytest.approx(right / 24)
    assert report.rows == {"train": 24, "eval": 24}
    assert 0.5 <= report.sparsity < 0.51
    assert report.parameters["total"] == sum(parameter.numel() for parameter in model.parameters())
    removed = report.parameters["encoder_dense"] - report.parameters["encoder"]
    assert report.parameters["total_dense"] - report.parameters["total"] == removed
    json.dumps(report.as_dict(), allow_nan=False)
    assert "accuracy" in str(report)


def test_the_small_model_learns() -> None:
    """Half of the encoder is enough to tell which of three words stands in the middle."""
    names = {WORDS[0]: "spam", WORDS[1]: "ham", WORDS[2]: "eggs"}
    middle = [WORDS[row % 3] for row in range(60)]
    texts = [f"{WORDS[3 + row % 17]} {word} {WORDS[3 + row % 13]}" for row, word in enumerate(middle)]
    data, reports = rows([names[word] for word in middle], texts), list[Report]()
    epochs = {"batch_size": 20, "search_epochs": 10, "recovery_epochs": 10}
    small(str(MODEL), data, training=epochs, eval_dataset=data, report=reports.append)
    assert reports[0].scores["teacher"]["accuracy"] > 0.9
    assert reports[0].scores["student"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(rows(NUMBERS), id="list of dicts"),
        pytest.param(list(zip(TEXTS, NUMBERS, strict=True)), id="list of tuples"),
        pytest.param(pd.DataFrame(rows(NUMBERS)), id="pandas"),
        pytest.param(datasets.Dataset.from_list(rows(NUMBERS)), id="datasets"),
    ],
)
def test_every_kind_of_rows_gives_the_same_model(data: Any) -> None:
    torch.testing.assert_close(logits(small(tiny(), data)), logits(small(tiny(), rows(NUMBERS))), rtol=0, atol=0)


def test_pairs() -> None:
    first = small(tiny(), pairs(), text_columns=["a", "b"])
    swapped = small(tiny(), pairs(), text_columns=["b", "a"])
    assert not torch.equal(first.classifier.weight, swapped.classifier.weight)
    triples = [(row["a"], row["b"], row["label"]) for row in pairs()]
    assert torch.equal(small(tiny(), triples).classifier.weight, first.classifier.weight)


@pytest.mark.parametrize("labels", [[number / 7 for number in range(24)], list(range(24))])
def test_regression(labels: list[Any]) -> None:
    """Real numbers are a regression; whole ones are when the model has one output."""
    reports: list[Report] = []
    model = small(tiny(labels=1), rows(labels), eval_dataset=rows(labels), report=reports.append)
    assert model.config.problem_type == "regression"
    assert logits(model).shape == (24, 1)
    assert set(reports[0].scores["student"]) == {"pearson", "spearman"}
    assert reports[0].labels == ()


def test_a_folder_gets_a_regression_head_for_real_labels() -> None:
    labels = [number / 7 for number in range(24)]
    assert logits(small(str(MODEL), rows(labels), method="magnitude+none")).shape == (24, 1)


def test_the_class_names_of_a_dataset_are_kept() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "y", "x"])}
    )
    data = datasets.Dataset.from_list(rows(NUMBERS), features=features)
    assert small(tiny(), data, method="magnitude+none").config.id2label == {0: "z", 1: "y", 2: "x"}


def test_the_order_of_classes_is_that_of_the_model() -> None:
    model = tiny()
    model.config.id2label = {0: "spam", 1: "ham", 2: "eggs"}
    assert small(model, rows(), method="magnitude+none").config.id2label == {0: "spam", 1: "ham", 2: "eggs"}


def test_the_order_of_classes_is_that_of_the_teacher() -> None:
    teacher = tiny(seed=5)
    teacher.config.id2label = {0: "spam", 1: "eggs", 2: "ham"}
    assert small(tiny(), rows(), teacher=teacher).config.id2label == {0: "spam", 1: "eggs", 2: "ham"}


@pytest.mark.parametrize("training", [True, False])
def test_the_given_model_stays_as_it_is(training: bool) -> None:
    model = tiny().train(training)
    before, config, random = states(model), model.config.to_dict(), torch.get_rng_state()
    result = small(model, rows(), eval_dataset=rows())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == training
    assert model.config.to_dict() == config
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert result.num_parameters() < model.num_parameters()


def test_the_model_as_its_own_teacher_is_not_trained() -> None:
    model = tiny()
    before = states(model)
    reports: list[Report] = []
    small(model, rows(NUMBERS), teacher=model, eval_dataset=rows(NUMBERS), report=reports.append)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    right = (logits(model).argmax(1) == torch.tensor(NUMBERS)).float().mean()
    assert reports[0].teacher == "given"
    assert reports[0].scores["teacher"]["accuracy"] == pytest.approx(float(right))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["1GB", "20KB"])
def test_a_teacher_from_a_folder(tmp_path: Path, shards: str, dtype: torch.dtype) -> None:
    teacher = tiny(seed=5).to(dtype)
    teacher.save_pretrained(tmp_path / "teacher", max_shard_size=shards)
    by_folder = small(tiny(), rows(NUMBERS), teacher=tmp_path / "teacher")
    assert torch.equal(by_folder.classifier.weight, small(tiny(), rows(NUMBERS), teacher=teacher).classifier.weight)


def test_no_teacher_where_none_is_needed() -> None:
    reports: list[Report] = []
    small(tiny(), rows(), method="magnitude+none", report=reports.append)
    assert reports[0].teacher is None
    assert "teacher" not in reports[0].seconds


def test_deterministic_by_seed() -> None:
    first, again, other = (small(tiny(), rows(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_training_starts_where_init_says() -> None:
    found = [small(tiny(), rows(), training={**BRIEF, "init": init}) for init in ("teacher", "pretrained", "random")]
    assert len({tuple(logits(model)[0].tolist()) for model in found}) == 3


# Settings


def test_default_epochs_have_a_floor_of_steps() -> None:
    method = parse_method("gpp+dfd")
    many = training_settings(None, method, 32 * 1000, 768, True)
    assert (many.search_epochs, many.recovery_epochs, many.learning_rate) == (3, 3, pytest.approx(3e-5))
    few = training_settings({"batch_size": 10}, method, 95, 128, False)
    assert few.search_epochs * math.ceil(95 / 10) == 200
    assert few.learning_rate == 1e-3
    assert (many.init, few.init) == ("teacher", "pretrained")


def test_given_settings_win_over_those_of_the_method_and_a_whole_config_stays() -> None:
    released = parse_method("gpp+dfd-released")
    assert training_settings(None, released, 100, 128, True).task_forward == "separate"
    assert training_settings({"task_forward": "shared"}, released, 100, 128, True).task_forward == "shared"
    assert training_settings(TrainingConfig(), released, 100, 128, True) == TrainingConfig()


@given(st.floats(0, 0.99))
def test_target_by_name(value: float) -> None:
    assert target_of({"sparsity": value}, no_table) == Target(value)


def no_table() -> Any:
    raise AssertionError("measured a table that nobody asked for")


@pytest.mark.parametrize("target", [{"params": 4_000}, {"flops": 60_000, "tokens": 8}, {"latency": 6.0}])
def test_other_targets_are_met(target: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second per head, so that 6 seconds leave at most 6 of 12 heads."""
    heads, dims = Curve((0, 4), (0.0, 4.0)), Curve((0, 40), (0.0, 0.0))
    table = LatencyTable(layer_sizes(structure_of(tiny())), heads, dims, Shape(1, 8), machine(torch.device("cpu"), 1))
    monkeypatch.setattr("gppdfd.compression.latency_table", lambda structure, device: table)
    reports: list[Report] = []
    model = small(tiny(), rows(), target=target, report=reports.append)
    assert reports[0].target == target
    asked, structure = target_of(target, lambda: table), structure_of(model)
    assert asked.cost(structure, kept(model)) <= asked.budget(structure)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({"sparcity": 0.5}, "Did you mean 'sparsity'"),
        ({}, "exactly one of sparsity"),
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": "much"}, "target"),
    ],
)
def test_bad_targets(target: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        target_of(target, no_table)


# What is refused, before any training


def replaced(values: list[Any], changes: dict[int, Any]) -> list[Any]:
    return [changes.get(row, value) for row, value in enumerate(values)]


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        ([], DataError, "has no rows"),
        (rows(texts=replaced(TEXTS, {3: " ", 7: None})), DataError, "no text in rows 3, 7"),
        (rows(texts=replaced(TEXTS, {5: 12})), DataError, "int and no text in row 5"),
        (rows(replaced(NAMES, {2: None, 4: ""})), DataError, "no label in rows 2, 4"),
        (rows(replaced(NUMBERS, {2: float("nan")})), DataError, "no label in row 2"),
        (rows(["spam"] * 24), DataError, "every row has the label 'spam'"),
        (rows([1.5] * 24), DataError, "every row has the label '1.5'"),
        (rows(replaced(["ham", "spam"] * 12, {9: "eggs"})), DataError, "single row has the label eggs"),
        (rows([["a", "b"]] * 24), UsageError, "multi-label"),
        (rows(replaced(NAMES, {1: 3})), DataError, "all texts or all numbers, not int and str"),
        (rows([math.inf, *map(float, range(23))]), DataError, "infinite"),
        ([*rows(), ("a", "b")], DataError, "row 0"),
        ([("a", 1), ("b",)], DataError, "row 1"),
        (rows(replaced(NUMBERS, {3: pd.NA})), DataError, "no label in row 3"),
        (pd.DataFrame(rows(replaced(NUMBERS, {3: None}))).convert_dtypes(), DataError, "no label in row 3"),
        (pd.DataFrame(rows(replaced(NAMES, {3: pd.NaT}))), DataError, "no label in row 3"),
        (pd.DataFrame(rows(texts=replaced(TEXTS, {3: pd.NA}))), DataError, "no text in row 3"),
        (pd.DataFrame([["a", "b", 1]] * 24, columns=["text", "text", "label"]), UsageError, "columns named 'text'"),
        ("my.csv", UsageError, "is a str: give a datasets.Dataset"),
        ({"train": rows(), "test": rows()}, UsageError, "splits 'train', 'test'"),
        (rows()[:7], UsageError, "7 training rows are too few: at least 8"),
    ],
)
def test_bad_rows(data: Any, error: type[Exception], match: str) -> None:
    refused(error, match, str(MODEL), data, text_columns="text" if len(data) and not isinstance(data, str) else None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"text_columns": "texd"}, "text column 'texd'. Did you mean 'text'"),
        ({"label_column": "lable"}, "label column 'lable'. Did you mean 'label'"),
        ({"text_columns": ["text", "label"]}, "without the label"),
        ({"text_columns": ["text", "text"]}, "one or two"),
        ({"method": "gpp+dfx"}, "Did you mean 'dfd'"),
        ({"training": {"learning_rat": 1}}, "learning_rate"),
        ({"training": {"batch_size": 0}}, "batch_size"),
        ({"training": {"search_epochs": math.inf}}, "training: search_epochs: Input should be a finite number"),
        ({"method": "none+dfd"}, "cannot meet"),
        ({"target": {"sparsity": 0.9999}}, r"cannot meet the target sparsity=0\.9999"),
        ({"max_length": 500}, "more than the 64 positions"),
        ({"max_length": 3}, "max_length must be from"),
        ({"precision": "fp64"}, "precision"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"teacher": str(MODEL)}, "no fine-tuned classifier"),
        ({"method": "gpp+minilmv2(relation_heads=5)"}, "relation_heads=5 does not divide the width of all heads"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    refused(UsageError, match, str(MODEL), rows(), **options)


def test_several_text_columns_have_to_be_named() -> None:
    refused(UsageError, "2 columns with texts; name .* among: a, b, label", str(MODEL), pairs())


def test_a_model_in_memory_has_no_tokenizer() -> None:
    refused(UsageError, "no tokenizer, because the model was made in memory", tiny(), rows(), tokenizer=None)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    refused(UsageError, "no tokenizer in", tmp_path, rows(), tokenizer=None)


def test_the_tokenizer_of_another_model() -> None:
    refused(UsageError, "beyond the model's vocabulary of 60", tiny_model(), rows())


@pytest.mark.parametrize(
    ("outputs", "labels", "match"),
    [
        (2, NAMES, "holds 3 classes, but the model has 2"),
        (4, NAMES, "holds 3 classes, but the model has 4"),
        (2, NUMBERS, "labels 0 to 2, but the model has 2 classes"),
        (3, [number - 1 for number in NUMBERS], "labels -1 to 1"),
        (3, [number / 7 for number in NUMBERS], "is a regression, but the model tells 3 classes apart"),
        (1, NAMES, "single output for regression"),
    ],
)
def test_labels_that_do_not_fit_the_head(outputs: int, labels: list[Any], match: str) -> None:
    refused(UsageError, match, tiny(labels=outputs), rows(labels))


def test_a_teacher_must_say_which_class_is_which() -> None:
    model = tiny()
    refused(UsageError, "the teacher does not say which of its classes", model, rows(), teacher=model)
    other, own = tiny(), tiny()
    other.config.id2label = {0: "ham", 1: "spam", 2: "eggs"}
    own.config.id2label = {0: "eggs", 1: "ham", 2: "spam"}
    refused(UsageError, "the teacher has the classes ham, spam, eggs", own, rows(), teacher=other)


@pytest.mark.parametrize(
    ("method", "sizes", "match"),
    [
        ("gpp+dfd", {"hidden_size": 40}, "40 hidden dims, the student 32"),
        ("cofi", {"hidden_size": 40}, "40 hidden dims, the student 32"),
        ("gpp+pkd", {"hidden_size": 40}, "40 hidden dims, the student 32"),
        ("cap-f", {"hidden_size": 40}, "40 hidden dims, the student 32"),
        ("gpp+tinybert", {"num_attention_heads": 8}, "8 attention heads, the student 4"),
        ("gpp+minilmv2", {"hidden_size": 40}, "relation_heads=16 does not divide"),
    ],
)
def test_a_teacher_that_cannot_be_compared_with_the_student(method: str, sizes: dict[str, int], match: str) -> None:
    config = tiny().config
    config.update(sizes)
    teacher = AutoModelForSequenceClassification.from_config(config)
    refused(UsageError, match, tiny(), rows(NUMBERS), teacher=teacher, method=method)


def test_models_that_cannot_be_pruned(tmp_path: Path) -> None:
    refused(UsageError, "BertModel without a classifier", AutoModel.from_pretrained(MODEL), rows())
    refused(UsageError, "is a int", 3, rows())
    refused(UsageError, "does not exist", str(tmp_path / "nothing"), rows())
    refused(UsageError, "pruned already", small(tiny(), rows(), method="magnitude+none"), rows())
    several = tiny()
    several.config.problem_type = "multi_label_classification"
    refused(UsageError, "several labels per row", several, rows())


def test_evaluation_rows_are_checked_too() -> None:
    refused(DataError, "label 'tofu' in row 0", str(MODEL), rows(), eval_dataset=rows(replaced(NAMES, {0: "tofu"})))
    refused(DataError, "holds number labels", str(MODEL), rows(), eval_dataset=rows(NUMBERS))
    refused(DataError, "evaluation data has no rows", str(MODEL), rows(), eval_dataset=[])
    refused(UsageError, "text column 'text'", str(MODEL), rows(), text_columns="text", eval_dataset=pairs())


def test_whole_evaluation_labels_may_be_written_as_real_numbers() -> None:
    found: list[Report] = []
    for labels in (NUMBERS, list(map(float, NUMBERS))):
        small(str(MODEL), rows(NUMBERS), eval_dataset=rows(labels), method="magnitude+none", report=found.append)
    assert found[0].scores == found[1].scores
    half = rows(replaced(NUMBERS, {4: 0.5}))
    refused(DataError, r"label '0\.5' in row 4", str(MODEL), rows(NUMBERS), eval_dataset=half)


def test_long_evaluation_rows_are_refused_before_training() -> None:
    """RoBERTa has fewer positions than its config says: it counts them from behind the padding token's id."""
    config = tiny_config("roberta")
    config.update({"vocab_size": len(TOKENIZER), "max_position_embeddings": 20, "pad_token_id": 1})
    model, long = AutoModelForSequenceClassification.from_config(config), rows()
    long[5]["text"] = " ".join(WORDS * 2)
    refused(UsageError, "max_length 20 is more than the 18 positions", model, rows(), eval_dataset=long, max_length=20)
    assert kept(small(model, rows(), eval_dataset=long, max_length=18, method="magnitude+none"))
    teacher = AutoModelForSequenceClassification.from_config(config)
    teacher.config.id2label = {0: "eggs", 1: "ham", 2: "spam"}
    options = {"eval_dataset": long, "max_length": 30, "teacher": teacher}
    refused(UsageError, "cannot take a row of 30 tokens", tiny(), rows(), **options)


def test_unknown_tokens_of_evaluation_rows_are_refused_before_training() -> None:
    first, other = sorted(WORDS, key=TOKENIZER.convert_tokens_to_ids)[::19]
    model, texts = tiny(), [f"{first} {first}"] * 24
    model.resize_token_embeddings(TOKENIZER.convert_tokens_to_ids(other))
    evaluation = rows(texts=replaced(texts, {3: other}))
    refused(UsageError, "beyond the model's vocabulary", model, rows(texts=texts), eval_dataset=evaluation)


def test_labels_of_a_test_split_are_missing() -> None:
    refused(DataError, "no label in rows 0, 1, 2, 3, 4 and 19 more", str(MODEL), declared([-1] * 24, ["a", "b"]))


# Files


def write(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip),
            st.sampled_from(["NA", "None", "a, b", 'the "c"', "null"]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_files_give_back_what_was_written(pairs: list[tuple[str, str]]) -> None:
    table = pd.DataFrame({"text": [f"x{text}" for text, _ in pairs], "label": [label for _, label in pairs]})
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("csv", "tsv", "jsonl", "parquet"):
            found = read_table(write(Path(folder) / f"data.{ending}", table))
            assert found.column("text") == table["text"].tolist()
            assert found.column("label") == table["label"].tolist()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\na,1\nb,1,2\n", "line 3"),
        ("a.csv", b"text,label\na,b,1\nc,d,0\n", "line 2: more fields"),
        ("a.csv", b'text,label\na,1\n"b,1\nc,2\n', "inside string"),
        ("a.csv", b"text,label\na,1\n\xff,1\n", "line 3 is no UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is no JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: each line must be one object"),
        ("a.parquet", b"no parquet at all", "a.parquet cannot be read as parquet"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match) as raised:
        read_table(tmp_path / name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(UsageError, match=r"known are \.csv"):
        read_table(tmp_path / "a.xlsx")
    with pytest.raises(UsageError, match="does not exist"):
        read_table(tmp_path / "b.csv")


def test_rows_are_named() -> None:
    assert [named_rows(list(range(count))) for count in (1, 2, 7)] == [
        "row 0",
        "rows 0, 1",
        "rows 0, 1, 2, 3, 4 and 2 more",
    ]
    assert table_of([("a", 1)], "here").names == ("text", "label")


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny model, its tokenizer, and rows in `data.csv`."""
    tiny().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    write(tmp_path / "data.csv", pd.DataFrame(rows()))
    return tmp_path


def command(folder: Path, *more: str, data: str = "data.csv") -> int:
    options = {"model": folder / "model", "data": folder / data, "output": folder / "out", "max-length": 16}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    brief = ["--sparsity", "0.5", "--epochs", "1", "--set", "training.batch_size=8", "--quiet"]
    return main(["compress", *words, *brief, *more])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_command_end_to_end(folder: Path, ending: str) -> None:
    data = write(folder / f"own.{ending}", pd.DataFrame(pairs()))
    columns = ["--text-column", "a", "--text-column", "b", "--eval-data", str(data)]
    assert command(folder, *columns, data=data.name) == 0
    report = json.loads((folder / "out" / "compression.json").read_text())
    model = load_pruned(folder / "out")
    assert model.config.id2label == {0: "eggs", 1: "ham", 2: "spam"}
    assert report["parameters"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert report["training"]["search_epochs"] == report["training"]["recovery_epochs"] == 1
    assert report["scores"]["student"].keys() == {"accuracy", "macro_f1"}
    assert report["versions"]["torch"] == torch.__version__
    inputs = report["inputs"]
    assert (inputs["model"], inputs["teacher"], inputs["data"]) == ("model", None, data.name)
    assert inputs["model_content"] == model_content(str(folder / "model"))
    assert inputs["data_content"] == inputs["eval_data_content"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert not [path.name for path in (folder / "out").iterdir() if str(folder).encode() in path.read_bytes()]
    assert AutoTokenizer.from_pretrained(folder / "out").get_vocab() == TOKENIZER.get_vocab()
    assert sorted(path.name for path in folder.iterdir()) == sorted(["data.csv", "model", "out", data.name])


def test_command_refuses_a_full_output_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").touch()
    assert command(folder) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert command(folder, "--overwrite") == 2
    assert "replaces only what this command wrote" in capsys.readouterr().err
    assert [path.name for path in (folder / "out").iterdir()] == ["thesis.tex"]


def test_command_overwrites_its_own_output(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "compression.json").write_text("{}")
    (folder / "out" / "old").touch()
    assert command(folder, "--overwrite") == 0
    assert not (folder / "out" / "old").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["data.csv", "model", "out"]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--output", "{}/model", "--overwrite"], "which is to be read"),
        (["--output", "{}", "--overwrite"], "which is to be read"),
        (["--output", "{}/data.csv"], "is a file"),
        (["--label-column", "lable"], "Did you mean 'label'"),
        (["--set", "training.learning_rat=1"], "learning_rate"),
        (["--epochs", "inf"], "search_epochs: Input should be a finite number"),
        (["--set", "training.clip_norm=.nan"], "clip_norm: Input should be a finite number"),
        (["--set", "learning_rate=1"], "write training.KEY=VALUE"),
        (["--set", "training.learning_rate"], "KEY=VALUE"),
        (["--outptu", "x"], "unknown option '--outptu'. Did you mean '--output'"),
        (["--eval-data", "{}/nothing.csv"], "does not exist"),
    ],
)
def test_command_with_bad_options(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], match: str
) -> None:
    assert command(folder, *(word.format(folder) for word in more)) == 2
    assert match in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["data.csv", "model"]


def test_command_names_the_line_of_a_broken_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data.csv").write_text("text,label\na,1\nb,1,2\n")
    assert command(folder) == 1
    message = capsys.readouterr().err
    assert "data.csv" in message
    assert "line 3" in message
    assert message.count("\n") == 1


def test_command_writes_into_the_working_directory_and_through_a_link(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    monkeypatch.chdir(folder / "real")
    assert command(folder, "--output", ".") == 0
    (folder / "real" / ".git").mkdir()
    (folder / "real" / "old").touch()
    assert command(folder, "--output", str(folder / "link"), "--overwrite") == 0
    assert load_pruned(folder / "real").config.id2label == {0: "eggs", 1: "ham", 2: "spam"}
    assert {path.name for path in folder.iterdir()} == {"data.csv", "model", "real", "link"}
    assert (folder / "link").is_symlink()
    left = {path.name for path in (folder / "real").iterdir()}
    assert {".git", "compression.json"} <= left
    assert "old" not in left


@needs_mount
def test_command_writes_to_another_disk(folder: Path) -> None:
    script = """
        mkdir "$1/disk" && mount -t tmpfs tmpfs "$1/disk" && ln -s disk "$1/link" || exit
        for output in disk link; do
            "$2" -m gppdfd compress --model "$1/model" --data "$1/data.csv" --output "$1/$output" --max-length 16 \\
                --sparsity 0.5 --method magnitude+none --epochs 1 --set training.batch_size=8 --quiet --overwrite 2>&1
            echo "exit code $?"
        done
        ls -A "$1" "$1/disk"
    """
    told = mounted(script, str(folder), sys.executable)
    assert told.count("exit code 0") == 2, told
    assert {"compression.json", "config.json", "model.safetensors", "tokenizer.json"} <= set(told.split())
    assert ".tmp" not in told


def test_command_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a stop in training nor one while the last file is written changes what was there."""
    (folder / "out").mkdir()
    (folder / "out" / "compression.json").write_text("{}")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for target in ("gppdfd.training.Trainer.run", "gppdfd.files.write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(target, stop)
            assert command(folder, "--overwrite") == 130
        assert [path.name for path in (folder / "out").iterdir()] == ["compression.json"]
        assert sorted(path.name for path in folder.iterdir()) == ["data.csv", "model", "out"]


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from gppdfd.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for words, expected in ((["--help"], "compress"), (["compress", "--help"], "--sparsity")):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_unknown_commands_name_the_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compres"]) == 2
    assert "Did you mean 'compress'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0


def test_targets_of_the_command_are_those_of_the_library() -> None:
    assert tuple(compress_command.TARGETS) == TARGETS
    assert {"sparsity": compress_command.DEFAULT_SPARSITY} == DEFAULT_TARGET


# Progress


def test_plain_progress_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    small(tiny(), rows(), training={**BRIEF, "search_epochs": 10}, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("teacher: fine-tuning") for line in lines)
    assert any(line.startswith("student: search") and line.endswith("left") for line in lines)
    assert "student: recovery 33/33" in lines
    assert len(lines) < 30


def test_no_progress_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    small(tiny(), rows())
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal() -> None:
    stream = StringIO()
    with RichProgress(Console(file=stream, force_terminal=True, width=80)) as display:
        display.step("student", "search", 5, 20)
        display.message("done [here]")
    assert "student: search" in stream.getvalue()
    assert "5/20" in stream.getvalue()
    assert "done [here]" in stream.getvalue()


def test_plain_progress_tells_the_time_left() -> None:
    stream = StringIO()
    display = PlainProgress(stream)
    for step in range(1, 101):
        display.step("student", "search" if step < 50 else "recovery", step, 100)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "student: search 1/100"
    assert lines[1].startswith("student: search 10/100, ")
    assert len(lines) == 11
