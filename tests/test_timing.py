"""Timing: who takes turns with whom, and the statistics; no time is asserted."""

from itertools import groupby

import torch

from gppdfd.timing import TimingConfig, machine, pooled, ratio, spread, times

BRIEF = TimingConfig(seconds=0.002, rounds=3)


def test_functions_take_turns() -> None:
    called: list[str] = []
    found = times({name: lambda name=name: called.append(name) for name in "ab"}, BRIEF)  # type: ignore[misc]
    assert "".join(name for name, _ in groupby(called)) == "ab" * BRIEF.rounds
    assert {name: len(rounds) for name, rounds in found.items()} == {"a": 3, "b": 3}
    assert all(seconds > 0 for rounds in found.values() for each in rounds for seconds in each)


def test_runs_in_inference_mode_with_the_stated_threads() -> None:
    seen: set[tuple[bool, int]] = set()
    times(
        {0: lambda: seen.add((torch.is_inference_mode_enabled(), torch.get_num_threads()))}, TimingConfig(2, 0.001, 1)
    )
    assert seen == {(True, 2)}


def test_spread_is_median_and_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.median, found.low, found.high, found.iqr, found.count) == (3, 2, 4, 2, 5)


def test_ratio_is_taken_within_rounds() -> None:
    """The second round is ten times slower for both, which changes nothing."""
    found = ratio([[8.0, 7.0, 9.0], [80.0], [12.0]], [[2.0], [20.0], [2.0, 2.0]])
    assert (found.median, found.low, found.high, found.count) == (4, 4, 5, 3)
    assert pooled([[1.0, 2.0], [3.0]]).median == 2


def test_machine_is_named() -> None:
    here = machine(torch.device("cpu"), 3)
    assert here.threads == 3
    assert here.torch == torch.__version__
    assert "cores" in here.device
