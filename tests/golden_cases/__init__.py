"""How each golden case is checked: one module per method, a handler per family of case ids."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch

Case = dict[str, Any]
Tensors = dict[str, torch.Tensor]
Check = Callable[[Case, Tensors], None]

HANDLERS: dict[tuple[str, str], Check] = {}


def handles(method: str, family: str) -> Callable[[Check], Check]:
    """Decorator: this function checks the cases of `method` whose id starts with `family`."""

    def register(check: Check) -> Check:
        HANDLERS[method, family] = check
        return check

    return register


def handler(method: str, case_id: str) -> Check | None:
    """Handler of the longest family name that the case id starts with."""
    families = [family for known, family in HANDLERS if known == method and case_id.startswith(family)]
    return HANDLERS[method, max(families, key=len)] if families else None


def methods() -> list[str]:
    """Methods that have a module here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


for _name in methods():
    importlib.import_module(f"{__name__}.{_name}")
