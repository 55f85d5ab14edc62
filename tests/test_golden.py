"""Every golden case against our implementation; `tests/golden_cases` says how."""

from typing import Any

import pytest
import torch

from gppdfd.budget import least_important
from tests.golden_cases import Case, handler, methods
from tests.golden_data import FOLDER, read_cases, tensors


def cases() -> list[Any]:
    return [
        pytest.param(method, case, id=f"{method}/{case['id']}") for method in methods() for case in read_cases(method)
    ]


@pytest.mark.golden
@pytest.mark.parametrize(("method", "case"), cases())
def test_golden(method: str, case: Case) -> None:
    check = handler(method, case["id"])
    assert check is not None, f"no handler knows the case {method}/{case['id']}"
    check(case, tensors(method, case))


@pytest.mark.golden
def test_every_stored_method_is_checked() -> None:
    stored = {path.parent.name for path in FOLDER.glob("*/cases.json")}
    assert stored <= set(methods())


def test_least_important_takes_the_earlier_of_equals() -> None:
    chosen = least_important(torch.tensor([[1.0, 2.0], [2.0, 2.0]]), 2)
    assert chosen.tolist() == [[False, True], [True, False]]
