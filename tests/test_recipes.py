"""Recipes: settings of the papers, per family of tasks."""

from pathlib import Path

import pytest

from gppdfd.errors import UsageError
from gppdfd.interface import named_methods, parse_method
from gppdfd.settings import TrainingConfig
from gppdfd.tasks import TASK_NAMES
from suites.config import RunConfig
from suites.grid import Request, expand, load_suite
from suites.recipes import NONE, recipe_file, recipe_for, recipe_names

BUDGET = {
    "batch_size", "learning_rate", "weight_decay", "clip_norm", "warmup", "decay", "flooding",
    "before_epochs", "search_epochs", "recovery_epochs", "scoring",
}  # fmt: skip
"""Settings that the protocol `equal_budget` must find the same for all methods."""


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid_and_covers_each_task_once(name: str) -> None:
    assert name in named_methods() or parse_method(name)
    file = recipe_file(name)
    assert file.paper
    tasks = [task for family in file.families.values() for task in family.tasks]
    assert len(tasks) == len(set(tasks))
    assert set(tasks) <= set(TASK_NAMES)
    for family in file.families.values():
        TrainingConfig(**family.training)
        parse_method(family.method or name)


def test_named_methods_leave_the_budget_alone() -> None:
    for name, named in named_methods().items():
        assert not set(named.training) & BUDGET, name


def test_a_method_without_a_recipe_keeps_the_settings_of_the_preset() -> None:
    assert recipe_for("random+none", "mrpc") is NONE


def paper_runs(tmp_path: Path, *methods: str) -> list[RunConfig]:
    """One run of each method, under the protocol `paper`."""
    path = tmp_path / "two.yaml"
    rows = ", ".join(f"{{method: '{method}', label: row {number}}}" for number, method in enumerate(methods))
    path.write_text(
        "extends: glue_ablation\nname: two\ntasks: [mrpc]\nsparsities: [0.5]\n"
        f"methods: [{rows}]\n"
        "presets: {micro: {from: micro, protocol: paper, training: {scoring: extra}}}\n"
    )
    request = Request()
    return [run.config for run in expand(load_suite(str(path), request), request)]


def test_one_method_in_two_spellings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make the same run twice"):
        paper_runs(tmp_path, "gpp+dfd", "random+none", "random+none(task_weight=1)")


def test_the_protocol_paper_trains_each_method_with_its_recipe(tmp_path: Path) -> None:
    paper, none = paper_runs(tmp_path, "gpp+dfd", "random+none")
    assert paper.protocol == none.protocol == "paper"
    assert (paper.training.search_epochs, none.training.search_epochs) == (20, 1)


def test_rows_of_cofis_ablation_have_equal_phases() -> None:
    runs = expand(load_suite("cofi_ablation"), Request(only=["task=mrpc", "sparsity=0.8"]))
    phases = {tuple(run.steps.items()) for run in runs if run.row.method.startswith(("cofi", "l0"))
              and not run.row.training}  # fmt: skip
    assert len(phases) == 1


def test_settings_of_a_named_method_yield_to_the_command_line() -> None:
    [run] = expand(load_suite("cofi_ablation"), Request(only=["task=mrpc", "sparsity=0.8", "method=cofi"]))
    assert run.config.settings.before_share == 0.05
    request = Request(only=["task=mrpc", "sparsity=0.8", "method=cofi"], settings=["training.before_share=0"])
    [run] = expand(load_suite("cofi_ablation", request), request)
    assert run.config.settings.before_share == 0


def test_spaces_in_a_method_do_not_cost_it_its_recipe(tmp_path: Path) -> None:
    assert paper_runs(tmp_path, "gpp + dfd") == paper_runs(tmp_path, "gpp+dfd")
