"""Loading encoders: the embedded one, a local folder, or a name on the hub."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from gppdfd.errors import DataError, UsageError
from gppdfd.files import hash_files, missing_model_files
from gppdfd.quiet import quiet
from gppdfd.seeds import derive_seed
from gppdfd.structure import Structure, adapter_for
from gppdfd.tasks.base import TaskSpec


def model_path(name: str) -> str:
    """What `from_pretrained` is given: the embedded encoder's folder for `micro`, else the name itself."""
    if name != "micro":
        return name
    from gppdfd.tasks import micro

    return str(micro.MODEL)


def model_content(name: str) -> str | None:
    """sha256 of a local model's files, so that a copy elsewhere is the same model; None for a hub name.

    Raises:
        UsageError: the folder exists but holds no model.
    """
    folder = Path(model_path(name))
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or len(folder.parts) > 2:
            raise UsageError(f"model folder {name!r} does not exist")
        return None
    if missing := missing_model_files(folder):
        raise UsageError(f"{name!r} is no model folder: {', '.join(missing)} missing")
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt")]
    return hash_files(files)


def load_structure(name: str) -> Structure:
    """Units of a model, from its config alone.

    Raises:
        UsageError: no supported encoder.
        DataError: its config cannot be read.
    """
    config = _guarded(name, AutoConfig.from_pretrained)
    return adapter_for(config).structure(config)


def load_config(name: str) -> PretrainedConfig:
    """Config of a model; `DataError` if it cannot be read."""
    return _guarded(name, AutoConfig.from_pretrained)


def load_tokenizer(name: str) -> Any:
    """Fast tokenizer of a model."""
    return _guarded(name, AutoTokenizer.from_pretrained)


def load_encoder(name: str, spec: TaskSpec, seed: int, pretrained: bool = True) -> PreTrainedModel:
    """Encoder with a classification head for a task; head (and random weights) are drawn from the run's own stream.

    The head is new, unless the model has one of the task's width.

    Args:
        pretrained: False draws all weights at random, which is the control for pre-training.

    Raises:
        DataError: it cannot be read, or it has a classifier for this task with another order of labels.
    """
    check_label_order(_guarded(name, AutoConfig.from_pretrained), spec, name)
    settings = {"num_labels": spec.outputs, "problem_type": _problem_type(spec)}
    torch.manual_seed(derive_seed(seed, "init"))
    if pretrained:
        fresh = {"dtype": torch.float32, "ignore_mismatched_sizes": True}
        model = _guarded(name, AutoModelForSequenceClassification.from_pretrained, **fresh, **settings)
    else:
        config = _guarded(name, AutoConfig.from_pretrained, **settings)
        model = AutoModelForSequenceClassification.from_config(config)
    if spec.labels:
        model.config.id2label = dict(enumerate(spec.labels))
        model.config.label2id = {label: index for index, label in enumerate(spec.labels)}
    if model.config.pad_token_id is None:  # GPT-2; batches are padded with the same token (`Encoded.pad`)
        model.config.pad_token_id = model.config.eos_token_id
    adapter_for(model)
    return model


def check_label_order(config: PretrainedConfig, spec: TaskSpec, name: str) -> None:
    """A classifier whose labels are the task's in another order would start, or teach, upside down.

    Raises:
        DataError: same names, other order.
    """
    own = [str(config.id2label[index]).lower() for index in sorted(config.id2label)]
    if set(own) == set(spec.labels) and own != list(spec.labels):
        raise DataError(
            f"model {name!r} has the labels of {spec.name} in the order {', '.join(own)}; "
            f"here they are {', '.join(spec.labels)}: reorder its classifier and id2label"
        )


def _problem_type(spec: TaskSpec) -> str:
    return "regression" if spec.regression else "single_label_classification"


def _guarded(name: str, load: Any, **settings: Any) -> Any:
    path = model_path(name)
    try:
        with quiet():
            return load(path, **settings)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"model {name!r} cannot be loaded: {reason}. Give --model a folder that holds config.json, "
            "model.safetensors and the tokenizer's files, or a name on the hub that this machine can reach"
        ) from error
