"""The commands of the README do what it says, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gppdfd.structure import ADAPTERS, KINDS
from gppdfd.tasks.micro import MODEL
from suites.grid import expand
from suites.suite import Request, load_suite
from tests.tiny import MODEL_TYPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(language: str) -> list[str]:
    """Command lines of the README's fences in a language."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable if word == "python" else word for word in shlex.split(line, comments=True)]
    # Under pytest-xdist every worker is one process of many: one worker process of the suite is enough.
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ})


def test_commands_run_in_order_in_an_empty_folder(tmp_path: Path) -> None:
    lines = commands("bash")
    assert lines
    for line in lines:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    out = tmp_path / "results" / "glue_ablation" / "micro"
    assert {"README.md", "table_main.md", "table_main.csv", "table_main.tex"} <= {path.name for path in out.iterdir()}
    assert (out / "score_against_sparsity.png").stat().st_size > 10_000
    again = run(next(line for line in lines if "suites.run" in line), tmp_path)
    assert "to do" not in again.stdout, "the same line again must find nothing to do"


def test_the_suite_of_the_readme_is_the_grid_it_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    request = Request(only=["method=gpp+dfd,gpp+none"])
    runs = [run.config for run in expand(load_suite(str(tmp_path / "mine.yaml"), request), request)]
    found = {(run.task, run.method, run.sparsity) for run in runs}
    tied = {("mrpc", 0.8), ("rte", 0.8), ("sst2", 0.8), ("sst2", 0.95)}
    every = {(task, method, sparsity) for task, sparsity in tied for method in ("gpp+dfd", "gpp+none")}
    assert found == every - {("rte", "gpp+none", 0.8)}
    assert {run.seed for run in runs} == {1, 2, 3}
    assert {run.method: run.settings.search_epochs for run in runs} == {"gpp+dfd": 2, "gpp+none": 1}


@pytest.mark.parametrize("line", [line for line in commands("sh") if line.startswith("make")])
def test_make_targets_exist(line: str) -> None:
    done = run(f"{line} --dry-run", ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.data
@pytest.mark.skipif("GPPDFD_DATA" not in os.environ, reason="GPPDFD_DATA names no folder with real GLUE data")
@pytest.mark.parametrize("line", [line for line in commands("sh") if "suites.run" in line])
def test_commands_for_real_data_are_planned(line: str, tmp_path: Path) -> None:
    """With a local folder in place of the hub's model, and without the hours of training."""
    done = run(f"{line} --model {shlex.quote(str(MODEL))} --dry-run --set data.max_length=64", tmp_path)
    assert done.returncode == 0, done.stderr


def test_python_examples_run(tmp_path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_the_table_of_architectures_is_complete() -> None:
    page = (ROOT / "gppdfd" / "structure" / "README.md").read_text(encoding="utf-8")
    rows = {match[1]: match[0].count("✓") for match in re.finditer(r"^\| `([\w-]+)` .*$", page, flags=re.MULTILINE)}
    known = {model_type for adapter in ADAPTERS for model_type in adapter.model_types}
    assert rows == dict.fromkeys(known, len(KINDS) + 1)
    assert known == set(MODEL_TYPES)
