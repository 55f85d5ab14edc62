"""The models that a user gives to `compress`: checked by their configs alone, copied when they are needed."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import PretrainedConfig, PreTrainedModel

from gppdfd.errors import UsageError
from gppdfd.models import load_config, load_encoder, load_tokenizer, model_content, model_path
from gppdfd.passes import longest_input
from gppdfd.pruned import FIELD, load_pruned
from gppdfd.seeds import derive_seed
from gppdfd.structure import Structure, adapter_for
from gppdfd.tasks.base import TaskSpec
from gppdfd.tasks.encoding import Encoded
from gppdfd.tasks.own import Head
from gppdfd.views import Observed

CLASSIFIER = "ForSequenceClassification"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")

LENGTH = 128
"""Longest row in tokens where nothing else is said."""

Model: TypeAlias = PreTrainedModel | str | Path
"""A loaded model, or its folder or hub name."""


class Models:
    """The given models: their configs, checked at once, and fresh copies of them, made when they are needed."""

    def __init__(self, model: Model, teacher: Model | None) -> None:
        self.model, self.teacher = model, teacher
        self.config = checked_config(model, "the model")
        if getattr(self.config, FIELD, None) is not None:
            raise UsageError("the model is pruned already: give the dense model it was made from")
        self.teacher_config = None if teacher is None else checked_config(teacher, "the teacher")
        if self.teacher_config is not None and not is_classifier(teacher, self.teacher_config):
            raise UsageError("the teacher is no fine-tuned classifier; leave it out, and one is trained")

    @property
    def structure(self) -> Structure:
        return adapter_for(self.config).structure(self.config)

    @property
    def teacher_structure(self) -> Structure | None:
        """That of the given teacher, as it was before any pruning."""
        return None if self.teacher_config is None else adapter_for(self.teacher_config).structure(self.teacher_config)

    @property
    def home(self) -> torch.device:
        """Device of the given model."""
        return self.model.device if isinstance(self.model, PreTrainedModel) else torch.device("cpu")

    @property
    def heads(self) -> list[Head]:
        """Classifiers that the labels have to fit; that of a folder may be made anew."""
        heads = []
        if is_classifier(self.model, self.config):
            loaded = isinstance(self.model, PreTrainedModel)
            heads.append(Head("the model", class_names(self.config), binding=loaded))
        if self.teacher_config is not None:
            heads.append(Head("the teacher", class_names(self.teacher_config), fixed=True))
        return heads

    def tokenizer(self, given: Any) -> Any:
        """The given tokenizer, or the model's.

        Raises:
            UsageError: there is none.
        """
        if given is not None and not isinstance(given, str | Path):
            return given
        name = str(given) if given is not None else name_of(self.model)
        folder = Path(model_path(name))
        if not name or (folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES)):
            where = f" in {name!r}" if name else ", because the model was made in memory"
            raise UsageError(f"no tokenizer{where}: give one, tokenizer=... or --tokenizer")
        return load_tokenizer(name)

    def length(self, max_length: int | None) -> int:
        """`max_length`, if the model has that many positions; None: 128, or all positions if there are fewer."""
        positions = longest_input(self.config)
        if max_length is None:
            return min(LENGTH, positions)
        if max_length > positions:
            raise UsageError(f"max_length {max_length} is more than the {positions} positions of the model")
        return max_length

    def fresh(self, spec: TaskSpec, seed: int) -> PreTrainedModel:
        """A copy of the model with the classes of a task, in float32."""
        if isinstance(self.model, PreTrainedModel):
            return with_classes(copied(self.model), spec)
        return with_classes(load_encoder(str(self.model), spec, seed), spec)

    def random(self, spec: TaskSpec, seed: int) -> PreTrainedModel:
        """The same architecture with random weights."""
        model = self.fresh(spec, seed)
        torch.manual_seed(derive_seed(seed, "init"))
        return type(model)(deepcopy(model.config))

    def given_teacher(self, spec: TaskSpec, seed: int) -> PreTrainedModel | None:
        """A copy of the given teacher, in float32."""
        if self.teacher is None or isinstance(self.teacher, PreTrainedModel):
            return None if self.teacher is None else copied(self.teacher)
        folder = Path(self.teacher)
        return load_pruned(folder).float() if folder.is_dir() else load_encoder(str(self.teacher), spec, seed)


def checked_config(model: Model, who: str) -> PretrainedConfig:
    """Config of a model that this library can work with.

    Raises:
        UsageError: no model, no supported encoder, or a loaded model without a classifier of one label per row.
    """
    if isinstance(model, PreTrainedModel):
        config: PretrainedConfig = model.config
        if not is_classifier(model, config):
            raise UsageError(
                f"{who} is a {type(model).__name__} without a classifier: load it with "
                "AutoModelForSequenceClassification.from_pretrained, or give its folder or name"
            )
    elif isinstance(model, str | Path):
        model_content(str(model))
        config = load_config(str(model))
    else:
        raise UsageError(f"{who} is a {type(model).__name__}: give a transformers model, a folder or a hub name")
    adapter_for(config)
    if config.problem_type == "multi_label_classification":
        raise UsageError(f"{who} gives several labels per row (multi-label), which is not supported")
    return config


def is_classifier(model: Model | None, config: PretrainedConfig) -> bool:
    """Whether a model has a head for sequence classification."""
    if isinstance(model, PreTrainedModel):
        return any(cls.__name__.endswith(CLASSIFIER) for cls in type(model).__mro__)
    return any(name.endswith(CLASSIFIER) for name in config.architectures or ())


def class_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Names of a classifier's classes in label order."""
    return tuple(str(config.id2label[number]) for number in sorted(config.id2label))


def copied(model: PreTrainedModel) -> PreTrainedModel:
    """A copy on the CPU, where a wrong token is an error and no lost device; in float32, all weights trainable."""
    return deepcopy(model).cpu().float().requires_grad_(True)


def with_classes(model: PreTrainedModel, spec: TaskSpec) -> PreTrainedModel:
    """`model`, with the classes of a task in its config."""
    model.config.problem_type = "regression" if spec.regression else "single_label_classification"
    if spec.labels:
        model.config.id2label = dict(enumerate(spec.labels))
        model.config.label2id = {label: number for number, label in enumerate(spec.labels)}
    return model


def name_of(model: Model) -> str:
    """Folder or hub name that a model comes from; empty if it was made in memory."""
    return model.name_or_path if isinstance(model, PreTrainedModel) else str(model)


@torch.no_grad()
def check_tokens(model: PreTrainedModel, splits: Sequence[Encoded]) -> None:
    """Make sure that the tokenizer is the model's and that the longest row of all splits goes through.

    Raises:
        UsageError: token ids beyond the vocabulary, or more tokens than positions.
    """
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = splits[0].pad  # without one, classifiers on the last token refuse batches
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if (largest := max(int(split.tokens.max()) for split in splits)) >= vocabulary:
        raise UsageError(
            f"token id {largest} is beyond the model's vocabulary of {vocabulary}: another model's tokenizer?"
        )
    split = max(splits, key=lambda split: int(split.lengths.max()))
    longest = split.batch(split.lengths.argmax()[None]).to(model.device)
    try:
        Observed(model.eval())(longest)
    except (IndexError, RuntimeError) as error:
        tokens = longest.input_ids.shape[1]
        raise UsageError(
            f"the model cannot take a row of {tokens} tokens ({error}): give a smaller max_length"
        ) from None


def count(model: PreTrainedModel) -> int:
    """All parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
