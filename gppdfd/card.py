"""The model card (README.md) of a pruned model: what is left of it, and how to load it."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gppdfd.budget import parameters, sparsity
from gppdfd.factorise import embedding_rank
from gppdfd.pruned import FIELD, dense_classes, kept
from gppdfd.structure import PREFIX, Keep, Structure, adapter_for, structure_of

PIPELINES = {
    "AutoModel": "feature-extraction",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
}
"""Task of the hub by the Auto class that loads a model."""

TEMPLATE = """\
---
{header}---

# {title}

A `{model_type}` encoder made smaller by structured pruning with `gppdfd`: it is dense, only narrower, and runs \
without masks or special kernels.

```python
import gppdfd  # makes the Auto classes know pruned models
from transformers import {auto}

model = {auto}.from_pretrained("FOLDER_OR_NAME")
```

Without `import gppdfd`, transformers does not know the model type `{pruned_type}`. No remote code is run.

## Size

| parameters | dense | pruned | kept |
|---|---:|---:|---:|
{sizes}

Encoder sparsity: **{sparsity:.2f} %** (share of the weights and biases of the attention and FFN maps that was \
removed; embeddings, LayerNorms, pooler and head are outside). The whole model has {total:,} parameters.

## Structure

Hidden dims: {hidden} of {all_hidden}.{factorised} Of every layer:

| layer | heads | query and key dims | value dims | FFN dims |
|---:|---:|---:|---:|---:|
{layers}

An *emptied* sublayer keeps its output bias and LayerNorm, a *removed* one is skipped. Which units were kept is in \
`config.json` (`{field}`).
"""


def model_card(model: PreTrainedModel) -> str:
    """Text of README.md for a pruned `model`, with front matter for the hub; never with a path of this machine."""
    structure, keep, rank = structure_of(model), kept(model), embedding_rank(model)
    model_type = model.config.model_type.removeprefix(PREFIX)
    auto = _auto_class(model, model_type)
    base = _hub_name(model.config.name_or_path)
    rows = [_layer_row(structure, keep, layer) for layer in range(structure.layers)]
    return TEMPLATE.format(
        header=_header(PIPELINES[auto], base),
        title=f"Pruned {base or model_type}",
        model_type=model_type,
        pruned_type=model.config.model_type,
        auto=auto,
        sizes="\n".join(_size_rows(model, structure, keep)),
        sparsity=100 * sparsity(structure, keep),
        total=model.num_parameters(),
        hidden=int(keep["hidden"].sum()),
        all_hidden=structure.hidden,
        factorised=f" The word embeddings are a product of rank {rank}." if rank else "",
        layers="\n".join(rows),
        field=FIELD,
    )


def _header(pipeline: str, base: str | None) -> str:
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": ["pruned", "gppdfd"],
    }
    if base is not None:
        header["base_model"] = base
    return yaml.safe_dump(header, sort_keys=False)


def _hub_name(name: str) -> str | None:
    """`name` if it can only be a model on the hub: `owner/name` or `name`, and nothing of that name on this machine."""
    part = r"[A-Za-z0-9][\w.-]*"
    return name if re.fullmatch(rf"{part}(/{part})?", name) and not Path(name).exists() else None


def _auto_class(model: PreTrainedModel, model_type: str) -> str:
    """Name of the Auto class that loads `model`."""
    return next(auto.__name__ for dense, auto in dense_classes(model_type).items() if isinstance(model, dense))


def _size_rows(model: PreTrainedModel, structure: Structure, keep: Keep) -> list[str]:
    adapter = adapter_for(model)
    # The part of one sublayer is what is left when the other is removed everywhere.
    nothing = torch.zeros(structure.layers, dtype=torch.bool)
    parts: dict[str, Keep] = {"attention": {"ffn_layer": nothing}, "FFN": {"mha_layer": nothing}, "encoder": {}}
    counts = {name: (parameters(structure, part), parameters(structure, keep | part)) for name, part in parts.items()}
    counts["embeddings"] = adapter.embedding_parameters(_dense(model)), adapter.embedding_parameters(model)
    return [f"| {name} | {dense:,} | {left:,} | {100 * left / dense:.2f} % |" for name, (dense, left) in counts.items()]


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """The model before it was pruned, without memory for its weights."""
    model_type = model.config.model_type.removeprefix(PREFIX)
    values = {key: value for key, value in model.config.to_dict().items() if key not in (FIELD, "model_type")}
    config: PretrainedConfig = CONFIG_MAPPING[model_type](**values)
    dense = next(dense for dense in dense_classes(model_type) if isinstance(model, dense))
    with torch.device("meta"):
        return dense(config)


def _layer_row(structure: Structure, keep: Keep, layer: int) -> str:
    return f"| {layer} | {_attention_cells(structure, keep, layer)} | {_ffn_cell(structure, keep, layer)} |"


def _attention_cells(structure: Structure, keep: Keep, layer: int) -> str:
    heads = int(keep["head"][layer].sum())
    if not heads:
        return f"{_gone(bool(keep['mha_layer'][layer]))} | 0 | 0"
    queries, values = int(keep["qk"][layer].sum()) * structure.pair, int(keep["vo"][layer].sum())
    return f"{heads} of {structure.heads} | {queries} | {values}"


def _ffn_cell(structure: Structure, keep: Keep, layer: int) -> str:
    dims = int(keep["ffn"][layer].sum())
    return f"{dims} of {structure.intermediate}" if dims else _gone(bool(keep["ffn_layer"][layer]))


def _gone(there: bool) -> str:
    return "emptied" if there else "removed"
