"""The one-machine Slurm for tests: found by SLURM_CONF, never the cluster of a user."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REQUIRED = "GPPDFD_SLURM"
START = 'eval "$(python slurm/cluster.py start)"'
SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.py"


def why_not() -> str | None:
    """Why these tests cannot use a Slurm here, None if they can."""
    conf = os.environ.get("SLURM_CONF")
    if conf is None:
        return f"needs a one-machine Slurm: {START}"
    if not Path(conf).is_file() or "ClusterName=one-machine" not in Path(conf).read_text():
        return f"{conf} is no one-machine Slurm, and tests cancel jobs and kill nodes: {START}"
    answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=30, check=False)
    if answer.returncode or "DOWN" in answer.stdout:
        return f"the Slurm of {conf} does not answer: {START}"
    return None


def need_slurm() -> None:
    """Skip the test without a Slurm; fail it if GPPDFD_SLURM says that there must be one."""
    reason = why_not()
    if reason is None:
        return
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(f"{REQUIRED}=required, but: {reason}")
    pytest.skip(reason)


def slurm(*command: str) -> str:
    """Output of one of Slurm's commands."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def node(action: str, name: str) -> None:
    """Kill a node with all that runs on it (`down`), or bring it back (`up`)."""
    root = Path(os.environ["SLURM_CONF"]).parents[1]
    subprocess.run([sys.executable, str(SCRIPT), "--root", str(root), "node", action, name], check=True, timeout=60)


def usable_nodes() -> int:
    return len(set(slurm("sinfo", "-h", "-N", "-t", "idle,mixed,allocated", "-o", "%N").split()))


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something, and fail the test if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.1)
