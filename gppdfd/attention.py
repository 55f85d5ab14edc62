"""Self-attention of an extracted layer whose heads have sizes of their own.

The weights hold exactly the rows that were kept. In the forward pass they are padded to the layout of
`gppdfd.structure.heads` (a copy of a few small rows, far cheaper than padding activations), queries, keys and values
come from one product, and each group of heads is handed to the attention function that the model is configured for.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from gppdfd.padding import Constant, Padding, change_forward, filled, outputs_first, pad_inputs, without_inputs
from gppdfd.structure.heads import Group, Heads
from gppdfd.structure.passing import count_tokens

Rotate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Turns queries or keys [batch, heads, tokens, width] by the angles of the units [heads, width / 2] of each."""


class Layout:
    """Where the kept rows of queries, keys and values go, and how the groups of heads are attended.

    Args:
        heads: the kept heads.
        projections: names, in the attention module, of what gives queries, keys and values: one each or one for all.

    `observer`, where set, is handed the kept queries, keys and values [batch, tokens, rows], side by side.
    """

    def __init__(self, heads: Heads, *projections: str) -> None:
        self.heads, self._projections = heads, projections
        self._pad = Padding(_projection_rows(heads), 2 * sum(heads.qk) + sum(heads.vo))
        order = [head for group in self._all for head in group.heads]
        self._order = Constant(torch.tensor(order).argsort() if order else torch.tensor(order))
        self._units = [Constant(torch.tensor(_turned(heads, group))) for group in heads.groups]
        self.observer: Callable[[torch.Tensor], None] | None = None

    def attend(
        self,
        module: nn.Module,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        rotate: Rotate | None = None,
        cache: Any = None,
        **settings: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context of all heads [batch, tokens, padded dims] and, from eager attention, weights in the heads' order.

        Args:
            module: the attention module, which has the projections, and which the attention function asks for settings.
            cache: keys and values of earlier tokens, as in transformers.
        """
        if not self.heads:
            return self._nothing(module, hidden_states, cache), None
        query, key, value = self._projected(module, hidden_states)
        if cache is not None:
            stored = key if self.heads.groups else value  # a cache of empty keys would count no tokens
            key, value = (part.squeeze(1) for part in cache.update(stored[:, None], value[:, None], module.layer_idx))
        config: Any = module.config
        function = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
        outcomes = [
            function(module, *states, attention_mask, **settings) for states in self._grouped(query, key, value, rotate)
        ]
        if self.heads.averaging:
            averaged = value[:, None, :, self.heads.attending_size :]
            if _means_follow(module, query, attention_mask):
                outcomes.append((_mean(averaged, query.shape[1], attention_mask), None))
            else:
                outcomes.append(function(module, *_without_queries(query, averaged), attention_mask, **settings))
        contexts = [context.flatten(2) for context, _ in outcomes]
        context = contexts[0] if len(contexts) == 1 else torch.cat(contexts, -1)
        return context, self._ordered([weights for _, weights in outcomes])

    def _nothing(self, module: Any, hidden_states: torch.Tensor, cache: Any) -> torch.Tensor:
        """Context of no heads; the cache counts the tokens all the same."""
        if cache is not None:
            count_tokens(cache, hidden_states, module.layer_idx)
        return hidden_states[..., :0]

    @property
    def _all(self) -> list[Group]:
        return [*self.heads.groups, *filter(None, [self.heads.averaging])]

    def _projected(self, module: nn.Module, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys [batch, tokens, attending dims] and values [batch, tokens, attending + averaged dims]."""
        size = self.heads.attending_size
        projections: list[Any] = [getattr(module, name) for name in self._projections]
        if _one_product(projections):
            weight = self._pad(torch.cat([outputs_first(projection) for projection in projections]))
            biases = [projection.bias for projection in projections]
            projected = linear(hidden_states, weight, None if biases[0] is None else self._pad(torch.cat(biases)))
        else:
            projected = self._pad.outputs(torch.cat([projection(hidden_states) for projection in projections], -1))
        if self.observer is not None:
            self.observer(self._pad.taken_out(projected))
        return projected.split([size, size, size + self.heads.averaged_size], -1)

    def _grouped(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate | None
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Query, key and value [batch, heads, tokens, width] of each group of heads that attend."""
        start = 0
        for index, group in enumerate(self.heads.groups):
            part = slice(start, start + group.size)
            states = [
                whole[..., part].unflatten(-1, (-1, group.width)).transpose(1, 2) for whole in (query, key, value)
            ]
            if rotate is not None:
                units = self._units[index].on(query.device)
                states[:2] = [rotate(state, units) for state in states[:2]]
            yield tuple(states)
            start += group.size

    def _ordered(self, weights: list[torch.Tensor | None]) -> torch.Tensor | None:
        if any(part is None for part in weights):
            return None
        wide = [part.expand(-1, len(group.heads), -1, -1) for part, group in zip(weights, self._all, strict=True)]  # type: ignore[union-attr]
        return torch.cat(wide, 1).index_select(1, self._order.on(wide[0].device))


def lay_out(attention: nn.Module, output: nn.Module, layout: Layout, forward: Callable) -> None:
    """Make `attention` run `forward` with `layout`, and its `output` projection take the padded context."""
    attention.layout = layout  # type: ignore[assignment]
    change_forward(attention, forward, "Grouped")
    if not layout.heads:
        without_inputs(output)
        return
    values = sum(layout.heads.vo)
    pad_inputs(output, Padding(_value_places(layout.heads, 0, values), values))


def _one_product(projections: list[Any]) -> bool:
    """Whether the weights of the projections are all there is to them; others (adapters, quantised ones) are called."""
    return all(map(_plain, projections)) and len({projection.bias is None for projection in projections}) == 1


def _plain(projection: Any) -> bool:
    """Whether nobody listens to a linear map or computes beside it: pruning masks and offloading come as hooks."""
    return type(projection) in (nn.Linear, Conv1D) and not (
        projection._forward_hooks
        or projection._forward_pre_hooks
        or projection._backward_hooks
        or projection._backward_pre_hooks
        or "forward" in projection.__dict__
    )


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain products: context [batch, tokens, heads, width] and weights [batch, heads, tokens, tokens]."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.dropout(scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)), dropout, True)
    weights = weights.to(value.dtype)
    return (weights @ value).transpose(1, 2), weights


def _means_follow(module: Any, query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether heads without queries need no softmax: the mask says which tokens they average over, without weights."""
    if module.config._attn_implementation != "sdpa" or module.training:
        return False
    if mask is not None:
        return mask.dtype == torch.bool
    return query.shape[1] == 1 or not getattr(module, "is_causal", True)


def _mean(value: torch.Tensor, tokens: int, mask: torch.Tensor | None) -> torch.Tensor:
    """Context [batch, tokens, 1, width] of values [batch, 1, keys, width]: their mean over what each token may see."""
    if mask is None:
        # A few dims in memory of their own: the output projection is slower on one row for all tokens.
        return value.mean(2, keepdim=True).expand(-1, -1, tokens, -1).transpose(1, 2).contiguous()
    seen = mask.to(value.dtype)
    # Like the softmax of torch, zeros where nothing is seen.
    return (seen / seen.sum(-1, keepdim=True).clamp(min=1) @ value).transpose(1, 2)


def _without_queries(query: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value by which an attention function averages values [batch, 1, keys, width]."""
    nothing = value.new_zeros(query.shape[0], 1, query.shape[1], value.shape[-1])
    return nothing, torch.zeros_like(value), value


def _projection_rows(heads: Heads) -> list[int]:
    """For each padded row of queries, keys and values, the row of the kept ones, or their number for a row of zeros."""
    queries, values = sum(heads.qk), sum(heads.vo)
    zero = 2 * queries + values
    halves = [rows // heads.pair for rows in heads.qk]
    rows = []
    for section in (0, queries):
        starts = list(accumulate(heads.qk, initial=section))
        for group in heads.groups:
            for head in group.heads:
                # A rotary head is two halves, its pairs' first and second rows, and each half is padded on its own.
                for half in range(heads.pair):
                    first = starts[head] + half * halves[head]
                    rows += filled(range(first, first + halves[head]), group.width // heads.pair, zero)
    return rows + _value_places(heads, 2 * queries, zero)


def _value_places(heads: Heads, section: int, zero: int) -> list[int]:
    starts = list(accumulate(heads.vo, initial=section))
    places = []
    for group in heads.groups:
        for head in group.heads:
            places += filled(range(starts[head], starts[head + 1]), group.width, zero)
    if heads.averaging:
        together = [place for head in heads.averaging.heads for place in range(starts[head], starts[head + 1])]
        places += filled(together, heads.averaging.width, zero)
    return places


def _turned(heads: Heads, group: Group) -> list[list[int]]:
    """By head of a group, the `qk` unit of each padded dim of half a head."""
    half = group.width // heads.pair
    return [filled(heads.units[head], half, 0) for head in group.heads]
