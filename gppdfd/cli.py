"""What all commands share: options with helpful errors, settings as text, exit codes. Imports nothing heavy."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from gppdfd.errors import DataError, UsageError, unknown

INTERRUPTED = 130


def run_command(
    command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None, stopped: str = "stopped"
) -> int:
    """Exit code of a command: its own, 2 for a wrong request, 1 for a failure, 130 after Ctrl-C (it says `stopped`).

    Errors that a user can act on become one message on standard error, others keep their traceback.
    """
    try:
        return command(arguments)
    except (UsageError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of a command; an unknown one is an error that names the near ones."""
    options, rest = parser.parse_known_args(arguments)
    if not rest:
        return options
    if rest[0].startswith("-"):
        raise unknown("option", rest[0].partition("=")[0], _names(parser))
    raise UsageError(f"unexpected argument {rest[0]!r}; see --help")


def at_least_one(text: str) -> int:
    """Type of options that count something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


at_least_one.__name__ = "number"  # how argparse calls the type in its message


def yaml_value(text: str, where: str) -> Any:
    """Value of a YAML text; `UsageError` that names `where` it was written."""
    import yaml

    try:
        return _with_numbers(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError) as error:  # the latter of dates that do not exist
        raise UsageError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from None


def _with_numbers(value: Any) -> Any:
    """YAML 1.1 takes `1e-4` for a text, because it has no dot; nobody who writes it means a text."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def set_value(settings: dict[str, Any], setting: str) -> None:
    """Write one `KEY.KEY=VALUE` of option --set into nested settings.

    Raises:
        UsageError: no `=`, no YAML, or a key inside a single value.
    """
    path, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting}: write KEY=VALUE, such as training.learning_rate=1e-4")
    *parents, last = path.strip().split(".")
    for key in parents:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise UsageError(f"--set {setting}: {key} is a single value, it has no keys")
    settings[last] = yaml_value(text, f"--set {setting}")


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """All options that are shown in the help."""
    shown = (action for action in parser._actions if action.help is not argparse.SUPPRESS)
    return [name for action in shown for name in action.option_strings if name.startswith("--")]
