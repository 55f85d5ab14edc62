"""Launches that others see and stop."""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable

from suites.launches import announced, launches
from suites.store import Store


def wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_launch_is_seen_while_it_lasts(store: Store) -> None:
    with announced(store, "tiny", "micro"):
        (seen,) = launches(store, "tiny")
        assert seen.title.startswith(f"tiny, preset micro (local, process {os.getpid()} on ")
        assert launches(store, "other") == []
    assert seen.over
    assert launches(store, "tiny") == []
    assert list((store.root / "launches").iterdir()) == []


def test_every_request_is_heard_once(store: Store) -> None:
    heard: list[float] = []
    with announced(store, "tiny", "micro", on_stop=lambda: heard.append(0), seconds=0.01):
        (seen,) = launches(store, "tiny")
        seen.ask_to_stop()
        wait(lambda: len(heard) == 1)
        seen.ask_to_stop()
        wait(lambda: len(heard) == 2)
        time.sleep(0.05)
    assert len(heard) == 2


def test_only_the_launches_asked_hear_it(store: Store) -> None:
    first, second = threading.Event(), threading.Event()
    with announced(store, "tiny", "micro", on_stop=first.set, seconds=0.01):
        (seen,) = launches(store, "tiny")
        with announced(store, "tiny", "mini", on_stop=second.set, seconds=0.01):
            seen.ask_to_stop()
            assert first.wait(10)
            time.sleep(0.05)
    assert not second.is_set()


def test_what_a_dead_launch_left_is_not_seen_and_removed_by_the_next(store: Store) -> None:
    with announced(store, "tiny", "micro") as launch:
        told = json.loads(launch.path.read_text())
    told["holder"] |= {"ticks": "1"}  # a process of that number, but another one
    dead = launch.path.with_name("dead.json")
    dead.write_text(json.dumps(told))
    dead.with_name("damaged.json").write_text('{"suite": "tiny", "holder": {"pid": 3}}')
    assert launches(store, "tiny") == []
    with announced(store, "tiny", "micro") as launch:
        assert [seen.path for seen in launches(store, "tiny")] == [launch.path]
        assert not dead.exists()


def test_a_launch_that_was_taken_for_dead_announces_itself_again(store: Store) -> None:
    stopped = threading.Event()
    with announced(store, "tiny", "micro", on_stop=stopped.set, seconds=0.01) as launch:
        launch.path.unlink()
        wait(launch.path.exists)
        (seen,) = launches(store, "tiny")
        seen.ask_to_stop()
        assert stopped.wait(10)
    assert launches(store, "tiny") == []


def test_a_silent_launch_that_may_live_is_not_removed(store: Store) -> None:
    with announced(store, "tiny", "micro", seconds=100) as asleep:
        os.utime(asleep.path, (time.time() - 1000, time.time() - 1000))
        with announced(store, "tiny", "mini"):
            assert asleep.path.exists()


def test_a_launch_of_another_machine_is_judged_by_its_signs_of_life(store: Store) -> None:
    with announced(store, "tiny", "micro", seconds=100) as launch:
        told = json.loads(launch.path.read_text())
        told["holder"] |= {"host": "elsewhere"}
        far = launch.path.with_name("far.json")
        far.write_text(json.dumps(told))
        assert len(launches(store, "tiny")) == 2
        os.utime(far, (time.time() - 1000, time.time() - 1000))
        assert len(launches(store, "tiny")) == 1
        assert len(launches(dataclasses.replace(store, stale_after=2000), "tiny")) == 2
