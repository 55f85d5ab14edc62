"""The command `suites.status`, which must work without torch and without the library."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from suites.claims import Claim, claim, mark_failed
from suites.display import Display
from suites.launches import announced
from suites.plan import PlannedRun, write_plan
from suites.status import SHOWN, WATCH_SECONDS, main
from suites.store import Progress, Store

PlanOf = Callable[..., list[PlannedRun]]

WITHOUT_LIBRARIES = """
import sys
for name in ("torch", "transformers", "gppdfd.interface", "baselines", "pydantic"):
    sys.modules[name] = None
from suites.status import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def planned(store: Store, plan_of: PlanOf, launch: Callable[..., Display]) -> list[PlannedRun]:
    """A plan with runs in several states: done, failed and one that this process holds."""
    plan = plan_of("task=mrpc", method="fail+dfd")
    write_plan([*plan, *plan_of("task=stsb")], store.plan_path("tiny", "micro"))
    launch(plan[:5])
    made = claim(store, plan[5].run_id)
    assert made is not None
    made.beat(Progress("search", 3, 9))
    return plan


def test_the_table_shows_states_by_method_and_task(
    planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny", "--store", str(store.root)]) == 0
    told = capsys.readouterr().out
    assert "tiny, preset micro: 8 missing, 1 running, 2 failed, 3 done" in told
    cells = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
             for line in told.splitlines() if line.startswith("│")}  # fmt: skip
    assert cells == {
        "OK": ["0/2, 2 failed", "0/2"],
        "OK, other": ["2/2", "0/2"],
        "alone": ["0/2, 1 running", "0/2"],
        "Dense": ["1/1", "0/1"],
    }
    assert "running  mrpc alone 0.8 seed 1: search 3/9" in told
    assert "failed   mrpc OK 0.8 seed 1: mrpc cannot be learnt\n         log: " in told


def test_a_suite_may_be_named_by_its_file(
    planned: list[PlannedRun], store: Store, suite_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(suite_file), "--store", str(store.root)]) == 0
    assert "tiny, preset micro: 8 missing" in capsys.readouterr().out
    assert main(["some/other.yaml", "--store", str(store.root)]) == 2
    assert "suite file some/other.yaml cannot be read" in capsys.readouterr().err


def test_json_has_every_run(planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--store", str(store.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"done": 3, "failed": 2, "running": 1, "missing": 8}
    runs = {run["run_id"]: run for run in told["runs"]}
    assert len(runs) == 14
    assert runs[planned[0].run_id]["seconds"] >= 0
    assert runs[planned[1].run_id]["failure"] == "mrpc cannot be learnt"
    assert runs[planned[5].run_id]["phase"] == "search"


def test_status_works_without_torch_and_the_library(planned: list[PlannedRun], store: Store) -> None:
    line = [sys.executable, "-c", WITHOUT_LIBRARIES, "tiny", "--store", str(store.root)]
    told = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert "2 failed" in told.stdout


@pytest.mark.parametrize("arguments", [["tinny"], ["tiny", "--preset", "base"]])
def test_what_was_never_launched_is_a_usage_error(
    planned: list[PlannedRun], store: Store, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--store", str(store.root)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: unknown launch (suite-preset) in ")
    assert "Choose from: tiny-micro" in told


def test_a_damaged_plan_is_told_with_the_way_out(
    planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.root / "plans" / "tiny-foo-micro.parquet").touch()  # that of another suite, as far as its name tells
    assert main(["tiny", "--store", str(store.root)]) == 0
    capsys.readouterr()
    for content in (b"", store.plan_path("tiny", "micro").read_bytes()[:-9]):
        store.plan_path("tiny", "micro").write_bytes(content)
        assert main(["tiny", "--store", str(store.root)]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "tiny-micro.parquet is damaged: launch tiny with preset micro again" in told


def test_an_empty_store_says_what_to_look_at(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--store", str(store.root)]) == 2
    assert f"nothing was launched into {store.root}: name another folder with --store?" in capsys.readouterr().err


def test_a_running_run_tells_its_speed_and_end(
    planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Claim(store, planned[5].run_id, store.holder(planned[5].run_id).token)  # type: ignore[union-attr]
    made.beat(Progress("recovery", 30, 90, 0.5))
    assert main(["tiny", "--store", str(store.root)]) == 0
    end = r"\(\d\d:\d\d\)"
    told = capsys.readouterr().out
    assert re.search(
        rf"running  mrpc alone 0.8 seed 1: recovery 30/90, 2\.0 s/step, 2 min left at this speed {end}", told
    )
    made.beat(Progress("recovery", 30, 90, 30.0))
    main(["tiny", "--store", str(store.root), "--json"])
    run = next(run for run in json.loads(capsys.readouterr().out)["runs"] if run["state"] == "running")
    assert (run["speed"], run["left"]) == (30.0, 2.0)


def test_results_of_other_sources_are_counted(
    planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "other sources" not in show(store, capsys)
    path = store.folder(planned[0].run_id) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sources": "0123456789abcdef"}))
    assert "1 of the finished runs were made by other sources than today's" in show(store, capsys)
    main(["tiny", "--store", str(store.root), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["other_sources"] == 1
    assert [run["run_id"] for run in told["runs"] if run.get("other_sources")] == [planned[0].run_id]


def test_points_that_cannot_be_reached_are_not_waited_for(
    store: Store, plan_of: PlanOf, launch: Callable[..., Display], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(method="far+dfd")
    write_plan(plan, store.plan_path("tiny", "micro"))
    launch([run for run in plan if run.reachable])
    assert main(["tiny", "--store", str(store.root), "--watch"]) == 0  # ends by itself: no run is left
    told = capsys.readouterr().out
    assert "10 done, 4 not reachable" in told
    assert [cell.strip() for cell in next(line for line in told.splitlines() if "│ OK " in line).split("│")[2:4]] == [
        "not reachable",
        "not reachable",
    ]


def test_launches_under_way_are_named(
    planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with announced(store, "tiny", "micro"):
        assert "under way: tiny, preset micro (local, process " in show(store, capsys)
    assert "under way" not in show(store, capsys)


def test_watching_goes_on_until_no_run_is_left(
    planned: list[PlannedRun], store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([None, None])

    def sleep(seconds: float) -> None:
        assert seconds >= WATCH_SECONDS
        if next(looks, "last") == "last":
            raise KeyboardInterrupt

    monkeypatch.setattr("suites.status.time.sleep", sleep)
    assert main(["tiny", "--store", str(store.root), "--watch"]) == 130
    assert "8 missing, 1 running, 2 failed, 3 done" in capsys.readouterr().out


def test_many_failures_are_not_all_told(
    store: Store, plan_of: PlanOf, launch: Callable[..., Display], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of("method=fail+dfd", method="fail+dfd")
    many = [replace(run, run_id=f"{run.run_id}-{copy}") for run in plan for copy in range(SHOWN)]
    write_plan(many, store.plan_path("tiny", "micro"))
    students = [run for run in many if run.role == "student"]
    for run in students:
        mark_failed(store, run.run_id, "error", "no luck")
    told = show(store, capsys)
    assert told.count("no luck") == SHOWN
    assert f"... and {len(students) - SHOWN} more" in told


def show(store: Store, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["tiny", "--store", str(store.root)]) == 0
    return capsys.readouterr().out
