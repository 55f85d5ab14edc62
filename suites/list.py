"""`python -m suites.list suites|tasks|methods`: what there is to choose from."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from gppdfd.cli import parse, run_command
from gppdfd.errors import unknown
from suites.suite import load_suite, suite_names


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
    from gppdfd.interface import distillers, named_methods, parse_method, pruners

    yield "Named methods (pruner+distiller)"
    for name, named in sorted(named_methods().items()):
        method = parse_method(name)
        pruner, distiller = method.build()
        unsettled = [text for text in (pruner.reconstruction, distiller.reconstruction) if text]
        yield from _entry(name, named.spec, named.reference or pruner.reference, pruner.kinds, "; ".join(unsettled))
    yield "\nPRUNER+DISTILLER: any of these pruners ..."
    for name, pruner_class in sorted(pruners().items()):
        yield from _entry(name, "", pruner_class.reference, pruner_class().kinds, pruner_class.reconstruction)
    yield "\n... with any of these distillers; options in parentheses: gpp(mask=hard_once)+logits"
    for name, distiller_class in sorted(distillers().items()):
        yield from _entry(name, "", distiller_class.reference, (), distiller_class.reconstruction)


def _entry(name: str, spec: str, reference: str, kinds: Sequence[str], reconstruction: str) -> Iterator[str]:
    removes = f"[{', '.join(kinds)}]" if kinds else ""
    yield "  ".join(filter(None, [f"  {name:18}", spec, reference, removes]))
    if reconstruction:
        yield f"  {'':18}  reconstruction: {reconstruction}"


LISTS: dict[str, Callable[[], Iterator[str]]] = {"suites": _suites, "tasks": _tasks, "methods": _methods}


if __name__ == "__main__":
    sys.exit(main())
