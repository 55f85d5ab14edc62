"""Tokenised tasks: right tokens, a cache that can be trusted, batches that waste nothing and lose nothing."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gppdfd.errors import UsageError
from gppdfd.tasks import encoding
from gppdfd.tasks.base import Split, TaskData
from gppdfd.tasks.encoding import Encoded, encode, epoch_batches, ordered_batches
from gppdfd.tasks.glue import GLUE
from gppdfd.tasks.rows import content_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]
PAD, CLS, SEP = 0, 2, 3


def _tokenizer(types: bool = True, words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """BERT's form of input over nine words."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"]
        if types
        else ["input_ids", "attention_mask"],
    )


def _data(task: str = "mrpc", rows: int = 40) -> TaskData:
    random, spec = np.random.default_rng(0), GLUE[task]
    texts = tuple(
        [" ".join(random.choice(WORDS[4:], random.integers(1, 12))) for _ in range(rows)] for _ in spec.columns
    )
    labels = random.uniform(0, 5, rows).astype(np.float32) if spec.regression else random.integers(2, size=rows)
    train = Split(texts, labels, np.arange(rows))
    validation = Split(tuple(column[::2] for column in texts), labels[::2].copy(), np.arange(rows)[::2])
    content = content_of(spec, {"train": train, "validation": validation})
    return TaskData(spec, train, {"validation": validation}, content, "test")


def _encoded(lengths: list[int]) -> Encoded:
    """Examples of given lengths; every token of example i is i + 1."""
    sizes = torch.tensor(lengths)
    tokens = torch.arange(1, len(lengths) + 1, dtype=torch.int32).repeat_interleave(sizes)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    return Encoded(tokens, torch.ones_like(tokens, dtype=torch.uint8), offsets, sizes.float(), PAD)


@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb"])
@pytest.mark.parametrize("max_length", [9, 64])
def test_batches_equal_the_tokenizers_own_padding(task: str, max_length: int) -> None:
    data, tokenizer = _data(task), _tokenizer()
    split = encode(data, tokenizer, max_length).train
    indices = torch.tensor([3, 39, 0, 17])
    batch = split.batch(indices)
    texts = [[column[row] for row in indices.tolist()] for column in data.train.texts]
    expected = tokenizer(*texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(getattr(batch, name), expected[name]), name
        assert getattr(batch, name).dtype == torch.long
    assert batch.labels.tolist() == data.train.labels[indices].tolist()
    assert batch.labels.dtype == (torch.float32 if task == "stsb" else torch.int64)
    assert batch.examples.tolist() == indices.tolist()


def test_token_types_are_zero_where_the_tokenizer_has_none() -> None:
    split = encode(_data(), _tokenizer(types=False), 32).train
    assert not split.batch(torch.arange(5)).token_type_ids.any()


def test_a_tokenizer_without_padding_token_can_be_used() -> None:
    tokenizer = _tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "e"
    batch = encode(_data(), tokenizer, 32).train.batch(torch.arange(8))
    assert (batch.input_ids[batch.attention_mask == 0] == WORDS.index("e")).all()


def test_many_rows_are_tokenised_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(_data(), _tokenizer(), 32).train
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 7)
    chunked = encode(_data(), _tokenizer(), 32).train
    for part in encoding.PARTS:
        assert torch.equal(getattr(whole, part), getattr(chunked, part))


def test_cache_gives_the_same_and_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, tokenizer = _data(), _tokenizer()
    fresh = encode(data, tokenizer, 32, tmp_path / "new" / "cache")
    monkeypatch.setattr(encoding, "_tokenise", lambda *_: pytest.fail("not read from the cache"))
    cached = encode(data, _tokenizer(), 32, tmp_path / "new" / "cache")
    assert cached.key == fresh.key
    for a, b in (
        (cached.train, fresh.train),
        (cached.evaluations["validation"], fresh.evaluations["validation"]),
    ):
        assert all(torch.equal(getattr(a, part), getattr(b, part)) for part in (*encoding.PARTS, "labels"))


def test_everything_that_changes_tokens_changes_the_key() -> None:
    data, tokenizer = _data(), _tokenizer()
    used = _tokenizer()
    used(["a b c"], padding=True, truncation=True, max_length=5)
    key = encode(data, tokenizer, 32).key
    assert encode(data, used, 32).key == key
    others = [
        encode(data, tokenizer, 31),
        encode(replace(data, content="other"), tokenizer, 32),
        encode(data, _tokenizer(types=False), 32),
        encode(data, _tokenizer(words=[*WORDS[:4], *reversed(WORDS[4:])]), 32),
    ]
    assert len({key, *(other.key for other in others)}) == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_damaged_cache_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    fresh = encode(_data(), _tokenizer(), 32, tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    flipped = good[:-8] + bytes([good[-8] ^ 1]) + good[-7:]
    file.write_bytes({"cut": good[:-50], "flipped": flipped, "text": b"nothing useful", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = encode(_data(), _tokenizer(), 32, tmp_path)
    assert "is damaged and made anew" in caplog.text
    assert torch.equal(again.train.tokens, fresh.train.tokens)
    assert file.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    assert len(encode(_data(), _tokenizer(), 32, tmp_path / "file").train) == 40
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("max_length", [0, 4, 65])
def test_length_out_of_range(max_length: int) -> None:
    with pytest.raises(UsageError, match=f"max_length must be from 5 to 64 for this tokenizer, got {max_length}"):
        encode(_data(), _tokenizer(), max_length)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_every_example_exactly_once(lengths: list[int], batch_size: int, seed: int) -> None:
    split = _encoded(lengths)
    shuffled = epoch_batches(split, batch_size, torch.Generator().manual_seed(seed))
    for batches in (shuffled, ordered_batches(split, batch_size)):
        assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
        assert len(batches) == -(-len(lengths) // batch_size)
        assert sum(len(batch) < batch_size for batch in batches) == (len(lengths) % batch_size > 0)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_batches_are_padded_to_their_longest_and_hold_the_right_tokens(lengths: list[int], batch_size: int) -> None:
    split = _encoded(lengths)
    for indices in epoch_batches(split, batch_size, torch.Generator().manual_seed(0)):
        batch = split.batch(indices)
        sizes = [lengths[index] for index in indices]
        assert batch.input_ids.shape == (len(indices), max(sizes))
        assert batch.attention_mask.sum(1).tolist() == sizes
        assert torch.equal(batch.input_ids, batch.attention_mask * (indices[:, None] + 1))
        assert torch.equal(batch.token_type_ids, batch.attention_mask)


def test_buckets_waste_little_and_order_is_random() -> None:
    lengths = torch.randint(5, 100, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    split = _encoded(lengths)
    batches = epoch_batches(split, 32, torch.Generator().manual_seed(1))
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    longest = torch.tensor([max(lengths[index] for index in batch) for batch in batches], dtype=torch.float)
    order = torch.arange(len(batches), dtype=torch.float)
    assert abs(torch.corrcoef(torch.stack([longest, order]))[0, 1]) < 0.3


def test_batches_of_evaluation_waste_least() -> None:
    """No other cut of the rows into batches of this size has less padding than the sorted one."""
    lengths = torch.randint(1, 50, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    longest = [max(lengths[index] for index in batch) for batch in ordered_batches(_encoded(lengths), 16)]
    assert longest == sorted(lengths, reverse=True)[::16]


def test_epochs_are_decided_by_the_generator() -> None:
    split = _encoded(list(range(1, 101)))

    def epochs(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.cat(epoch_batches(split, 8, generator)).tolist() for _ in range(2)]

    assert epochs(0) == epochs(0)
    assert epochs(0) != epochs(1)
    assert epochs(0)[0] != epochs(0)[1]


def test_batch_size_must_be_positive() -> None:
    split = _encoded([3, 4])
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        epoch_batches(split, 0, torch.Generator())
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        ordered_batches(split, 0)


@pytest.mark.data
@pytest.mark.parametrize(("name", "first"), [("bert-base-uncased", 101), ("roberta-base", 0)])
def test_real_text_with_real_tokenizers(name: str, first: int) -> None:
    import os

    from transformers import AutoTokenizer

    from gppdfd.tasks import load_task

    folder = Path(os.environ.get("GPPDFD_DATA", "")) / "tokenizers" / name
    if not os.environ.get("GPPDFD_DATA") or not folder.exists():
        pytest.skip("no tokenizers in GPPDFD_DATA")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = load_task("mrpc", "glue", max_train_rows=200)
    split = encode(data, tokenizer, 48).train
    indices = ordered_batches(split, 32)[0]
    batch = split.batch(indices)
    texts = [[column[row] for row in indices.tolist()] for column in data.train.texts]
    expected = tokenizer(*texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.attention_mask, expected["attention_mask"])
    assert (batch.input_ids[:, 0] == first).all()
