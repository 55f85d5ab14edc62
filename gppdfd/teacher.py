"""The teacher's outputs for a whole training set, computed once and looked up per batch.

A teacher in evaluation mode says the same about an example in every epoch. The cache is filled in one canonical pass
(sorted by length, fixed batch size), so its bits do not depend on who filled it, and it is kept for the next student of
the same teacher in this process.
"""

from weakref import WeakKeyDictionary

import torch
from torch import nn

from gppdfd.errors import UsageError
from gppdfd.structure import structure_of
from gppdfd.tasks.base import Batch
from gppdfd.tasks.encoding import Encoded, ordered_batches
from gppdfd.views import View, Viewer

BATCH_SIZE = 64
LIMIT = 8 * 2**30
"""Bytes that a cache may take."""

PER_TOKEN = ("hidden_states", "queries", "keys", "values")
"""Fields of a view with a tensor per layer and an entry per token."""

_Key = tuple[int, frozenset[str], str]
_caches: WeakKeyDictionary[nn.Module, dict[_Key, "TeacherCache"]] = WeakKeyDictionary()


class TeacherCache:
    """Logits and sentences by example, and per layer what there is of each real token (hidden states, projections)."""

    def __init__(self, live: Viewer, train: Encoded, device: torch.device) -> None:
        order = ordered_batches(train, BATCH_SIZE)
        views = [(batch, live(batch)) for batch in (train.batch(indices).to(device) for indices in order)]
        self._examples = torch.cat(order).to(device)
        self.train = train  # held so that its identity stays its own
        self._logits = self._by_example([view.logits for _, view in views])
        sentences = [view.sentence for _, view in views if view.sentence is not None]
        self._sentences = self._by_example(sentences) if sentences else None
        self._tokens = {name: _joined([_real_tokens(view, name) for _, view in views]) for name in PER_TOKEN}
        lengths = torch.cat([batch.attention_mask.sum(1) for batch, _ in views])
        self._starts = self._by_example([lengths.cumsum(0) - lengths])
        self._there = views[0][1].there

    def __call__(self, batch: Batch) -> View:
        """View of a batch; values at padding positions are undefined."""
        columns = torch.arange(batch.input_ids.shape[1], device=batch.examples.device)
        places = self._starts[batch.examples][:, None] + columns
        states = {name: tuple(_at(layer, places, name) for layer in layers) for name, layers in self._tokens.items()}
        sentence = None if self._sentences is None else self._sentences[batch.examples]
        return View(
            logits=self._logits[batch.examples],
            attention_mask=batch.attention_mask,
            sentence=sentence,
            there=self._there,
            **states,
        )

    def _by_example(self, parts: list[torch.Tensor]) -> torch.Tensor:
        found = torch.cat(parts)
        return torch.empty_like(found).index_copy_(0, self._examples, found)


def _real_tokens(view: View, name: str) -> list[torch.Tensor]:
    """Per layer [tokens, ...] of the real tokens; projections have their tokens behind the heads."""
    mask = view.attention_mask.bool()
    return [_tokens_first(layer, name)[mask] for layer in getattr(view, name)]


def _tokens_first(states: torch.Tensor, name: str) -> torch.Tensor:
    """Between [batch, heads, tokens, dims] and [batch, tokens, heads, dims]; hidden states have no heads."""
    return states if name == "hidden_states" else states.transpose(1, 2)


def _joined(views: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(layer) for layer in zip(*views, strict=True)]


def _at(layer: torch.Tensor, places: torch.Tensor, name: str) -> torch.Tensor:
    return _tokens_first(layer[places.clamp(max=len(layer) - 1)], name)


def cached_views(
    live: Viewer, teacher: nn.Module, train: Encoded, needs: frozenset[str], device: torch.device, precision: str
) -> Viewer:
    """Cache of `teacher` over `train`, from an earlier student of the same process if there was one.

    Raises:
        UsageError: it would take more than 8 GiB.
    """
    caches = _caches.setdefault(teacher, {})
    key = (id(train), needs, precision)
    if key not in caches:
        _check_size(teacher, train, needs)
        caches[key] = TeacherCache(live, train, device)
    return caches[key]


def _check_size(teacher: nn.Module, train: Encoded, needs: frozenset[str]) -> None:
    structure = structure_of(teacher)
    per_token = (structure.layers + 1) * structure.hidden if "hidden_states" in needs else 0
    if "projections" in needs:
        per_token += 3 * structure.layers * structure.heads * structure.head_size
    size = 4 * per_token * len(train.tokens)
    if size > LIMIT:
        raise UsageError(
            f"the teacher's outputs would take {size / 2**30:.0f} GiB: set training.cache_teacher to false"
        )
