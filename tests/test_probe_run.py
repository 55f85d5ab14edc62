"""The worker's side of probes, on the embedded benchmark."""

import json
from pathlib import Path

import pytest

from suites import probe_run
from suites.config import DataConfig, RunConfig
from suites.execute import Report
from suites.probe_run import STEPS, StepClock, execute
from suites.store import Progress

ROWS, BATCH = 640, 32
PER_EPOCH = ROWS // BATCH


def config(method: str, **training: object) -> RunConfig:
    settings = {"batch_size": BATCH, "search_epochs": 2, "recovery_epochs": 3, "flooding": 0, **training}
    return RunConfig(
        task="sst2",
        method=method,
        sparsity=0.0 if method == "dense" else 0.8,
        seed=1,
        model="micro",
        data=DataConfig(source="micro", max_length=32, max_train_rows=ROWS),
        training={} if method == "dense" else settings,
        teacher={"batch_size": BATCH, "search_epochs": 0, "recovery_epochs": 4},
    )


def probe(run: RunConfig, store: Path) -> tuple[dict[str, float], dict[str, int], list[Progress]]:
    """Do a probe (after that of its teacher); what it told, its steps, all its progress."""
    teacher = run.teacher_config()
    if teacher is not None:
        probe(teacher, store)
    folder, told = store / ".probes" / run.run_id, list[Progress]()
    folder.mkdir(parents=True, exist_ok=True)
    execute(run, folder, store / ".probes", None, told.append)
    (folder / "done").touch()
    return (
        json.loads((folder / "probe.json").read_text()),
        json.loads((folder / "record.json").read_text())["steps"],
        told,
    )


def test_a_probe_makes_a_few_steps_of_each_phase(tmp_path: Path) -> None:
    """Its teacher, a probe too, knows nothing, and that is no reason to refuse it."""
    told, steps, _ = probe(config("gpp+dfd", before_epochs=1), tmp_path)
    assert steps == {"before": STEPS, "search": STEPS, "recovery": STEPS}
    assert told["seconds"] > told["measured"] > 0


@pytest.mark.parametrize("method", ["depth+logits", "dense"])
def test_what_does_not_search_has_a_recovery_alone(method: str, tmp_path: Path) -> None:
    _, steps, _ = probe(config(method), tmp_path)
    assert steps == {"before": 0, "search": 0, "recovery": STEPS}


def test_the_estimate_is_the_rest_of_the_steps_at_their_medians(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 s a step in the search, 0.5 s in the recovery; one odd step of 100 s says nothing about the others."""

    class Fixed(StepClock):
        def __init__(self, report: Report) -> None:
            super().__init__(report)
            self._seconds |= {"search": [2.0] * 9 + [100.0], "recovery": [0.5] * 10}

        def __call__(self, progress: Progress) -> None: ...

    monkeypatch.setattr(probe_run, "StepClock", Fixed)
    told, _, _ = probe(config("gpp+none"), tmp_path)
    more = (2 * PER_EPOCH - STEPS) * 2.0 + (3 * PER_EPOCH - STEPS) * 0.5
    assert told["seconds"] - told["measured"] == pytest.approx(more)


def test_scoring_passes_that_a_probe_is_spared_are_added(tmp_path: Path) -> None:
    run = config("cap-f")
    _, steps, _ = probe(run, tmp_path)
    assert steps == {"before": 0, "search": STEPS, "recovery": STEPS}
    whole = probe_run.ProbeRun(run, tmp_path / "r", tmp_path / ".probes", None, lambda progress: None)
    assert whole._whole_scoring > whole._short_scoring
    clock = StepClock(lambda progress: None)
    clock._seconds |= {"search": [3.0]}
    expected = 3.0 * (whole._whole["search"] - STEPS + (whole._whole_scoring - whole._short_scoring) * PER_EPOCH)
    assert whole.whole(clock, 7.0) == pytest.approx(7.0 + expected)


def test_evaluations_that_select_the_best_step_are_added(tmp_path: Path) -> None:
    run = config("gpp+none").model_copy(update={"select": "best_dev"})
    whole = probe_run.ProbeRun(run, tmp_path / "r", tmp_path / ".probes", None, lambda progress: None)
    whole.timings.seconds["evaluation"] = 5.0
    # One at the end of each of the three epochs of recovery, of which a probe makes one.
    assert whole.whole(StepClock(lambda progress: None), 7.0) == 7.0 + 2 * 5.0


def test_the_clock_measures_steps_that_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    passed: list[Progress] = []
    monkeypatch.setattr(probe_run.time, "perf_counter", lambda: now)
    clock = StepClock(passed.append)
    for seconds, phase, step in [(1, "search", 1), (3, "search", 2), (4, "search", 3), (9, "recovery", 4)]:
        now = seconds
        clock(Progress(phase, step, 4))
    assert (clock.step("search"), clock.step("recovery"), clock.step("other")) == (1.5, 0.0, 0.0)
    assert len(passed) == 4
