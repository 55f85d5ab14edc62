"""Structure of a transformer encoder, and the seam that every architecture fills in.

An adapter says of every module that units cut what its outputs and inputs are (`Site`): queries, context, hidden dims
and so on. Masks in the forward pass, slicing, folding of soft masks and weight norms all follow from that one table, so
a new architecture is a table, and a new kind of unit touches no architecture.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from gppdfd.factorise import WIDENING, FactorisedEmbedding
from gppdfd.tasks.base import Batch

if TYPE_CHECKING:
    from gppdfd.structure.heads import Heads

Masks = dict[str, torch.Tensor]
"""Real values in [0, 1] by kind, in the shapes of `Structure.shape`; a missing kind is not masked."""

Keep = dict[str, torch.Tensor]
"""Final decision by kind: bool tensors of the same shapes; a missing kind is kept whole."""

KINDS = ("head", "qk", "vo", "ffn", "hidden", "mha_layer", "ffn_layer")
"""Structured kinds: extraction makes the model smaller by them."""

WEIGHT = "weight"
"""Single weights of the attention and FFN maps, in one flat tensor in the order of `Adapter.maps`; zeros stay zeros."""

Outputs = Literal["query", "key", "value", "query_key_value", "up", "gated_up", "attention", "ffn", "embedding", "norm"]
Inputs = Literal["hidden", "context", "activation"]


@dataclass(frozen=True)
class Structure:
    """Sizes of a uniform encoder.

    Attributes:
        pair: rows of a query or key that one `qk` unit owns: 2 with rotary embeddings, which turn pairs, else 1.
        gated: whether the FFN has two up projections, one of them a gate.
        qkv_bias, attention_bias, up_bias, down_bias: which linear maps have a bias.
    """

    layers: int
    hidden: int
    heads: int
    head_size: int
    intermediate: int
    pair: int = 1
    gated: bool = False
    qkv_bias: bool = True
    attention_bias: bool = True
    up_bias: bool = True
    down_bias: bool = True

    def shape(self, kind: str) -> tuple[int, ...]:
        """Shape of the masks of a kind: layers first, then heads, then the dims inside a head."""
        return {
            "head": (self.layers, self.heads),
            "qk": (self.layers, self.heads, self.head_size // self.pair),
            "vo": (self.layers, self.heads, self.head_size),
            "ffn": (self.layers, self.intermediate),
            "hidden": (self.hidden,),
            "mha_layer": (self.layers,),
            "ffn_layer": (self.layers,),
            WEIGHT: (self.weights,),
        }[kind]

    @property
    def weights(self) -> int:
        """Weights of all attention and FFN maps, without biases."""
        attention = 4 * self.hidden * self.heads * self.head_size
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.intermediate)

    def ones(self, kinds: tuple[str, ...], device: torch.device | None = None) -> Masks:
        """Masks that change nothing."""
        return {kind: torch.ones(self.shape(kind), device=device) for kind in kinds}

    def keep_all(self, kinds: tuple[str, ...] = ("head", "ffn")) -> Keep:
        """The keep of the dense model."""
        return {kind: torch.ones(self.shape(kind), dtype=torch.bool) for kind in kinds}

    def settled(self, keep: Keep) -> Keep:
        """`keep` with all kinds, without units that compute nothing: a head without values, dims of a removed head.

        Raises:
            ValueError: a kind is unknown or of another shape, or no hidden dim is left.
        """
        for kind, units in keep.items():
            if kind not in KINDS or units.shape != self.shape(kind):
                raise ValueError(f"keep of kind {kind!r} has shape {tuple(units.shape)}, not that of the structure")
        full = {**self.keep_all(KINDS), **{kind: units.bool().cpu() for kind, units in keep.items()}}
        if not full["hidden"].any():
            raise ValueError("no hidden dim is left")
        head = full["head"] & full["vo"].any(-1) & full["mha_layer"][:, None]
        return full | {
            "head": head,
            "qk": full["qk"] & head[..., None],
            "vo": full["vo"] & head[..., None],
            "ffn": full["ffn"] & full["ffn_layer"][:, None],
        }


@dataclass(frozen=True)
class Site:
    """What the output and input features of one module are; None: no unit owns them."""

    outputs: Outputs | None = None
    inputs: Inputs | None = None


@dataclass(frozen=True)
class Place:
    """A module of a model with its site.

    Attributes:
        path: its name in the model.
        layer: index of its transformer layer, None outside the layers.
        transposed: whether its weight is [inputs, outputs] (GPT-2's Conv1D) instead of [outputs, inputs].
    """

    path: str
    module: Any
    site: Site
    layer: int | None
    transposed: bool

    @property
    def output_dim(self) -> int:
        """Dimension of the weight that holds the output features."""
        return 1 if self.transposed or isinstance(self.module, nn.Embedding) else 0


@dataclass(frozen=True)
class Layer:
    """The parts of one transformer layer that are more than linear maps.

    `block` returns the hidden states of the layer. `attention_norm` and `ffn_norm` are the LayerNorms after each
    sublayer where the residual stream runs through them (post-LayerNorm); None where they come before it.
    """

    block: nn.Module
    attention_norm: nn.Module | None
    ffn_norm: nn.Module | None


class Adapter(ABC):
    """All knowledge about one family of architectures.

    Attributes:
        model_types: `config.model_type` of the dense models.
        tasks: heads whose pruned models load through transformers' `AutoModelFor...` classes.
        sentence: what a sequence classifier reads: the pooler's output, the first token or the last one.
        classifier: path of its last linear map, which gives the logits.
        pooler: name, in the bare model, of its pooler, which some heads do without; None: it has none.
        sites: by pattern of a module's name (`ClassName:path.of.module`), what its features are.
    """

    model_types: ClassVar[frozenset[str]]
    tasks: ClassVar[tuple[str, ...]] = (
        "SequenceClassification",
        "TokenClassification",
        "QuestionAnswering",
        "MaskedLM",
    )
    sentence: ClassVar[Literal["pooler", "first", "last"]]
    classifier: ClassVar[str]
    pooler: ClassVar[str | None] = None
    sites: ClassVar[Mapping[str, Site]]

    @abstractmethod
    def structure(self, config: PretrainedConfig) -> Structure:
        """Units of the dense model that `config` describes."""

    def longest_input(self, config: PretrainedConfig) -> int | None:
        """Tokens that a model of this config has positions for; None: any number."""
        return getattr(config, "max_position_embeddings", None)

    @abstractmethod
    def layers(self, model: nn.Module) -> list[Layer]:
        """Parts of every layer, in order."""

    @abstractmethod
    def embeddings(self, model: nn.Module) -> nn.Module:
        """Module whose output is hidden state 0."""

    def embedding_modules(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """Modules whose parameters tables count apart from the encoder."""
        base: Any = model.base_model
        return (base.embeddings,)

    def embedding_parameters(self, model: nn.Module) -> int:
        """Parameters of the embeddings."""
        return sum(weight.numel() for module in self.embedding_modules(model) for weight in module.parameters())

    @abstractmethod
    def set_heads(self, block: Any, count: int) -> None:
        """Tell the attention of `block` that its projections give `count` whole heads now."""

    @abstractmethod
    def set_layout(self, block: Any, heads: "Heads") -> None:
        """Replace the attention of `block` by one whose heads have sizes of their own."""

    @abstractmethod
    def remove_attention(self, block: Any) -> None:
        """Make the attention sublayer of `block` pass the hidden states on."""

    @abstractmethod
    def remove_ffn(self, block: Any) -> None:
        """Make the FFN sublayer of `block` pass the hidden states on."""

    def add_in_place(self, block: Any) -> None:
        """Make the sublayers of `block` add to the hidden states without a tensor of their own, where its code can."""
        return

    def places(self, model: nn.Module) -> Iterator[Place]:
        """Every module of `model` that units cut."""
        owner = type(model).__name__
        for path, module in model.named_modules():
            # Of a factorised embedding, the map has the site: the narrow table has no hidden dims.
            site = self._site(f"{owner}:{path.removesuffix(f'.{WIDENING}')}")
            if site is None or isinstance(module, FactorisedEmbedding):
                continue
            if getattr(module, "weight", None) is not None:
                yield Place(path, module, site, _layer_index(path), isinstance(module, Conv1D))

    def maps(self, model: nn.Module) -> list[Place]:
        """The attention and FFN maps of all layers, whose parameters sparsity is counted over."""
        return [place for place in self.places(model) if place.layer is not None and place.site.outputs != "norm"]

    def inputs(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Keyword arguments of the model's forward."""
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def _site(self, name: str) -> Site | None:
        return next((site for pattern, site in self.sites.items() if re.search(pattern, name)), None)


def _layer_index(path: str) -> int | None:
    match = re.search(r"\.(\d+)\.", f".{path}.")
    return int(match[1]) if match else None
