"""ONNX files compute what the models do, for every architecture, head and kind, at any batch and length."""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import gppdfd.onnx as exporting
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import extract
from gppdfd.onnx import difference, export
from gppdfd.onnx_command import add_arguments, run
from gppdfd.pruned import load_pruned, save
from gppdfd.structure import KINDS, adapter_for
from gppdfd.tasks import micro
from tests.tiny import MODEL_TYPES, main_output, random_keep, tiny_inputs, tiny_model

KIND_SETS = {
    "head+ffn": ("head", "ffn"),
    "qk+vo+ffn": ("qk", "vo", "ffn"),
    "hidden": ("hidden",),
    "layers": ("mha_layer", "ffn_layer"),
    "all": KINDS,
    "emptied": ("head", "ffn", "vo"),
}
EVERY_RUN = [
    ("bert", "SequenceClassification", "layers"),
    ("roberta", "MaskedLM", "head+ffn"),
    ("xlm-roberta", "", "all"),
    ("electra", "TokenClassification", "qk+vo+ffn"),
    ("distilbert", "QuestionAnswering", "hidden"),
    ("gpt2", "CausalLM", "qk+vo+ffn"),
    ("gpt2", "SequenceClassification", "all"),
    ("modernbert", "SequenceClassification", "qk+vo+ffn"),
    ("bert", "SequenceClassification", "emptied"),
    ("distilbert", "SequenceClassification", "emptied"),
    ("gpt2", "CausalLM", "emptied"),
    ("modernbert", "SequenceClassification", "emptied"),
]
"""Each architecture, each kind and each head at least once; the others are `full`."""

PRODUCT = [
    (model_type, task, kinds)
    for model_type in MODEL_TYPES
    for task in ("", *adapter_for(CONFIG_MAPPING[model_type]()).tasks)
    for kinds in KIND_SETS
]
SIZES = ((1, 5), (4, 17), (2, 1))  # batch and length, none of them traced


def tiny_pruned(model_type: str = "bert", task: str = "SequenceClassification", kinds: str = "all") -> Any:
    model = tiny_model(model_type, task=task, labels=2, layers=2).eval()
    keep = random_keep(model, 0.6, kinds=KIND_SETS[kinds])
    for kind, layers in (("mha_layer", [False, True]), ("ffn_layer", [True, False])):
        if kind in keep:
            keep[kind][:] = torch.tensor(layers)
    if kinds == "emptied":
        keep["head"][0] = keep["ffn"][1] = False
    return extract(model, keep)


@pytest.mark.parametrize(
    ("model_type", "task", "kinds"),
    [pytest.param(*case, marks=[] if case in EVERY_RUN else pytest.mark.full) for case in PRODUCT],
    ids=["-".join(case) for case in PRODUCT],
)
def test_the_file_computes_what_the_model_does(model_type: str, task: str, kinds: str, tmp_path: Path) -> None:
    small = tiny_pruned(model_type, task, kinds)
    before = main_output(small)
    path = export(small, tmp_path / "model.onnx", check=False)
    assert max(difference(small, path, *size) for size in SIZES) < 1e-4
    assert torch.equal(main_output(small), before)
    graph = onnx.load(path).graph
    inputs = ["input_ids", "attention_mask"]
    assert [entry.name for entry in graph.input][:2] == inputs
    for entry in graph.input:
        assert [dim.dim_param for dim in entry.type.tensor_type.shape.dim] == ["batch", "length"]
    heads = {"QuestionAnswering": ["start_logits", "end_logits"], "": ["last_hidden_state", "pooler_output"]}
    names = [entry.name for entry in graph.output]
    assert names == heads.get(task, ["logits"])[: len(names)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model in training mode with its file."""
    small = tiny_pruned("gpt2").train()
    return small, export(small, tmp_path_factory.mktemp("exported") / "model.onnx")


def test_no_pass_over_the_attention_weights_looks_for_nan(exported: tuple[Any, Path]) -> None:
    operators = {node.op_type for node in onnx.load(exported[1]).graph.node}
    assert "Softmax" in operators
    assert "IsNaN" not in operators


def test_padding_does_not_matter(exported: tuple[Any, Path]) -> None:
    """What one sequence gives is what it gives beside a longer one."""
    session = onnxruntime.InferenceSession(exported[1])
    inputs = {name: values.numpy() for name, values in tiny_inputs().items()}
    (together,) = session.run(["logits"], inputs)
    (alone,) = session.run(["logits"], {name: values[2:, :4] for name, values in inputs.items()})
    assert abs(together[2] - alone[0]).max() < 1e-5


def test_a_tokenizer_feeds_the_file_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, on the embedded encoder with its own tokenizer."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(micro.MODEL)
    small = extract(model, random_keep(model, 0.3))
    save(small, tmp_path / "model", AutoTokenizer.from_pretrained(micro.MODEL))
    assert run(options(str(tmp_path / "model"), "--output", str(tmp_path / "new" / "model.onnx"), "--opset", "20")) == 0
    path = tmp_path / "new" / "model.onnx"
    assert capsys.readouterr().out.split() == [str(path)]
    assert list(path.parent.iterdir()) == [path]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")(["the dog runs", "a cat"], padding=True)
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], dict(tokens))
    with torch.no_grad():
        expected = load_pruned(tmp_path / "model")(**tokens.convert_to_tensors("pt")).logits
    assert abs(logits - expected.numpy()).max() < 1e-5
    assert onnx.load(path).opset_import[0].version == 20


def test_the_model_stays_as_it_was(exported: tuple[Any, Path]) -> None:
    small, _ = exported
    assert small.training
    assert small.config._attn_implementation == "sdpa"
    assert small.config.to_dict() == tiny_pruned("gpt2").config.to_dict()


class Program:
    """An exported model that is already in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, path: str) -> None:
        shutil.copy(self.path, path)


@pytest.mark.parametrize("change", [0.01, float("nan")])
def test_a_file_that_computes_something_else_is_not_written(exported, tmp_path, monkeypatch, change: float) -> None:
    other = copy.deepcopy(exported[0])
    with torch.no_grad():
        other.score.weight += change
    monkeypatch.setattr(exporting, "_trace", lambda *arguments: Program(exported[1]))
    with pytest.raises(DataError, match="differs from the model by"):
        export(other, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [17, 26])
def test_unknown_operator_sets_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"opset {opset} cannot be exported; choose from 18 to 25"):
        export(tiny_pruned(), tmp_path / "model.onnx", opset=opset)


def test_other_number_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bfloat16 cannot be exported: export model\.float\(\)"):
        export(tiny_pruned().to(torch.bfloat16), tmp_path / "model.onnx")


def test_classifiers_that_cannot_find_the_last_token_are_refused(tmp_path: Path) -> None:
    small = tiny_pruned("gpt2")
    small.config.pad_token_id = None
    with pytest.raises(UsageError, match="pad_token_id"):
        export(small, tmp_path / "model.onnx")


def test_missing_packages_are_named_with_their_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"needs onnxscript: pip install 'gppdfd\[onnx\]'"):
        export(tiny_pruned(), tmp_path / "model.onnx")


def test_the_command_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing' does not exist; give the folder"):
        run(options(str(tmp_path / "missing"), "--output", "model.onnx"))


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)
