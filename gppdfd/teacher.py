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

_Key = tuple[int, frozenset[str], str]
_caches: WeakKeyDictionary[nn.Module, dict[_Key, "TeacherCache"]] = WeakKeyDictionary()


class TeacherCache:
    """Logits by example [examples, classes] and, per layer, hidden states of all real tokens [tokens, hidden]."""

    def __init__(self, live: Viewer, train: Encoded, device: torch.device) -> None:
        order = ordered_batches(train, BATCH_SIZE)
        views = [(batch, live(batch)) for batch in (train.batch(indices).to(device) for indices in order)]
        examples = torch.cat(order).to(device)
        logits = torch.cat([view.logits for _, view in views])
        self._logits = torch.empty_like(logits).index_copy_(0, examples, logits)
        self.train = train  # held so that its identity stays its own
        self._states = [torch.cat(states) for states in zip(*(_real_tokens(view) for _, view in views), strict=True)]
        lengths = torch.cat([batch.attention_mask.sum(1) for batch, _ in views])
        starts = lengths.cumsum(0) - lengths
        self._starts = torch.empty_like(starts).index_copy_(0, examples, starts)

    def __call__(self, batch: Batch) -> View:
        """View of a batch; values at padding positions are undefined."""
        places = self._starts[batch.examples][:, None] + torch.arange(
            batch.input_ids.shape[1], device=batch.examples.device
        )
        states = tuple(layer[places.clamp(max=len(layer) - 1)] for layer in self._states)
        return View(self._logits[batch.examples], states, batch.attention_mask)


def _real_tokens(view: View) -> list[torch.Tensor]:
    mask = view.attention_mask.bool()
    return [states[mask] for states in view.hidden_states]


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
    layers = structure.layers + 1 if "hidden_states" in needs else 0
    size = 4 * layers * structure.hidden * len(train.tokens)
    if size > LIMIT:
        raise UsageError(
            f"the teacher's outputs would take {size / 2**30:.0f} GiB: set training.cache_teacher to false"
        )
