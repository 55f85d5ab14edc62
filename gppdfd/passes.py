"""Forward passes to be measured: random inputs, the whole model or its layers alone, in a defined state.

No module of an architecture is named here: the layers are those of `adapter_for`, and they are run with the arguments
that the model itself gave them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from gppdfd.seeds import generator
from gppdfd.structure import adapter_for
from gppdfd.tasks.base import Batch

Forward = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """Sequences per batch and tokens per sequence."""

    batch: int
    length: int


@contextmanager
def prepared(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, without a cache of keys and values; afterwards as it was."""
    training, cached = model.training, getattr(model.config, "use_cache", False)
    model.eval()
    if cached:
        model.config.use_cache = False
    try:
        yield
    finally:
        model.train(training)
        if cached:
            model.config.use_cache = cached


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model under plain matrix products, which torch's FLOP counter sees; afterwards as it was."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def longest_input(model: PreTrainedModel | PretrainedConfig) -> int:
    """Tokens that a model, or one of this config, has positions for."""
    config = model if isinstance(model, PretrainedConfig) else model.config
    return adapter_for(config).longest_input(config) or 2**31


def random_inputs(model: PreTrainedModel, shape: Shape) -> dict[str, torch.Tensor]:
    """Keyword arguments of the model's forward: random tokens, none of them padding."""
    config = model.config
    drawn = torch.randint(config.vocab_size - 1, (shape.batch, shape.length), generator=generator(0, "measure"))
    ids = drawn + (drawn >= (config.pad_token_id or 0))
    rows = torch.arange(shape.batch)
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), labels=rows, examples=rows)
    return dict(adapter_for(model).inputs(batch.to(model.device)))


def forward_pass(model: PreTrainedModel, shape: Shape) -> Forward:
    """The whole model on random tokens."""
    inputs = random_inputs(model, shape)
    return lambda: model(**inputs)


def encoder_pass(model: PreTrainedModel, shape: Shape) -> Forward:
    """The layers alone, on what the embeddings made of random tokens; returns hidden states [batch, length, hidden].

    The embeddings run once, here; the layers are called as the model called them.
    """
    calls = _layer_calls(model, forward_pass(model, shape))

    def run() -> torch.Tensor:
        states: torch.Tensor = calls[0].states
        for call in calls:
            states = call(states)
        return states

    return run


@dataclass(frozen=True)
class LayerCall:
    """How the model called a layer: the hidden states come first, the rest is the same in every run."""

    block: nn.Module
    states: torch.Tensor
    rest: tuple[Any, ...]
    named: Mapping[str, Any]

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        output = self.block(states, *self.rest, **self.named)
        return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def _layer_calls(model: PreTrainedModel, forward: Forward) -> list[LayerCall]:
    calls: list[LayerCall] = []

    def note(block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append(LayerCall(block, args[0], args[1:], named))

    layers = adapter_for(model).layers(model)
    handles = [layer.block.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls
