"""Extracted models are citizens of transformers: saved, loaded, trained and generated with like any other; cards."""

import copy
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import gppdfd
from gppdfd.budget import parameters, prunable, sparsity
from gppdfd.card import model_card
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import extract
from gppdfd.pruned import FIELD, PrunedModel, kept, load_pruned, save
from gppdfd.structure import KINDS, Keep, adapter_for, structure_of
from gppdfd.structure.kept import describe, read, read_ranges, write_ranges
from gppdfd.tasks import micro
from tests.suites.test_interruptions import mounted, needs_mount
from tests.tiny import MODEL_TYPES, keeps, main_output, random_keep, tiny_inputs, tiny_model

KIND_SETS = [("head", "ffn"), ("qk", "vo", "ffn"), ("hidden",), ("mha_layer",), ("ffn_layer",), KINDS]
TASKS = [
    (model_type, task)
    for model_type in MODEL_TYPES
    for task in ("", *adapter_for(CONFIG_MAPPING[model_type]()).tasks)
    if model_type != "xlm-roberta" or task in ("", "SequenceClassification")
]


WEIGHT = "bert.encoder.layer.1.output.dense.weight"


def auto_class(task: str) -> Any:
    return getattr(transformers, f"AutoModelFor{task}" if task else "AutoModel")


def tiny_pruned(model_type: str = "bert", task: str = "SequenceClassification", kinds=KINDS, **settings) -> Any:
    model = tiny_model(model_type, task=task, **settings).eval()
    return extract(model, random_keep(model, 0.6, kinds=kinds))


@pytest.fixture
def quiet_loading():
    bars, verbosity = transformers.utils.logging, transformers.utils.logging.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity_error()
    yield
    bars.enable_progress_bar()
    bars.set_verbosity(verbosity)


pytestmark = pytest.mark.usefixtures("quiet_loading")


# --- save and load ---


@pytest.mark.parametrize(
    ("model_type", "task", "kinds"),
    [
        pytest.param(*case, kinds, marks=marks, id=f"{case[0]}-{case[1] or 'Model'}-{'+'.join(kinds)}")
        for case in TASKS
        for kinds in KIND_SETS
        for marks in [[] if case[1] == "SequenceClassification" or kinds in (("hidden",), KINDS) else pytest.mark.full]
    ],
)
def test_saved_models_load_like_any_other(model_type: str, task: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    small = tiny_pruned(model_type, task, kinds, labels=2)
    save(small, tmp_path / "model")
    expected = main_output(small)
    for load in (auto_class(task).from_pretrained, gppdfd.load_pruned):
        loaded = load(tmp_path / "model")
        assert type(loaded) is type(small)
        torch.testing.assert_close(main_output(loaded), expected, rtol=0, atol=1e-6)
        assert list(loaded.state_dict()) == list(small.state_dict())
        assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in small.named_parameters()}
    loaded.save_pretrained(tmp_path / "again")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("model", "again"))
    assert second == first
    again = load_pruned(tmp_path / "again").state_dict()
    assert again.keys() == small.state_dict().keys()
    assert all(torch.equal(again[name], weights) for name, weights in small.state_dict().items())


def test_the_config_carries_the_structure(tmp_path: Path) -> None:
    model = tiny_model()
    keep = random_keep(model, 0.4, kinds=("head", "vo", "ffn", "mha_layer"))
    save(extract(model, keep), tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.model_type == "pruned-bert"
    layers = getattr(config, FIELD)["layers"]
    assert [layer["attention"] is not None for layer in layers] == keep["mha_layer"].tolist()
    assert [layer["ffn"] for layer in layers] == keep["ffn"].sum(-1).tolist()
    loaded, settled = kept(load_pruned(tmp_path / "model")), structure_of(model).settled(keep)
    for kind in ("head", "qk", "vo", "hidden", "mha_layer", "ffn_layer"):
        assert torch.equal(loaded[kind], settled[kind]), kind
    assert structure_of(load_pruned(tmp_path / "model")) == structure_of(model)


def test_dense_folders_load_too(tmp_path: Path) -> None:
    model = tiny_model(task="TokenClassification").eval()
    save(model, tmp_path / "model")
    loaded = load_pruned(tmp_path / "model")
    assert type(loaded) is type(model)
    assert torch.equal(main_output(loaded), main_output(model))
    assert not (tmp_path / "model" / "README.md").exists()


def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    small = tiny_pruned()
    small.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len([*(tmp_path / "model").glob("*.safetensors")]) > 1
    assert torch.equal(main_output(load_pruned(tmp_path / "model")), main_output(small))


def test_a_new_head_of_another_width_is_allowed_on_request(tmp_path: Path) -> None:
    small = tiny_pruned(labels=3)
    save(small, tmp_path / "model")
    settings = {"num_labels": 5, "ignore_mismatched_sizes": True}
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", **settings)
    assert loaded.classifier.out_features == 5
    ours, theirs = loaded.base_model.state_dict(), small.base_model.state_dict()
    assert all(torch.equal(ours[name], weights) for name, weights in theirs.items())


@pytest.mark.parametrize(
    ("model_type", "saved", "loaded"),
    [
        pytest.param(model_type, saved, loaded, marks=marks, id=f"{model_type}-{saved or 'Model'}-{loaded or 'Model'}")
        for (model_type, saved), (other, loaded) in permutations(TASKS, 2)
        if model_type == other
        for marks in [[] if not loaded or any(task.endswith("LM") for task in (saved, loaded)) else pytest.mark.full]
    ],
)
def test_another_head_on_the_same_encoder(model_type: str, saved: str, loaded: str, tmp_path: Path) -> None:
    """As with dense models, a missing head (pooler included) is drawn at random; the encoder is that of the folder."""
    small = tiny_pruned(model_type, saved, kinds=("head", "vo", "ffn"), labels=2)
    save(small, tmp_path / "model")
    other = auto_class(loaded).from_pretrained(tmp_path / "model")
    assert isinstance(other, PrunedModel)
    ours, theirs = (model.base_model.state_dict() for model in (other, small))
    encoder = [name for name in ours if not name.startswith("pooler.")]
    assert all(torch.equal(ours[name], theirs[name]) for name in encoder)


@pytest.mark.parametrize("saved", ["", "SequenceClassification"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_new_language_model_head_on_fewer_hidden_dims(model_type: str, saved: str, tmp_path: Path) -> None:
    save(tiny_pruned(model_type, saved, kinds=("hidden",)), tmp_path / "model")
    task = adapter_for(CONFIG_MAPPING[model_type]()).tasks[-1]
    model = auto_class(task).from_pretrained(tmp_path / "model").eval()
    expected = main_output(model)
    assert expected.shape == (3, 11, 60)
    save(model, tmp_path / "other")
    loaded = load_pruned(tmp_path / "other")
    torch.testing.assert_close(main_output(loaded), expected)
    assert loaded.config.tie_word_embeddings == (model_type in ("gpt2", "electra"))


def test_features_of_a_classifier_without_a_pooler(tmp_path: Path) -> None:
    small = tiny_pruned("roberta")
    save(small, tmp_path / "model", AutoTokenizer.from_pretrained(micro.MODEL))
    run = pipeline("feature-extraction", model=str(tmp_path / "model"))
    with torch.no_grad():
        expected = small.base_model(**tiny_inputs()).last_hidden_state
        torch.testing.assert_close(run.model(**tiny_inputs()).last_hidden_state, expected)


# --- use ---


@pytest.fixture(scope="module")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded encoder with each head, half pruned: folders with tokenizers."""
    folder = tmp_path_factory.mktemp("micro")
    for auto in (
        AutoModelForSequenceClassification,
        AutoModelForMaskedLM,
        AutoModelForQuestionAnswering,
        AutoModelForTokenClassification,
    ):
        model = auto.from_pretrained(micro.MODEL)
        small = extract(model, random_keep(model, 0.5, kinds=("head", "qk", "ffn", "hidden", "ffn_layer")))
        save(small, folder / auto.__name__.removeprefix("AutoModelFor"), AutoTokenizer.from_pretrained(micro.MODEL))
    return folder


@pytest.mark.parametrize(
    ("task", "head", "inputs"),
    [
        ("text-classification", "SequenceClassification", ("the dog runs",)),
        ("fill-mask", "MaskedLM", ("the [MASK] runs",)),
        ("token-classification", "TokenClassification", ("the dog runs",)),
    ],
)
def test_pipelines(micro_folder: Path, task: str, head: str, inputs: tuple[str, ...]) -> None:
    folder = micro_folder / head
    run = pipeline(task, model=str(folder))
    assert isinstance(run.model, PrunedModel)
    assert all(0 <= answer["score"] <= 1 for answer in run(*inputs))
    tokens = AutoTokenizer.from_pretrained(folder)(*inputs, return_tensors="pt")
    with torch.no_grad():
        expected = load_pruned(folder)(**tokens).logits
    assert torch.equal(run.model(**tokens).logits, expected)


def test_question_answering_reads_the_folder(micro_folder: Path) -> None:
    folder = micro_folder / "QuestionAnswering"
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("who runs", "the dog runs", return_tensors="pt")
    output = model(**tokens, start_positions=torch.tensor([1]), end_positions=torch.tensor([2]))
    assert output.start_logits.shape == tokens["input_ids"].shape
    assert bool(output.loss.isfinite())


def test_the_trainer_trains_and_saves_checkpoints(micro_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = micro_folder / "SequenceClassification"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["the dog runs", "a cat sleeps"] * 8
    data = Dataset.from_dict({**tokenizer(texts), "labels": [0, 1] * 8})
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=1, save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=4, learning_rate=1e-2,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=data, processing_class=tokenizer).train()
    assert any(not torch.equal(weights, before[name]) for name, weights in model.state_dict().items())
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    torch.testing.assert_close(main_output(load_pruned(checkpoint)), main_output(model), rtol=0, atol=1e-6)
    longer = TrainingArguments(
        str(tmp_path), num_train_epochs=2, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=4,
    )  # fmt: skip
    fresh = AutoModelForSequenceClassification.from_pretrained(folder)
    result = Trainer(fresh, longer, train_dataset=data, processing_class=tokenizer).train(str(checkpoint))
    assert result.global_step == 8  # of which the checkpoint had 4


GENERATING = {
    **{"+".join(kinds): kinds for kinds in KIND_SETS},
    "layer 0 removed": {"mha_layer": 0},
    "layer 0 emptied": {"head": 0},
    "all removed": {"mha_layer": slice(None)},
    "all emptied": {"vo": slice(None)},
    "layer 0 without queries": {"qk": 0},
}


@pytest.mark.parametrize("name", GENERATING)
def test_generation_with_a_cache_equals_generation_without(name: str) -> None:
    model, what = tiny_model("gpt2", task="CausalLM").eval(), GENERATING[name]
    keep = random_keep(model, 0.6, kinds=what) if isinstance(what, tuple) else _without(model, what)
    small = extract(model, keep)
    prompt = {name: values[:1, :5] for name, values in tiny_inputs().items()}
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "output_scores": True}
    cached = small.generate(**prompt, **settings, use_cache=True, return_dict_in_generate=True)
    anew = small.generate(**prompt, **settings, use_cache=False, return_dict_in_generate=True)
    assert cached.sequences.shape == (1, 13)
    assert torch.equal(cached.sequences, anew.sequences)
    for ours, theirs in zip(cached.scores, anew.scores, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def _without(model: PreTrainedModel, what: dict[str, Any]) -> Keep:
    keep = structure_of(model).keep_all(tuple(what))
    for kind, layers in what.items():
        keep[kind][layers] = False
    return keep


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_hidden_states_and_attentions_can_be_asked_for(model_type: str) -> None:
    model = tiny_model(model_type, attention="eager").eval()
    keep = random_keep(model, 0.6, kinds=("head", "ffn", "hidden"))
    keep["head"][:, 0] = True
    with torch.no_grad():
        output = extract(model, keep)(**tiny_inputs(), output_attentions=True, output_hidden_states=True)
    assert [states.shape for states in output.hidden_states] == [(3, 11, int(keep["hidden"].sum()))] * 4
    assert [weights.shape for weights in output.attentions] == [
        (3, int(heads), 11, 11) for heads in keep["head"].sum(-1)
    ]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("what", [{"mha_layer": 0}, {"head": 0}])
def test_attentions_leave_out_layers_that_do_not_attend(model_type: str, what: dict[str, int]) -> None:
    model = tiny_model(model_type, attention="eager").eval()
    with torch.no_grad():
        output = extract(model, _without(model, what))(**tiny_inputs(), output_attentions=True)
    assert len(output.attentions) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_other_number_types(model_type: str, dtype: torch.dtype) -> None:
    small = tiny_pruned(model_type)
    expected = main_output(small)
    found = main_output(copy.deepcopy(small).to(dtype))
    assert found.dtype == dtype
    assert float((found.double() - expected).abs().max()) < 0.15 * float(expected.abs().max())


def test_number_types_are_loaded_as_asked(tmp_path: Path) -> None:
    save(tiny_pruned().to(torch.bfloat16), tmp_path / "model")
    assert load_pruned(tmp_path / "model").dtype == torch.bfloat16
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert loaded.dtype == torch.float32


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_copies_are_independent(model_type: str) -> None:
    small = tiny_pruned(model_type, kinds=("qk", "vo", "ffn"))
    expected, copied = main_output(small), copy.deepcopy(small)
    assert torch.equal(main_output(copied), expected)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(main_output(copied), expected)


UNPICKLE = """
import copy, pickle, sys
import gppdfd
for small, inputs, expected in pickle.load(sys.stdin.buffer):
    for model in (small, copy.deepcopy(small)):
        assert (model(**inputs).logits == expected).all()
"""


def test_pickles_are_read_by_another_process() -> None:
    models = [tiny_pruned(model_type, kinds=("qk", "vo", "ffn")) for model_type in MODEL_TYPES]
    emptied = extract(tiny_model(), {"ffn": torch.zeros(3, 40, dtype=torch.bool)})
    content = pickle.dumps([(model, tiny_inputs(), main_output(model)) for model in (*models, emptied)])
    subprocess.run([sys.executable, "-c", UNPICKLE], input=content, check=True)


# --- imports ---

LOAD = "print(type(AutoModelForSequenceClassification.from_pretrained({folder!r})).__name__)"


@pytest.mark.parametrize(
    "imports",
    [
        "import gppdfd; from transformers import AutoModelForSequenceClassification",
        "from transformers import AutoModelForSequenceClassification; import gppdfd",
        "import gppdfd.models; from transformers import AutoModelForSequenceClassification",
    ],
)
def test_either_import_order(imports: str, micro_folder: Path) -> None:
    done = python(f"{imports}; {LOAD}", micro_folder / "SequenceClassification")
    assert done.stdout.strip() == "PrunedBertForSequenceClassification", done.stderr


def test_without_the_package_the_failure_names_the_model_type(micro_folder: Path) -> None:
    imports = "from transformers import AutoModelForSequenceClassification"
    done = python(f"{imports}; {LOAD}", micro_folder / "SequenceClassification")
    assert done.returncode != 0
    assert "`pruned-bert`" in done.stderr


def test_the_import_is_cheap() -> None:
    done = python("import sys, gppdfd; print(*{'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules))")
    assert done.stdout.strip() == "", done.stderr


def python(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = code.replace("{folder!r}", repr(str(folder)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


# --- tampering ---


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers 0 and 1 have all sublayers."""
    model = tiny_model()
    keep = random_keep(model, 0.6, kinds=("head", "qk", "ffn", "mha_layer"))
    keep["mha_layer"][:] = torch.tensor([True, True, False])
    folder = tmp_path_factory.mktemp("original") / "model"
    save(extract(model, keep), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def refused(folder: Path, message: str) -> None:
    """Both ways to load give one `DataError` that names the folder once."""
    for load in (load_pruned, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(DataError, match=message) as caught:
            load(folder)
        assert str(caught.value).count(str(folder)) == 1


def change_config(folder: Path, change: Callable[[dict], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("format",), 3, "has format 3; this version reads format 2"),
        (("format",), 1, "has format 1; this version reads format 2"),
        (("colour",), "red", "damaged at colour"),
        (("layers", 0, "bias"), True, r"damaged at layers\.0\.bias"),
        (("layers",), [], "0 layers, the model has 3"),
        (("layers", 0, "attention", "heads"), "9", "units 9 of 4"),
        (("layers", 0, "attention", "heads"), "0-", r"damaged at layers\.0\.attention\.heads"),
        (("layers", 0, "attention", "heads"), "first", r"damaged at layers\.0\.attention\.heads"),
        (("layers", 0, "attention", "heads"), "2-1", r"damaged at layers\.0\.attention\.heads"),
        (("layers", 0, "attention", "heads"), "0,0", r"damaged at layers\.0\.attention\.heads"),
        (("layers", 0, "attention", "heads"), "0-99999999999", r"damaged at layers\.0\.attention\.heads"),
        (("layers", 0, "attention", "heads"), [0], r"damaged at layers\.0\.attention\.heads"),
        (("layers", 0, "attention", "qk"), ["0"] * 5, "but qk dims of 5"),
        (("layers", 0, "attention", "qk"), None, "do not fit the structure"),
        (("layers", 0, "ffn"), -1, r"damaged at layers\.0\.ffn"),
        (("layers", 0, "ffn"), "7", r"damaged at layers\.0\.ffn"),
        (("layers", 0, "ffn"), 41, "units 0-40 of 40"),
        (("layers", 0, "ffn"), 1, r"3 weights do not fit .* which is \(\d+,\) and not \(1,\)"),
        (("layers", 2, "attention"), {"heads": "", "qk": None, "vo": None}, "weights are missing"),
        (("hidden",), "", "no hidden dim"),
        (("hidden",), "0-3", "do not fit the structure"),
    ],
)
def test_tampered_structure_is_refused(folder: Path, where: tuple, value: Any, message: str) -> None:
    def change(config: dict) -> None:
        *path, last = (FIELD, *where)
        for step in path:
            config = config[step]
        config[last] = value

    change_config(folder, change)
    refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({FIELD: None}, "has format None"),
        ({FIELD: "2"}, "has format None"),
        ({"num_hidden_layers": 2}, "3 layers, the model has 2"),
        ({"model_type": "pruned-roberta"}, "not one of model_type pruned-roberta|weights are missing"),
    ],
)
def test_tampered_config_is_refused(folder: Path, change: dict, message: str) -> None:
    change_config(folder, lambda config: config.update(change))
    refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "needs model_type pruned-bert"),
        ({"model_type": "bert", FIELD: {"format": 1, "head": [[0]] * 3, "ffn": [1] * 3}}, "has format 1; this version"),
        ({"model_type": "pruned-t5"}, "model type `pruned-t5`"),
        ({"architectures": ["PrunedNothing"]}, "unknown architecture 'PrunedNothing'"),
        ({"architectures": ["RobertaModel"]}, "'RobertaModel' in config.json is not one of model_type pruned-bert"),
        ({"architectures": None}, "unknown architecture ''"),
        ({"hidden_size": 30}, "cannot be read as a model"),
        ({"hidden_size": "wide"}, "cannot be read as a model"),
        ({"num_attention_heads": 0}, "cannot be read as a model"),
    ],
)
def test_configs_that_only_our_loader_sees_through(folder: Path, change: dict, message: str) -> None:
    change_config(folder, lambda config: config.update(change))
    with pytest.raises(DataError, match=message) as caught:
        load_pruned(folder)
    assert str(folder) in str(caught.value)


def test_a_dense_model_type_never_loads_quietly(folder: Path) -> None:
    """transformers itself then finds other shapes than it expects."""
    change_config(folder, lambda config: config.update(model_type="bert"))
    with pytest.raises(RuntimeError):
        AutoModelForSequenceClassification.from_pretrained(folder)


def change_weights(folder: Path, change: Callable[[dict], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.update({WEIGHT: weights[WEIGHT][:, 1:].contiguous()}), rf"among them {WEIGHT}, which"),
        (lambda weights: weights.pop(WEIGHT), f"1 weights are missing, among them {WEIGHT}"),
        (lambda weights: weights.update({"classifier.bias": torch.ones(7)}), "among them classifier.bias"),
    ],
    ids=["shape", "missing", "shape of the head"],
)
def test_wrong_weights_are_refused(folder: Path, change: Callable[[dict], Any], message: str) -> None:
    change_weights(folder, change)
    refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("classifier.bias"), "1 missing keys, among them classifier.bias"),
        (lambda weights: weights.update(more=torch.ones(2)), "1 unexpected keys, among them more"),
    ],
    ids=["missing head", "extra"],
)
def test_our_loader_wants_every_weight_and_no_other(folder: Path, change: Callable[[dict], Any], message: str) -> None:
    change_weights(folder, change)
    with pytest.raises(DataError, match=message):
        load_pruned(folder)


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"\xff" * 100])
def test_damaged_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "cannot be read as a model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        load_pruned(folder)


# --- the description ---


@given(st.sets(st.integers(0, 40)))
def test_ranges_are_read_as_written(indices: set[int]) -> None:
    assert read_ranges(write_ranges(sorted(indices))) == sorted(indices)


@given(st.text(alphabet="0123-, ", max_size=9))
def test_ranges_have_one_spelling(text: str) -> None:
    try:
        assert write_ranges(read_ranges(text)) == text
    except ValueError:
        assert not re.fullmatch(r"\d|\d,\d", text) or int(text[-1]) <= int(text[0]) + 1  # "2,3" is "2-3"


@given(st.data())
def test_descriptions_tell_the_whole_keep(data: st.DataObject) -> None:
    """Of FFN dims, their number."""
    structure = structure_of(tiny_model())
    settled = structure.settled(data.draw(keeps(structure)))
    told = read(json.loads(json.dumps(describe(structure, settled))), structure, "model")
    assert torch.equal(told.pop("ffn").sum(-1), settled.pop("ffn").sum(-1))
    assert all(torch.equal(told[kind], units) for kind, units in settled.items())


# --- the card ---


@pytest.mark.parametrize(("model_type", "task"), TASKS, ids=[f"{m}-{t or 'Model'}" for m, t in TASKS])
def test_cards_tell_how_to_load(model_type: str, task: str) -> None:
    header, body = front_matter(model_card(tiny_pruned(model_type, task, labels=2)))
    assert header["library_name"] == "transformers"
    assert {"pruned", "gppdfd"} <= set(header["tags"])
    assert (
        header["pipeline_tag"]
        == {
            "": "feature-extraction",
            "SequenceClassification": "text-classification",
            "TokenClassification": "token-classification",
            "QuestionAnswering": "question-answering",
            "MaskedLM": "fill-mask",
            "CausalLM": "text-generation",
        }[task]
    )
    assert f"from transformers import {auto_class(task).__name__}\n" in body
    assert "import gppdfd" in body


def test_the_card_has_the_numbers() -> None:
    model = tiny_model()
    keep = random_keep(model, 0.5, kinds=("head", "ffn", "mha_layer", "ffn_layer", "hidden"))
    keep["mha_layer"][:], keep["ffn_layer"][:] = torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0])
    keep["head"][2], structure = False, structure_of(model)
    small = extract(model, keep)
    _, card = front_matter(model_card(small))
    assert f"| encoder | {prunable(structure):,} | {parameters(structure, keep):,} |" in card
    embeddings = [sum(p.numel() for p in net.base_model.embeddings.parameters()) for net in (model, small)]
    assert f"| embeddings | {embeddings[0]:,} | {embeddings[1]:,} |" in card
    assert f"**{100 * sparsity(structure, keep):.2f} %**" in card
    assert f"{sum(p.numel() for p in small.parameters()):,} parameters" in card
    assert f"Hidden dims: {int(keep['hidden'].sum())} of 32" in card
    heads, dims = int(keep["head"][0].sum()), keep["ffn"].sum(-1).tolist()
    assert f"| 0 | {heads} of 4 | {8 * heads} | {8 * heads} | {dims[0]} of 40 |" in card
    assert f"| 1 | removed | 0 | 0 | {dims[1]} of 40 |" in card
    assert "| 2 | emptied | 0 | 0 | removed |" in card


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base"),
        ("", None),
        ("/home/me/secret/model", None),
        ("./model", None),
        ("../model", None),
        ("~/model", None),
        ("runs/2024/model", None),
        ("C:\\models\\bert", None),
        ("here", None),
    ],
)
def test_the_card_names_the_base_model_but_no_path(name: str, base: str | None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    small = tiny_pruned()
    small.config.name_or_path = name
    header, body = front_matter(model_card(small))
    assert header.get("base_model") == base
    assert bool(name and name in body) == bool(base)


def test_no_saved_file_has_a_path_of_this_machine(tmp_path: Path) -> None:
    save(AutoModel.from_pretrained(micro.MODEL), tmp_path / "dense")
    model = AutoModel.from_pretrained(tmp_path / "dense")
    save(extract(model, random_keep(model)), tmp_path / "model", AutoTokenizer.from_pretrained(micro.MODEL))
    loaded = load_pruned(tmp_path / "model")
    save(loaded, tmp_path / "again", AutoTokenizer.from_pretrained(tmp_path / "model"))
    for file in (*(tmp_path / "model").iterdir(), *(tmp_path / "again").iterdir()):
        assert str(tmp_path).encode() not in file.read_bytes(), file
        assert str(micro.MODEL).encode() not in file.read_bytes(), file
    assert (tmp_path / "again" / "README.md").is_file()


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    _, header, body = card.split("---\n", 2)
    return yaml.safe_load(header), body


def test_causal_models_load_by_their_own_auto_class(tmp_path: Path) -> None:
    small = tiny_pruned("gpt2", "CausalLM")
    save(small, tmp_path / "model")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").can_generate()


def test_saving_replaces_models_and_nothing_else(tmp_path: Path) -> None:
    model = tiny_pruned()
    for _ in range(2):
        save(model, str(tmp_path / "model"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds no model"):
        save(model, tmp_path / "notes")
    assert (tmp_path / "notes" / "thesis.tex").is_file()


def test_other_files_of_a_model_folder_stay(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(tiny_pruned(), folder, AutoTokenizer.from_pretrained(micro.MODEL))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (folder / "model-00001-of-00002.safetensors").touch()
    (folder / "model.safetensors.index.json").write_text("{}")
    before = {path.name for path in folder.iterdir()}
    model = tiny_pruned("roberta")
    save(model, folder)
    stale = {"model-00001-of-00002.safetensors", "model.safetensors.index.json"}
    assert {path.name for path in folder.iterdir()} == before - stale
    assert (folder / ".git" / "HEAD").is_file()
    assert torch.equal(main_output(load_pruned(folder)), main_output(model))


def test_saving_into_the_working_directory_and_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    for folder in (Path(), tmp_path / "link"):
        save(tiny_pruned(), folder)
        load_pruned(tmp_path / "real")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    assert (tmp_path / "link").is_symlink()
    assert not list((tmp_path / "real").glob(".*"))


@needs_mount
def test_saving_at_a_mount_point(tmp_path: Path) -> None:
    script = """
        mkdir "$1/model" && mount -t tmpfs tmpfs "$1/model" || exit
        "$2" -c '
import sys
from gppdfd.pruned import load_pruned, save
from tests.tiny import tiny_model
for labels in (3, 2):
    save(tiny_model(labels=labels), sys.argv[1])
    print(load_pruned(sys.argv[1]).config.num_labels)
' "$1/model"
        ls -A "$1/model"
    """
    assert mounted(script, str(tmp_path), sys.executable).split() == ["3", "2", "config.json", "model.safetensors"]


def test_a_model_that_cannot_be_moved_is_kept_where_it_was_written(tmp_path: Path) -> None:
    folder, model = tmp_path / "model", tiny_pruned()
    save(model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(DataError, match=r"the new model lies in .*, apart from") as told:
        save(model, folder)
    kept_in = re.search(r"lies in (\S+),", str(told.value))
    assert kept_in is not None
    assert torch.equal(main_output(load_pruned(kept_in[1])), main_output(model))


def test_a_failure_while_files_are_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = tmp_path / "model", tiny_pruned()
    save(model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("gppdfd.pruned._write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tiny_pruned("roberta"), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
