"""Checkpoints: what goes in comes out, damage is noticed, two are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gppdfd.checkpoint import load_checkpoint, save_checkpoint

plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
keys = st.one_of(st.integers(), st.text())
states = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(keys, inner)),
    max_leaves=15,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=40, deadline=None)
@given(value=states)
def test_plain_data_comes_back_as_it_was(value: Any, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("state")
    save_checkpoint(folder, 1, {"value": value})
    assert same(load_checkpoint(folder), {"value": value})


def test_tensors_of_all_kinds_come_back() -> None:
    shared = torch.arange(6.0)
    state = {
        "shared": [shared, shared[2:4]],
        "turned": torch.rand(3, 4).t(),
        "bytes": torch.get_rng_state(),
        "flags": torch.tensor([True, False]),
        "half": torch.rand(3).bfloat16(),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "moments": {0: {"step": torch.tensor(3.0)}},
        "nothing": {},
    }
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), 1, state)
        assert same(load_checkpoint(Path(folder)), state)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 5, 30):
        save_checkpoint(tmp_path, step, {"step": step})
    assert sorted(int(path.name[4:12]) for path in tmp_path.iterdir()) == [5, 30]
    assert load_checkpoint(tmp_path) == {"step": 30}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, 1, {"weights": torch.rand(100)})
    newest = save_checkpoint(tmp_path, 2, {"weights": torch.rand(100)})
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-20], "flipped": content, "empty": b""}[damage])
    first = load_checkpoint(tmp_path)
    assert first is not None
    newest.unlink()
    assert same(load_checkpoint(tmp_path), first)


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    (tmp_path / "step00000001.tmp").write_bytes(b"half")
    assert load_checkpoint(tmp_path) is None


def test_what_is_no_plain_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a set cannot be part of a checkpoint"):
        save_checkpoint(tmp_path, 1, {"value": {1, 2}})
