"""A built wheel carries all it needs: it runs outside the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as an installer would; its dependencies are those of this environment."""
    sources, wheels, site = (tmp_path_factory.mktemp(name) for name in ("sources", "wheels", "site"))
    for name in ("gppdfd", "baselines", "suites"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, sources], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


def test_published_numbers_come_along(site: Path, tmp_path: Path) -> None:
    code = "from suites.published import FOLDER, shipped; print(FOLDER, len(shipped()))"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    folder, rows = done.stdout.split()
    assert folder.startswith(str(site))
    assert int(rows) > 200
    assert (Path(folder) / "README.md").is_file()


def test_one_micro_run_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import gppdfd, suites; print(gppdfd.__file__); print(suites.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(line.startswith(str(site)) for line in where.stdout.split())
    command = "-m suites.run glue_ablation --only task=sst2 method=dense --set teacher.recovery_epochs=0.1 --jobs 1"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (tmp_path / "results" / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["task"] == "sst2"
    assert (tmp_path / "results" / "glue_ablation" / "micro" / "table_main.tex").is_file()
