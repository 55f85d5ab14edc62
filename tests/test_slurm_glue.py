"""A real suite on a real Slurm that misbehaves: the same bits as from the local launcher on a quiet machine."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gppdfd.errors import DataError
from suites.execute import execute
from suites.slurm.submitted import submitted
from suites.store import State, Store
from tests.suites.slurm_cluster import need_slurm, node, slurm, until, usable_nodes

SUITE = ["glue_ablation", "--only", "task=mrpc,stsb", "sparsity=0.8", "method=gpp+dfd,gpp+none,magnitude+dfd"]
SMALLER = ["--set", "data.max_train_rows=500", "training.recovery_epochs=1"]
PROFILE = "{partition: main, cpus: 1, memory: 1500M, time: 20min, grace: 60}"
RESULTS = ("predictions.parquet", "model/model.safetensors", "model/config.json")


def execute_or_fail(config: Any, folder: Path, store_root: Path, *more: Any) -> None:
    """The real run; one of them fails as long as a file says so."""
    if config.method == "gpp+none" and config.task == "mrpc" and (store_root / "fail").exists():
        raise DataError("told to fail")
    execute(config, folder, store_root, *more)


def launch(store: Path, *more: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "suites.run", *SUITE, *SMALLER, "--store", str(store), "--no-report", *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output(process: subprocess.Popen[str], code: int) -> str:
    told, _ = process.communicate(timeout=900)
    assert process.returncode == code, told
    return told


@pytest.fixture
def on_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options of a launch on an idle cluster."""
    need_slurm()
    until(lambda: usable_nodes() == 2)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE)
    own = ["--execute", "tests.test_slurm_glue:execute_or_fail"]
    yield [*own, "--launcher", "slurm", "--profile", str(profile)]
    slurm("scancel", f"--user={os.getuid()}")
    until(lambda: not slurm("squeue", "-h"))


def run_ids(store: Store) -> dict[str, str]:
    """Submitted runs by task and method."""
    return {run_id.rpartition("-seed")[0]: run_id for run_id in submitted(store)}


def under_way(store: Store, run_id: str, step: int = 5) -> Callable[[], bool]:
    def look() -> bool:
        progress = store.progress(run_id)
        return store.state(run_id) is State.DONE or (progress is not None and progress.step >= step)

    return look


def disturb(store: Store) -> None:
    """Cancel an element that waits, kill a node with what runs there, preempt all that runs."""
    until(lambda: len(submitted(store)) == 8)
    ids, jobs = run_ids(store), submitted(store)
    slurm("scancel", jobs[ids["stsb-magnitude-dfd-0.8"]].job)
    until(under_way(store, ids["stsb-gpp-none-0.8"]), 300)
    name = slurm("squeue", "-h", "-j", jobs[ids["stsb-gpp-none-0.8"]].job, "-o", "%N")
    node("down", name)
    time.sleep(2)
    node("up", name)
    until(under_way(store, ids["mrpc-gpp-dfd-0.8"]), 300)
    for _ in range(2):
        slurm("sbatch", "-p", "high", "--exclusive", "-t1", "-o", "/dev/null", "--wrap", "sleep 2")


def results(store: Store, run_id: str) -> Mapping[str, Any]:
    """What must not depend on where a run was done."""
    record = json.loads((store.folder(run_id) / "record.json").read_text())
    hashes = {name: hashlib.sha256((store.folder(run_id) / name).read_bytes()).hexdigest() for name in RESULTS}
    return {name: record[name] for name in ("scores", "size", "kept", "steps", "selection")} | hashes


@pytest.mark.slurm
def test_a_disturbed_suite_on_slurm_has_the_results_of_the_local_launcher(
    on_cluster: list[str], tmp_path: Path
) -> None:
    remote, local = Store(tmp_path / "remote"), Store(tmp_path / "local")
    remote.root.mkdir()
    (remote.root / "fail").touch()
    first = launch(remote.root, *on_cluster)
    disturb(remote)
    told = output(first, code=1)
    ids = run_ids(remote)
    states = {name: remote.state(run_id) for name, run_id in ids.items()}
    others = [state for name, state in states.items() if name not in ("mrpc-gpp-none-0.8", "stsb-magnitude-dfd-0.8")]
    assert states["mrpc-gpp-none-0.8"] is State.FAILED, told
    assert states["stsb-magnitude-dfd-0.8"] is State.MISSING, told
    assert set(others) == {State.DONE}, told
    assert "CANCELLED" in told
    assert "told to fail" in told

    (remote.root / "fail").unlink()
    assert "8 done; runs in" in output(launch(remote.root, *on_cluster, "--retry", "failed"), code=0)
    assert "8 done; runs in" in output(launch(local.root, "--jobs", "1"), code=0)
    assert len(ids) == 8
    for run_id in ids.values():
        assert results(remote, run_id) == results(local, run_id)
    preempted = slurm("sacct", "--duplicates", "--noheader", "--allocations", "--starttime=now-1hour", "--format=State")
    assert "NODE_FAIL" in preempted
    assert "REQUEUED" in preempted or "PREEMPTED" in preempted
