"""Live tracking: what reaches the trackers, that it is off by default, and its messages."""

import sqlite3
import sys
from pathlib import Path

import pytest

from gppdfd.errors import UsageError
from suites.tracking import VARIABLE, numbers, tracked

ENTRIES = (
    {"phase": "search", "step": 10, "lr": 0.1, "losses": {"task": 0.5, "total": 1.5}, "sparsity": 0.2},
    {"phase": "search", "step": 15, "event": "snapshot"},
    {"phase": "recovery", "step": 20, "scores": {"validation": {"accuracy": 0.75}}},
)


def follow(store: Path) -> None:
    with tracked(store, "run-1") as log:
        for entry in ENTRIES:
            log(entry)


def test_numbers_are_named_by_their_path_and_the_step_is_none_of_them() -> None:
    assert numbers(ENTRIES[0]) == {"lr": 0.1, "losses/task": 0.5, "losses/total": 1.5, "sparsity": 0.2}
    assert numbers(ENTRIES[1]) == {}
    assert numbers(ENTRIES[2]) == {"scores/validation/accuracy": 0.75}


@pytest.mark.parametrize("value", ["", " ", ","])
def test_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    follow(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="extra `tracking`")
    monkeypatch.setenv(VARIABLE, "tensorboard")
    follow(tmp_path)
    events = reading.EventAccumulator(str(tmp_path / "tensorboard" / "run-1")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("losses/total")] == [(10, 1.5)]
    assert [(event.step, event.value) for event in events.Scalars("scores/validation/accuracy")] == [(20, 0.75)]


def test_trackio_stores_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="extra `tracking`")
    from trackio import utils

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setenv(VARIABLE, "trackio")
    follow(tmp_path)
    with sqlite3.connect(next((tmp_path / "trackio").glob("*.db"))) as database:
        rows = database.execute("select run_name, step from metrics order by step").fetchall()
    assert ("run-1", 10) in rows
    assert ("run-1", 20) in rows


def test_an_unknown_tracker_is_refused_by_its_near_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tensorbord")
    with pytest.raises(UsageError, match="Did you mean 'tensorboard'"):
        follow(tmp_path)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setenv(VARIABLE, "trackio")
    with pytest.raises(UsageError, match=r"gppdfd\[tracking\]"):
        follow(tmp_path)
