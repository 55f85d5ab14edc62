"""The command `suites.list`."""

import pytest

from suites.list import main


def test_suites_are_listed_with_titles_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites"]) == 0
    told = capsys.readouterr().out
    assert "glue_ablation" in told
    assert "presets: micro, micro3, mini, base" in told


def test_an_unknown_list_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task"]) == 2
    assert "Did you mean 'tasks'" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "expected"), [("tasks", ["mrpc", "stsb"]), ("methods", ["gpp", "dfd", "dense"])])
def test_tasks_and_methods_come_from_the_library(
    what: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([what]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in expected)
