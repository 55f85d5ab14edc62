"""Extracted models as classes of their own, which load like any other model.

For every dense class that an adapter knows, such as `BertForSequenceClassification`, there is a `Pruned` one, built by
the dense class's own code and cut down to what `pruned_structure` in its config says. Its config class has the
`model_type` of the dense one with `pruned-` before it, so that transformers' Auto classes find it once `gppdfd` has
been imported, and refuse the folder by name when it has not.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gppdfd.errors import DataError, UsageError
from gppdfd.factorise import factorise, untie
from gppdfd.files import missing_model_files, write_model, write_text
from gppdfd.quiet import quiet
from gppdfd.shrink import shrink
from gppdfd.structure import ADAPTERS, PREFIX, Keep, adapter_for, structure_of
from gppdfd.structure.kept import check_format, describe, described_rank, read

FIELD = "pruned_structure"

UNREADABLE = (OSError, LookupError, ArithmeticError, ValueError, TypeError, RuntimeError, StrictDataclassError)
"""What transformers raises at damaged files, by what is wrong in them."""


class PrunedModel:
    """What all pruned classes add to their dense class; it comes first among their bases."""

    def __init__(self, config: PretrainedConfig, *inputs: Any, **settings: Any) -> None:
        super().__init__(config, *inputs, **settings)  # type: ignore[call-arg]
        model: Any = self
        with torch.device("cpu"):  # the keep is data, also while transformers builds the model without memory
            keep = kept(model)
            if rank := described_rank(getattr(config, FIELD)):
                factorise(model, rank)
            shrink(model, keep)
            if _ties_of_other_shape(model):
                untie(model)

    @classmethod
    def from_pretrained(
        cls,
        name: Any,
        *inputs: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **settings: Any,
    ) -> Any:
        """As in transformers, but an encoder whose weights are missing or of another shape is never filled at random.

        The pooler counts as a part of the head: it is new where the folder has none.

        Raises:
            DataError: a weight of the encoder is missing, or weights do not fit the structure in config.json.
        """
        parent: Any = super()
        # transformers may ignore other shapes, so that the error here can name the weight.
        settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            model, info = parent.from_pretrained(name, *inputs, **settings)
        except SafetensorError as error:
            raise DataError(f"{name} cannot be read as a model: {error}") from error
        _check_encoder(name, model, info, new_head=ignore_mismatched_sizes)
        return (model, info) if output_loading_info else model


def pruned_config(config: PretrainedConfig, keep: Keep, embedding_rank: int | None = None) -> PretrainedConfig:
    """Config of a dense model (or of a pruned one) with the structure that `keep` leaves.

    Args:
        embedding_rank: that of its word embeddings, if they are factorised.
    """
    values = {**config.to_dict(), FIELD: describe(adapter_for(config).structure(config), keep, embedding_rank)}
    values.pop("model_type", None)
    pruned = config_class(config.model_type.removeprefix(PREFIX))(**values)
    pruned._attn_implementation = config._attn_implementation
    return pruned


def kept(model: PreTrainedModel) -> Keep:
    """The keep of an extracted model, with all kinds; of FFN dims only the number is true.

    Raises:
        DataError: its config does not say it, or wrongly.
    """
    return read(getattr(model.config, FIELD, None), structure_of(model), model.config.name_or_path or "config")


@cache
def config_class(model_type: str) -> type[PretrainedConfig]:
    """Pruned config class for the `model_type` of a dense one."""
    dense = CONFIG_MAPPING[model_type]
    return _derived(dense, (dense,), {"model_type": PREFIX + model_type})


@cache
def pruned_class(dense: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Pruned class for a dense model class; a pruned class is its own."""
    if issubclass(dense, PrunedModel):
        return dense
    config: Any = dense.config_class
    return _derived(dense, (PrunedModel, dense), {"config_class": config_class(config.model_type)})


def register() -> None:
    """Make transformers' Auto classes know the pruned classes; done when this module is imported."""
    for model_type in sorted(model_type for adapter in ADAPTERS for model_type in adapter.model_types):
        AutoConfig.register(PREFIX + model_type, config_class(model_type), exist_ok=True)
        for dense, auto in dense_classes(model_type).items():
            auto.register(config_class(model_type), pruned_class(dense), exist_ok=True)  # type: ignore[arg-type]


@cache
def dense_classes(model_type: str) -> dict[type[PreTrainedModel], Any]:
    """Model classes that can be extracted, each with the Auto class that loads it: the bare encoder and its heads."""
    config = CONFIG_MAPPING[model_type]
    autos = [getattr(transformers, f"AutoModelFor{task}") for task in adapter_for(config()).tasks]
    return {auto._model_mapping[config]: auto for auto in (AutoModel, *autos)}


def save(model: PreTrainedModel, folder: Path | str, tokenizer: Any = None) -> None:
    """Write `model` (safetensors, config with its structure, a card if pruned) into `folder`.

    A failure while files are written changes nothing in `folder`. A model that is there is replaced, other files stay.

    Raises:
        UsageError: `folder` holds something that is no model.
        DataError: the finished files cannot be moved into `folder`; the message says where they lie.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "config.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and holds no model: name another folder")
    write_model(folder, lambda temporary: _write(model, temporary, tokenizer))


def _write(model: PreTrainedModel, folder: Path, tokenizer: Any) -> None:
    with quiet():
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if isinstance(model, PrunedModel):
        _write_card(model, folder)


def _write_card(model: PreTrainedModel, folder: Path) -> None:
    from gppdfd.card import model_card  # which needs this module

    write_text(folder / "README.md", model_card(model))


def load_pruned(folder: Path | str) -> PreTrainedModel:
    """Model written by `save` (or in several files), pruned or dense, with its own head, in evaluation mode.

    Raises:
        DataError: a file is missing or damaged, or weights and structure do not fit together.
    """
    folder = Path(folder)
    if missing := missing_model_files(folder):
        raise DataError(f"{folder} is no saved model: {missing[0]} is missing")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder)
            model, info = _class_of(config, folder).from_pretrained(folder, output_loading_info=True)
    except DataError as error:
        raise DataError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{folder} cannot be read as a model: {reason}") from error
    _check_complete(folder, info)
    return model.eval()


def _class_of(config: PretrainedConfig, folder: Path) -> type[PreTrainedModel]:
    """Class that config.json names."""
    pruned = config.model_type.startswith(PREFIX)
    if not pruned and hasattr(config, FIELD):
        check_format(getattr(config, FIELD), str(folder))
        raise DataError(f"{folder}: {FIELD} in config.json needs model_type {PREFIX}{config.model_type}")
    name = (config.architectures or [""])[0]
    dense: Any = getattr(transformers, name.removeprefix("Pruned"), None)
    if not (isinstance(dense, type) and issubclass(dense, PreTrainedModel)):
        raise DataError(f"{folder}: config.json names the unknown architecture {name!r}")
    if pruned and dense not in dense_classes(config.model_type.removeprefix(PREFIX)):
        raise DataError(f"{folder}: architecture {name!r} in config.json is not one of model_type {config.model_type}")
    return pruned_class(dense) if pruned else dense


def _ties_of_other_shape(model: PreTrainedModel) -> bool:
    """Whether an output embedding is to be tied to an input embedding that lost dims which it still has.

    Shapes tell: while transformers loads a model, nothing is tied yet.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    ties = model.all_tied_weights_keys.items()
    return any(parameters[target].shape != parameters[source].shape for target, source in ties)


def _check_encoder(name: Any, model: PreTrainedModel, info: dict[str, Any], new_head: bool) -> None:
    """Refuse weights that are missing in the encoder, or of another shape there (with `new_head`) or anywhere."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    pooler = adapter_for(model).pooler

    def inside(key: str) -> bool:
        return key.startswith(prefix) and not (pooler and key.startswith(f"{prefix}{pooler}."))

    missing = sorted(filter(inside, info["missing_keys"]))
    if missing:
        raise DataError(f"{name}: {len(missing)} weights are missing, among them {missing[0]}")
    wrong = sorted(entry for entry in info["mismatched_keys"] if inside(entry[0]) or not new_head)
    if wrong:
        key, found, wanted = wrong[0]
        raise DataError(
            f"{name}: {len(wrong)} weights do not fit the structure in config.json, among them {key}, "
            f"which is {tuple(found)} and not {tuple(wanted)}"
        )


def _check_complete(folder: Path, info: dict[str, Any]) -> None:
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, info[what]))
        if keys:
            raise DataError(f"{folder}: its weights have {len(keys)} {what.replace('_', ' ')}, among them {keys[0]}")


def _derived(dense: type, bases: tuple[type, ...], members: dict[str, Any]) -> Any:
    """Class `Pruned<dense>` in this module, where it can be found by name."""
    name = f"Pruned{dense.__name__}"
    cls = type(name, bases, {**members, "__module__": __name__, "__doc__": f"Extracted `{dense.__name__}`."})
    globals()[name] = cls
    return cls


register()
