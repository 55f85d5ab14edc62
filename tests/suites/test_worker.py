"""What a worker tells the launcher."""

import io
import json

import pytest

from gppdfd.errors import DataError
from suites import worker
from suites.store import Progress
from suites.worker import Channel, describe


def test_progress_is_told_now_and_then_and_at_every_new_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    stream = io.StringIO()
    channel = Channel(stream)
    for step in range(3):
        channel.progress(Progress("search", step, 9))
    channel.progress(Progress("recovery", 0, 9))
    now = 101.0
    channel.progress(Progress("recovery", 5, 9))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["phase"], event["step"]) for event in told] == [
        ("search", 0),
        ("recovery", 0),
        ("recovery", 5),
    ]


def test_a_launcher_that_is_gone_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Channel(Gone()).send("done", seconds=1.0)


def test_errors_for_users_are_told_without_their_type() -> None:
    assert describe(DataError("no data\n here")) == "no data here"
    assert describe(KeyError("x")) == "KeyError: 'x'"
