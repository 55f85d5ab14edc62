"""The speed of a run."""

import pytest

from suites import pace
from suites.pace import Pace
from suites.store import Progress


def test_speed_is_counted_anew_in_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    measure = Pace()
    told = []
    for seconds, phase, step in [(0, "search", 1), (2, "search", 2), (8, "search", 4), (9, "recovery", 5)]:
        now = seconds
        told.append(measure(Progress(phase, step, 10)).speed)
    now = 10.0
    last = measure(Progress("recovery", 9, 10))
    assert told == [None, 0.5, 3 / 8, None]
    assert (last.speed, last.left) == (4.0, 0.25)


def test_a_run_that_begins_again_has_no_speed_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace.time, "monotonic", iter([0.0, 5.0, 6.0]).__next__)
    measure = Pace()
    measure(Progress("search", 8, 10))
    assert measure(Progress("search", 1, 10)).speed is None
    assert measure(Progress("search", 3, 10)).speed == 2.0
    assert Progress("start", 0, 0).left is None
