"""`python -m suites.list suites|tasks|methods`: what there is to choose from."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from gppdfd.cli import parse, run_command
from gppdfd.errors import unknown
from suites.grid import load_suite, suite_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_list, arguments)


def _list(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m suites.list", description=__doc__)
    parser.add_argument("what", help=", ".join(LISTS))
    what = parse(parser, arguments).what
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    for line in LISTS[what]():
        print(line)
    return 0


def _suites() -> Iterator[str]:
    for name in suite_names():
        suite = load_suite(name)
        yield f"{name:20} {suite.title} (presets: {', '.join(suite.presets)})"


def _tasks() -> Iterator[str]:
    from gppdfd.tasks import TASK_NAMES, task_spec

    for name in TASK_NAMES:
        yield f"{name:20} {', '.join(task_spec(name).metrics)}"


def _methods() -> Iterator[str]:
    from gppdfd.interface import distillers, named_methods, pruners

    for name, method in sorted(named_methods().items()):
        yield f"{name:20} {method.spec}"
    yield f"{'PRUNER+DISTILLER':20} any of these pruners with any of these distillers:"
    yield f"{'  pruners':20} {', '.join(sorted(pruners()))}"
    yield f"{'  distillers':20} {', '.join(sorted(distillers()))}"


LISTS: dict[str, Callable[[], Iterator[str]]] = {"suites": _suites, "tasks": _tasks, "methods": _methods}


if __name__ == "__main__":
    sys.exit(main())
