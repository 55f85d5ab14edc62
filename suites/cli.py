"""What the commands of this package share: options with helpful errors, exit codes."""

import argparse
import sys
from collections.abc import Callable, Sequence

from gppdfd.errors import DataError, UsageError, unknown

INTERRUPTED = 130


def run_command(command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None) -> int:
    """Exit code of a command: its own, 2 for a wrong request, 1 for a failure, 130 after Ctrl-C.

    Errors that a user can act on become one message on standard error, others keep their traceback.
    """
    try:
        return command(arguments)
    except (UsageError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
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


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """All options that are shown in the help."""
    shown = (action for action in parser._actions if action.help is not argparse.SUPPRESS)
    return [name for action in shown for name in action.option_strings if name.startswith("--")]
