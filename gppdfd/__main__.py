"""`python -m gppdfd COMMAND`: every command is a module of its own, imported when it is called."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from gppdfd.cli import parse, run_command
from gppdfd.errors import unknown

COMMANDS = {
    "compress": ("gppdfd.compress_command", "prune a model on rows of your own"),
    "measure": ("gppdfd.measure_command", "parameters, FLOPs, latency and memory of a model"),
    "export": ("gppdfd.onnx_command", "write a model as ONNX"),
}
"""By name: the module, which has `add_arguments(parser)` and `run(options) -> int`, and a line for the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    return run_command(_dispatch, arguments)


def _dispatch(arguments: Sequence[str] | None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return _run(name, rest)
    if not name.startswith("-"):
        raise unknown("command", name, COMMANDS)
    _overview().parse_args([name, *rest])
    return 0


def _run(name: str, arguments: Sequence[str]) -> int:
    module = import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(prog=f"python -m gppdfd {name}", description=module.__doc__, allow_abbrev=False)
    module.add_arguments(parser)
    code: int = module.run(parse(parser, arguments))
    return code


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gppdfd", description="Commands on models of your own.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (_, line) in COMMANDS.items():
        commands.add_parser(name, help=line)
    return parser


if __name__ == "__main__":
    sys.exit(main())
