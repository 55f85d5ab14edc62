"""`python -m suites.report SUITE`: tables, figures and an index page from stored records alone, no torch.

In place of a suite, `submission RUN...` writes the files of the GLUE server, `compare RUN RUN` tests one run against
another, `paper` makes the counterparts of five papers' tables and figures; each has its own --help.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from gppdfd.cli import parse, run_command
from gppdfd.drawing import save_figure
from gppdfd.errors import UsageError
from gppdfd.files import write_text
from suites.comparison_tables import ablation_table, distiller_table, matrix_table, pruner_table, unit_table
from suites.cost_tables import size_table, structure_table, training_table
from suites.figures import DRAWINGS
from suites.figures.places import NOTHING, Wanted, check_wanted
from suites.formats import Table, write_table
from suites.index import PAGE, index_page
from suites.launched import only_preset, suite_name
from suites.page import report_page
from suites.published import GENERATED, PublishedRow, select, shipped
from suites.published_rows import published_table
from suites.records import Results, read_results
from suites.store import Store
from suites.tables import main_table

STORE = Path("results/runs")
_SHOW_HELP = "which runs the figures of single runs show: task=, sparsity=, seed="
_AXES = {"task": str, "sparsity": float, "seed": int}


def default_out(suite: str, preset: str) -> Path:
    """Folder of a suite's tables and figures."""
    return Path("results") / suite / preset


def write_report(suite: str, preset: str, store: Path, plan: Path, out: Path, show: Wanted = NOTHING) -> list[Path]:
    """Write all tables, figures, the index page and the report page of a launched suite.

    Args:
        plan: the launch's plan (`Store.plan_path`).
        show: task, sparsity and seed that figures of single runs show; default where most methods are finished.

    Returns:
        The files written, the index page first.

    Raises:
        UsageError: no such plan, or nothing finished for `show`.
        DataError: a stored file is broken or of another schema version.
    """
    results = read_results(plan, store)
    tables = suite_tables(results, f"{suite}, preset {preset}")
    figures = _write_figures(results, out, show)
    appendix = _appendix(results)
    paths = [path for table in (*tables, *appendix) for path in write_table(table, out)]
    command = _command(suite, preset, store, out, show)
    title, index, page = f"{suite}, preset {preset}", out / "README.md", out / PAGE
    write_text(index, index_page(title, command, results, tables, list(figures), appendix))
    write_text(page, report_page(title, command, results, tables, out))
    return [index, page, *paths, *(path for files in figures.values() for path in files)]


def suite_tables(results: Results, what: str) -> list[Table]:
    """The tables of a suite, as far as it has the rows for them; `what` goes into their captions."""
    tables = [
        main_table(results, f"Scores by method and task ({what})", _published(results, "main")),
        ablation_table(results, f"Every method against the reference ({what})"),
        unit_table(results, f"Kinds of units ({what})", _published(results, "units")),
        distiller_table(results, f"Distillers ({what})"),
        pruner_table(results, f"Pruners ({what})"),
        matrix_table(results, f"Pruners and distillers, average over the tasks ({what})"),
        size_table(results, f"Size and speed by method ({what})"),
        structure_table(results, f"What is left of the models ({what})"),
        training_table(results, f"Cost of training by method ({what})"),
    ]
    return [table for table in tables if table is not None]


def _published(results: Results, use: str) -> list[PublishedRow]:
    """Published rows on the suite's tasks; none beside scores on generated data, which mean something else."""
    if all(record.data.source == GENERATED for record in results.records.values()):
        return []
    return select(shipped(), (run.task for run in results.planned), use)


def _appendix(results: Results) -> list[Table]:
    """Tables too long for the page, which links to them."""
    table = published_table(results, "Published numbers on the tasks of this suite", _published(results, "main"))
    return [table] if table else []


def _write_figures(results: Results, out: Path, show: Wanted) -> dict[str, list[Path]]:
    """Files of each figure that the finished runs allow."""
    check_wanted(results, show)
    figures = {drawing.name: drawing.figure(results, show) for drawing in DRAWINGS}
    return {name: save_figure(figure, name, out) for name, figure in figures.items() if figure}


def _command(suite: str, preset: str, store: Path, out: Path, show: Wanted) -> str:
    options = [f"--preset {preset}"]
    options += [f"--store {_portable(store)}"] if store != STORE else []
    options += [f"--out {_portable(out)}"] if out != default_out(suite, preset) else []
    options += ["--show " + " ".join(f"{axis}={value}" for axis, value in show.items())] if show else []
    return f"python -m suites.report {suite} {' '.join(options)}"


def _portable(path: Path) -> str:
    """A path that means something on another machine, or the word DIR."""
    return "DIR" if path.is_absolute() else path.as_posix()


# --- the command ---


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 2 for a wrong request, 1 for broken files."""
    return run_command(_dispatch, arguments)


# Commands in place of a suite: module and function.
COMMANDS = {
    "submission": ("suites.submission", "submission_command"),
    "compare": ("suites.compare", "compare_command"),
    "paper": ("suites.paper", "paper_command"),
}


def _dispatch(arguments: Sequence[str] | None) -> int:
    """A command by its name, else the report of a suite."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] not in COMMANDS:
        return _report(words)
    module, function = COMMANDS[words[0]]
    code: int = getattr(importlib.import_module(module), function)(words[1:])
    return code


def _report(arguments: Sequence[str] | None) -> int:
    options = parse(_parser(), arguments)
    suite, store = suite_name(options.suite), options.store
    preset = options.preset or only_preset(Store(store), suite)
    out = options.out or default_out(suite, preset)
    plan = Store(store).plan_path(suite, preset)
    written = write_report(suite, preset, store, plan, out, _wanted(options.show))
    print("\n".join(map(str, written)))
    return 0


def _wanted(assignments: Sequence[str]) -> dict[str, str | float | int]:
    """`["task=mrpc", "seed=1"]` as values of the right types."""
    return dict(map(_assignment, assignments))


def _assignment(text: str) -> tuple[str, str | float | int]:
    axis, _, value = text.partition("=")
    try:
        return axis, _AXES[axis](value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"--show {text}: give task=NAME, sparsity=NUMBER or seed=NUMBER") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m suites.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="name or file of a launched suite, such as glue_ablation")
    parser.add_argument("--preset", help="preset it was launched with (default: micro, or the only one)")
    parser.add_argument("--store", type=Path, default=STORE, metavar="DIR", help=f"runs (default: {STORE})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (default: results/SUITE/PRESET)")
    parser.add_argument("--show", nargs="+", default=[], metavar="AXIS=VALUE", help=_SHOW_HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
