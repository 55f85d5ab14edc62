"""The lower bound that pyproject.toml promises is the version that `make test-oldest` installs."""

import os
import re
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).parents[1]


def test_the_makefile_tests_the_promised_lower_bound() -> None:
    promised = re.search(r'"transformers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    tested = re.search(r'"transformers==([\d.]+)"', (ROOT / "Makefile").read_text())
    assert promised is not None
    assert tested is not None
    assert tested[1].startswith(promised[1])


@pytest.mark.skipif("oldest" not in os.environ.get("PYTHONPATH", ""), reason="runs under make test-oldest only")
def test_the_oldest_version_is_really_in_use() -> None:
    assert transformers.__version__ == "5.4.0"
