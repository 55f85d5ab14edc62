"""Token ids of a task: made once, kept on disk, cut into batches of similar length."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gppdfd.errors import UsageError
from gppdfd.files import canonical_json, hash_text, write_atomically
from gppdfd.tasks.base import Batch, Split, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FORMAT = 1  # part of every cache key: raise it when tokens or their layout change
POOL_BATCHES = 50  # batches that are sorted by length together
CHUNK_ROWS = 10_000  # rows given to the tokenizer at once, bounds memory
PARTS = ("tokens", "types", "offsets")
_EVALUATION = "evaluation."  # before the names of evaluation splits in a cache file


@dataclass(frozen=True)
class Encoded:
    """Token ids of one split, without padding.

    Attributes:
        tokens: int32 [all tokens], the examples one after the other.
        types: uint8 [all tokens], token types: 0 first text, 1 second text; 0 where the tokenizer has none.
        offsets: int64 [examples + 1], where each example starts in `tokens`; the last one is the end.
        labels: int64 or float32 [examples].
        pad: token id used for padding.
    """

    tokens: Tensor
    types: Tensor
    offsets: Tensor
    labels: Tensor
    pad: int

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens per example, int64 [examples]."""
        return self.offsets.diff()

    def batch(self, indices: Tensor) -> Batch:
        """The examples at `indices` (int64 [batch]), padded on the right to the longest of them."""
        lengths = self.lengths[indices, None]  # [batch, 1]
        columns = torch.arange(int(lengths.max()))  # [longest]
        inside = columns < lengths  # [batch, longest]
        places = (self.offsets[indices, None] + columns).clamp_(max=len(self.tokens) - 1)
        return Batch(
            input_ids=self.tokens[places].long().masked_fill_(~inside, self.pad),
            attention_mask=inside.long(),
            token_type_ids=self.types[places].long().masked_fill_(~inside, 0),
            labels=self.labels[indices],
            examples=indices,
        )


@dataclass(frozen=True)
class EncodedTask:
    """Token ids of all splits of a task; `key` is the hash of everything that they depend on."""

    train: Encoded
    evaluations: Mapping[str, Encoded]
    key: str


def encode(
    data: TaskData, tokenizer: "PreTrainedTokenizerBase", max_length: int, cache: Path | None = None
) -> EncodedTask:
    """Tokenise all splits, or read them from the cache.

    Args:
        data: the task.
        tokenizer: a fast tokenizer.
        max_length: longest example in tokens, special ones included; of a longer one the longer text is cut.
        cache: folder for tokenised data, named by content, so that any number of processes may share it.

    Raises:
        UsageError: the tokenizer is not a fast one, or `max_length` is out of its range.
    """
    _check(tokenizer, max_length)
    key = _key(data, tokenizer, max_length)
    splits = {"train": data.train, **{_EVALUATION + name: split for name, split in data.evaluations.items()}}
    file = cache / f"{data.spec.name}-{key[:16]}.safetensors" if cache else None
    arrays = _read_cache(file)
    if arrays is None:
        arrays = _tokenise_all(splits, tokenizer, max_length)
        _write_cache(file, arrays)
    encoded = {name: _encoded(arrays, name, split, _padding(tokenizer)) for name, split in splits.items()}
    return EncodedTask(encoded["train"], {name: encoded[_EVALUATION + name] for name in data.evaluations}, key)


def epoch_batches(encoded: Encoded, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Every example once, in random batches of similar length; one is smaller if the rows do not divide.

    The rows are shuffled and cut into pools of `POOL_BATCHES` batches; each pool is sorted by length and cut
    into batches, and the batches are shuffled.
    """
    _check_batch_size(batch_size)
    order = torch.randperm(len(encoded), generator=generator)
    pools = order.split(batch_size * POOL_BATCHES)
    batches = [batch for pool in pools for batch in _by_length(encoded, pool).split(batch_size)]
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def ordered_batches(encoded: Encoded, batch_size: int) -> list[Tensor]:
    """Every example once, sorted by length: for evaluation. Longest first, so that memory only shrinks."""
    _check_batch_size(batch_size)
    return list(_by_length(encoded, torch.arange(len(encoded))).flip(0).split(batch_size))


def _by_length(encoded: Encoded, examples: Tensor) -> Tensor:
    return examples[encoded.lengths[examples].argsort(stable=True)]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")


def _check(tokenizer: "PreTrainedTokenizerBase", max_length: int) -> None:
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise UsageError(f"{kind} is no fast tokenizer: give a model folder with tokenizer.json")
    least, most = tokenizer.num_special_tokens_to_add(pair=True) + 2, tokenizer.model_max_length
    if not least <= max_length <= most:
        raise UsageError(f"max_length must be from {least} to {most} for this tokenizer, got {max_length}")


def _padding(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Padding is masked, so a tokenizer without a padding token (GPT-2) may use any id."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _key(data: TaskData, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> str:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for changing in ("truncation", "padding"):  # left behind by earlier calls, set anew by ours
        state.pop(changing, None)
    names, side = tokenizer.model_input_names, tokenizer.truncation_side
    return hash_text(canonical_json([FORMAT, data.content, max_length, names, side, state]))


def _tokenise_all(
    splits: Mapping[str, Split], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> dict[str, np.ndarray]:
    """Arrays of all splits under `<split>/<part>`, as they lie in the cache."""
    return {
        f"{name}/{part}": array
        for name, split in splits.items()
        for part, array in _tokenise(split, tokenizer, max_length).items()
    }


def _tokenise(split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> dict[str, np.ndarray]:
    """`tokens`, `types` and `offsets` of one split, as in `Encoded`."""
    tokens, types, lengths = [], [], [np.zeros(1, np.int64)]
    for ids, kinds in _chunks(split, tokenizer, max_length):
        lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
        tokens.append(np.fromiter(chain.from_iterable(ids), np.int32))
        types.append(np.fromiter(chain.from_iterable(kinds), np.uint8))
    return {
        "tokens": np.concatenate(tokens),
        "types": np.concatenate(types),
        "offsets": np.concatenate(lengths).cumsum(),
    }


def _chunks(
    split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Token ids and token types (zeros where the tokenizer has none) of `CHUNK_ROWS` rows at a time."""
    for start in range(0, len(split), CHUNK_ROWS):
        texts = [column[start : start + CHUNK_ROWS] for column in split.texts]
        chunk = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        ids = chunk["input_ids"]
        yield ids, chunk.get("token_type_ids") or [[0] * len(tokens) for tokens in ids]


def _encoded(arrays: Mapping[str, np.ndarray], name: str, split: Split, pad: int) -> Encoded:
    tokens, types, offsets = (torch.from_numpy(arrays[f"{name}/{part}"]) for part in PARTS)
    return Encoded(tokens, types, offsets, torch.from_numpy(split.labels), pad)


def _write_cache(file: Path | None, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    if file is None:
        return
    try:
        write_atomically(file, lambda path: save_file(dict(arrays), path, {"sha256": _checksum(arrays)}))
    except OSError as error:  # a full or read-only disk costs time, not the run
        logger.warning("tokenised data cannot be kept in %s: %s", file, error)


def _read_cache(file: Path | None) -> dict[str, np.ndarray] | None:
    """The arrays in `file`, or `None` when it is absent or damaged."""
    from safetensors import SafetensorError, safe_open

    if file is None or not file.exists():
        return None
    try:
        with safe_open(file, framework="numpy") as stored:
            arrays: dict[str, Any] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            checksum = (stored.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError) as error:
        logger.warning("%s is damaged and made anew: %s", file, error)
        return None
    if checksum != _checksum(arrays):
        logger.warning("%s is damaged and made anew: its content has changed", file)
        return None
    return arrays


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape};".encode())
        total.update(arrays[name].tobytes())
    return total.hexdigest()
