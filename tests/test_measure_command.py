"""The command: files written, models of every sort loaded, mistakes named."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, T5Config

from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import extract
from gppdfd.measure_command import add_arguments, load_against, load_measured, run
from gppdfd.pruned import save
from tests.tiny import random_keep, tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense`, `small` (extracted from it) and `bare` (the encoder without a head)."""
    root = tmp_path_factory.mktemp("models")
    model = tiny_model().eval()
    save(model, root / "dense")
    save(extract(model, random_keep(model)), root / "small")
    save(model.base_model, root / "bare")
    return root


def measure(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([*map(str, arguments), "--device", "cpu"]))


def test_writes_its_files(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found"
    brief = ("--quick", "--batch", 2, 1, "--length", 8, 99, "--threads", 1)
    assert measure(folders / "small", "--against", folders / "dense", "--out", out, *brief) == 0
    assert {path.name for path in out.iterdir()} == {"measure.json", "measure.md", "structure.png", "structure.pdf"}
    found = json.loads((out / "measure.json").read_text())
    assert [row["shape"]["batch"] for row in found["rows"]] == [1, 2]
    assert found["machine"]["threads"] == 1
    assert found["model"]["parameters"]["total"] < found["against"]["parameters"]["total"]
    assert found["model"]["file_bytes"] == (folders / "small" / "model.safetensors").stat().st_size
    printed = capsys.readouterr().out
    assert "speed-up" in printed
    assert "Left out: length 99" in printed
    assert str(out / "measure.md") in printed


def test_dense_model_alone_into_its_own_folder(folders: Path) -> None:
    assert measure(folders / "bare", "--quick", "--batch", 1, "--length", 4, "--encoder-only") == 0
    found = json.loads((folders / "bare" / "measure" / "measure.json").read_text())
    assert found["part"] == "encoder"
    assert found["against"] is None
    assert found["rows"][0]["speedup"] is None


def test_the_other_model_gets_the_same_head(folders: Path) -> None:
    model = load_measured(folders / "small")
    against = load_against(str(folders / "bare"), model)
    assert model.config.num_labels == against.config.num_labels == 3
    assert type(against).__name__ == "BertForSequenceClassification"


def test_a_head_of_another_width_is_made_anew(folders: Path, tmp_path: Path) -> None:
    model = tiny_model(labels=2)
    save(extract(model, random_keep(model)), tmp_path / "small")
    against = load_against(str(folders / "dense"), load_measured(tmp_path / "small"))
    assert against.classifier.out_features == 2
    encoder = tiny_model().base_model.state_dict()
    assert all(torch.equal(weights, encoder[name]) for name, weights in against.base_model.state_dict().items())


@pytest.mark.parametrize("other", ["dense", "small"])
def test_the_other_model_gets_the_same_number_type(folders: Path, tmp_path: Path, other: str) -> None:
    model = tiny_model().to(torch.bfloat16)
    save(extract(model, random_keep(model)), tmp_path / "half")
    half = load_measured(tmp_path / "half")
    assert half.dtype == load_against(str(folders / other), half).dtype == torch.bfloat16


def test_language_models_keep_their_head(tmp_path: Path) -> None:
    save(AutoModelForMaskedLM.from_config(tiny_model().config), tmp_path / "lm")
    assert type(load_measured(tmp_path / "lm")).__name__ == "BertForMaskedLM"


def test_saved_weights_are_those_measured(folders: Path) -> None:
    dense = tiny_model()
    for name, parameter in load_measured(folders / "dense").named_parameters():
        assert torch.equal(parameter, dense.get_parameter(name)), name


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder .*absent.* does not exist"):
        measure(tmp_path / "absent")


@pytest.mark.parametrize("files", [{}, {"config.json": "{"}, {"config.json": '{"model_type": "bert"}'}])
def test_folder_without_a_model(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"cannot be loaded|model\.safetensors is missing"):
        measure(tmp_path)


def test_pruned_folder_without_weights(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders / "small" / "config.json").read_text())
    with pytest.raises(DataError, match=r"model\.safetensors"):
        measure(tmp_path)


def test_architecture_without_adapter(tmp_path: Path) -> None:
    T5Config(architectures=["T5Model"]).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="t5"):
        measure(tmp_path)


def test_pickled_weights_are_not_read(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders / "dense" / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        measure(tmp_path)


def test_other_model_is_missing(folders: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        measure(folders / "small", "--against", str(folders / "absent"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(folders: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match="--device cuda"):
        run(parser.parse_args([str(folders / "small"), "--device", "cuda"]))


def test_numbers_are_checked(folders: Path) -> None:
    with pytest.raises(SystemExit):
        measure(folders / "small", "--batch", 0)
