"""The command `suites.status`, which must work without torch and without the library."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from suites.claims import claim
from suites.display import Display
from suites.plan import PlannedRun, write_plan
from suites.status import main
from suites.store import Progress, Store

PlanOf = Callable[..., list[PlannedRun]]

WITHOUT_LIBRARIES = """
import sys
for name in ("torch", "transformers", "gppdfd", "baselines"):
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
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--store", str(store.root)])
    assert exit_.value.code == 2
    assert "launched were: tiny-micro" in capsys.readouterr().err
