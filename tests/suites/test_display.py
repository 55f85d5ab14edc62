"""What a launch shows, and how it estimates the end."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from gppdfd.progress import duration
from suites import display
from suites.display import Display, PlainDisplay, RichDisplay, make_display
from suites.estimate import Estimate
from suites.plan import PlannedRun
from suites.store import Progress

PlanOf = Callable[..., list[PlannedRun]]


def test_the_time_left_is_shared_by_the_workers(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    plan = plan_of("method=ok+none")
    shown = Display(plan, (), 2, Estimate())
    assert shown.remaining is None
    shown.started(plan[0])
    shown.done(plan[0], 10.0)
    assert shown.remaining == 3 * 10 / 2
    shown.started(plan[1])
    now = 104.0
    assert shown.remaining == (3 * 10 - 4) / 2


def test_runs_that_were_done_before_are_counted(plan_of: PlanOf) -> None:
    plan = plan_of()
    shown = Display(plan, {plan[0].run_id}, 1, Estimate())
    assert (shown.finished, shown.total, len(shown.left)) == (1, 14, 13)
    assert shown.summary == "1/14 done"


def test_plain_lines_tell_every_event(plan_of: PlanOf) -> None:
    plan, out = plan_of("task=mrpc", "sparsity=0.8"), io.StringIO()
    shown = PlainDisplay(plan, (), 1, Estimate(), stream=out)
    shown.started(plan[0])
    shown.progressed(plan[0], Progress("search", 1, 2))
    shown.done(plan[0], 2.0)
    shown.failed(plan[1], "no data", Path("runs/x/log.txt"))
    shown.blocked(plan[2], "its teacher failed")
    assert out.getvalue().splitlines() == [
        "start    mrpc Dense seed 1",
        "done     mrpc Dense seed 1 in 2.0 s  [1/4 done]",
        "FAILED   mrpc OK 0.8 seed 1: no data  (log: runs/x/log.txt)",
        "BLOCKED  mrpc OK, other 0.8 seed 1: its teacher failed",
    ]


def test_a_terminal_gets_bars_and_the_running_runs(plan_of: PlanOf) -> None:
    plan = plan_of("task=mrpc", "sparsity=0.8")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RichDisplay(plan, (), 1, Estimate(), console=console) as shown:
        shown.started(plan[0])
        shown.progressed(plan[0], Progress("search", 3, 9))
        console.print(shown._page())
        shown.failed(plan[1], "no [data]", Path("log.txt"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mrpc Dense seed 1  search 3/9" in text
    assert "0/4 done" in text
    assert "no [data]" in text


def test_the_display_suits_the_output(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_display(plan_of(), (), 1, Estimate())) is PlainDisplay
    monkeypatch.setattr(display.sys.stdout, "isatty", lambda: True)
    assert type(make_display(plan_of(), (), 1, Estimate())) is RichDisplay


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (8.06, "8.1 s"), (59.97, "1 min"), (720, "12 min"), (11130, "3 h 06 min")],
)
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
