"""What a distiller sees of a model: one view, the same for the masked and for the extracted student."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gppdfd.masks import current_masks
from gppdfd.projections import Projections
from gppdfd.pruned import PrunedModel, kept
from gppdfd.structure import Keep, Masks, adapter_for, structure_of
from gppdfd.tasks.base import Batch

THERE = ("head", "mha_layer", "ffn_layer")


@dataclass(frozen=True)
class View:
    """Outputs of one forward pass, in float32 or wider; all but `logits` and `there` only where they are needed.

    Attributes:
        logits: [batch, classes], or [batch, 1] for regression.
        hidden_states: embedding output first, then one [batch, tokens, hidden] per original layer, removed dims 0.
        attention_mask: int64 [batch, tokens], 1 at real tokens.
        queries, keys, values: [batch, heads, tokens, head_size] per original layer, removed units 0.
        sentence: [batch, dims], what the last linear map of the classifier reads, in training mode after dropout.
        there: what is left of each layer: bool `head` [layers, heads], `mha_layer` and `ffn_layer` [layers].
    """

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    attention_mask: torch.Tensor
    queries: tuple[torch.Tensor, ...] = ()
    keys: tuple[torch.Tensor, ...] = ()
    values: tuple[torch.Tensor, ...] = ()
    sentence: torch.Tensor | None = None
    there: Keep = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """0-based original layers that still have their attention or their FFN."""
        return existing_layers(self.there)


class Observed:
    """A model called on batches, giving views; only what `needs` names is collected."""

    def __init__(self, model: nn.Module, needs: frozenset[str] = frozenset()) -> None:
        self.model = model
        self._adapter = adapter_for(model)
        self._kept = kept(model) if isinstance(model, PrunedModel) else None
        self._hidden = _kept_hidden(self._kept, model)
        left = self._kept or structure_of(model).keep_all(THERE)
        self._whole = {kind: left[kind].to(_device(model)) for kind in THERE}
        self._states: list[torch.Tensor] = []
        self._sentence: torch.Tensor | None = None
        self._handles: list[RemovableHandle] = []
        if "hidden_states" in needs:
            blocks = [layer.block for layer in self._adapter.layers(model)]
            for module in (self._adapter.embeddings(model), *blocks):
                self._handles.append(module.register_forward_hook(self._collect))
        if "sentence" in needs:
            classifier = model.get_submodule(self._adapter.classifier)
            self._handles.append(classifier.register_forward_pre_hook(self._collect_sentence))
        self._projections = Projections(model, self._kept) if "projections" in needs else None

    def __call__(self, batch: Batch) -> View:
        self._forget()  # the model may have run on its own since
        logits = self.model(**self._adapter.inputs(batch)).logits
        masks = current_masks(self.model)
        view = View(
            logits=_at_least_float32(logits),
            hidden_states=tuple(map(_at_least_float32, self._states)),
            attention_mask=batch.attention_mask,
            sentence=self._sentence_of(batch),
            there=self._there(masks),
        )
        if self._projections is not None:
            found = self._projections.taken(masks, batch.input_ids[..., None].to(logits.dtype))
            queries, keys, values = (tuple(map(_at_least_float32, part)) for part in found)
            view = replace(view, queries=queries, keys=keys, values=values)
        self._forget()
        return view

    def remove(self) -> None:
        """Take the hooks out again, and forget what they collected."""
        for handle in self._handles:
            handle.remove()
        if self._projections is not None:
            self._projections.remove()
        self._forget()

    def _forget(self) -> None:
        self._states.clear()
        self._sentence = None
        if self._projections is not None:
            self._projections.clear()

    def _collect(self, module: nn.Module, inputs: Any, output: Any) -> None:
        states = output if isinstance(output, torch.Tensor) else output[0]
        self._states.append(states if self._hidden is None else _scattered(states, self._hidden))

    def _collect_sentence(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._sentence = inputs[0]

    def _sentence_of(self, batch: Batch) -> torch.Tensor | None:
        if self._sentence is None:
            return None
        states = _at_least_float32(self._sentence)
        if states.ndim == 3:  # every token is classified, and the logits of the last real one count
            states = states[torch.arange(len(states), device=states.device), batch.attention_mask.sum(1) - 1]
        narrower = self._hidden is not None and states.shape[-1] == int(self._hidden.sum())
        return _scattered(states, self._hidden) if narrower else states  # type: ignore[arg-type]

    def _there(self, masks: Masks) -> Keep:
        if not any(kind in masks for kind in (*THERE, "vo")):
            return self._whole
        left = {kind: masks[kind] != 0 for kind in (*THERE, "vo") if kind in masks}
        there = self._whole | {kind: units for kind, units in left.items() if kind in THERE}
        values = left["vo"].any(-1) if "vo" in left else there["head"]
        return there | {"head": there["head"] & values & there["mha_layer"][:, None]}


def existing_layers(there: Keep) -> list[int]:
    """0-based layers that still have their attention or their FFN; `there` as in `View`."""
    return (there["mha_layer"] | there["ffn_layer"]).nonzero().flatten().tolist()


def matched_layers(students: int, teachers: int) -> list[int]:
    """0-based teacher layer for each student layer: g(m) = ceil(m * teachers / students) for m = 1..students."""
    return [math.ceil(m * teachers / students) - 1 for m in range(1, students + 1)]


def layer_fractions(layers: Sequence[int], count: int, written_for: int = 12) -> list[int]:
    """0-based layers of a model of `count` layers for a list written for 12: ceil(i * count / 12), once each.

    CoFi's 3, 6, 9, 12 become 2, 3, 5, 6 of 6 layers and 1, 2, 3, 4 of 4 (counted from 1).
    """
    return sorted({math.ceil(layer * count / written_for) - 1 for layer in layers})


Viewer = Callable[[Batch], View]


def _kept_hidden(keep: Keep | None, model: nn.Module) -> torch.Tensor | None:
    """bool [hidden] of an extracted model that lost hidden dims."""
    hidden = keep["hidden"] if keep is not None else None
    return None if hidden is None or hidden.all() else hidden.to(_device(model))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _scattered(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """States at the original width, zeros where dims were removed: [..., kept dims] -> [..., hidden]."""
    wide = states.new_zeros(*states.shape[:-1], len(kept))
    wide[..., kept] = states
    return wide


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
