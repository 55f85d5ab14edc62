"""A store, a small suite, and settings that need no torch."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from suites.display import Display
from suites.estimate import Estimate
from suites.local import LocalLauncher, LocalSettings
from suites.plan import PlannedRun, make_plan
from suites.store import Store
from suites.suite import Request, load_suite

HERE = Path(__file__).parent

SUITE = """
name: tiny
title: A tiny suite
reference: ok+dfd
methods:
  - {method: ok+dfd, label: OK, paper: Somebody 2024}
  - {method: "ok(a=1,b=2)+dfd", label: "OK, other"}
  - {method: ok+none, label: alone}
  - {method: dense, label: Dense}
sparsities: [0.8, 0.95]
tasks: [mrpc, stsb]
presets:
  micro: &micro
    model: micro
    data: {source: micro}
    training: {lr: 5e-4, epochs: 2}
    teacher: {lr: 1e-3}
    precision: fp32
    threads: 1
    select: last
    count: to_target
  mini: {<<: *micro, seeds: 3, tasks: [stsb], methods: [ok+none]}
"""


@pytest.fixture(autouse=True)
def fake_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and runs of `fake_runs`, in this process and in those that it starts."""
    # Before the import, which sets it for worker processes: other tests must find the real settings again.
    monkeypatch.setitem(sys.modules, "suites.config", ModuleType("suites.config"))
    from tests.suites import fake_runs

    monkeypatch.setitem(sys.modules, "suites.config", fake_runs.stand_in())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in which a silent holder is taken for dead without being watched."""
    monkeypatch.setattr(Store, "watch", 0.0)
    return Store(tmp_path / "runs")


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def plan_of(suite_file: Path) -> Callable[..., list[PlannedRun]]:
    """The plan of the tiny suite, with its first method under another name if wanted."""

    def make(*only: str, method: str = "ok+dfd") -> list[PlannedRun]:
        suite_file.write_text(SUITE.replace("ok+dfd", method))
        request = Request(only=only)
        return make_plan(load_suite(str(suite_file), request), request)

    return make


@pytest.fixture
def launch(store: Store) -> Callable[..., Display]:
    """Do a plan with the local launcher; returns what it counted."""

    def do(plan: list[PlannedRun], jobs: int = 2, display: type[Display] = Display, every: float = 600) -> Display:
        shown = display(plan, (), jobs, Estimate())
        settings = LocalSettings(store, jobs=jobs, execute="fake_runs:execute", checkpoint_every=every)
        LocalLauncher(plan, settings, shown).run()
        return shown

    return do
