"""`python -m suites.report compare RUN RUN`: two runs of one task, example by example."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from gppdfd.cli import parse
from gppdfd.errors import DataError, UsageError
from suites.examples import METRICS, Predictions, bootstrap, mcnemar_p, read_predictions
from suites.records import Record, finished_record
from suites.store import Store
from suites.tables import run_marks

_CLASS_METRICS = {"accuracy", "f1", "matthews"}


def compare_runs(first: Path, second: Path) -> list[str]:
    """Lines for people: per split the scores, their difference with its interval, the tests; then the runs' marks.

    Raises:
        UsageError: a run that is not finished, or two runs of different tasks.
        DataError: predictions that are broken or not of the same examples.
    """
    records = finished_record(first), finished_record(second)
    if records[0].task != records[1].task:
        raise UsageError(
            f"{first.name} is a run of {records[0].task}, {second.name} of {records[1].task}: compare like"
        )
    folders, metric = (first, second), records[0].primary.metric
    told = {split: _told(split, metric, records) for split in records[0].scores if split in records[1].scores}
    lines = [line for split, scores in told.items() for line in _lines(split, metric, scores, *folders)]
    runs = zip(folders, records, strict=True)
    return [*lines, *(f"{folder.name}: {mark}" for folder, record in runs for mark in run_marks(record))]


def _told(split: str, metric: str, records: Sequence[Record]) -> str:
    """Both scores in percent."""
    return " and ".join(f"{100 * record.scores[split][metric]:.2f}" for record in records)


def _lines(split: str, metric: str, scores: str, first: Path, second: Path) -> Iterator[str]:
    answers = _answers(first, split), _answers(second, split)
    if not answers[0].same_examples(answers[1]):
        raise DataError(f"{first.name} and {second.name} answered different examples of {split}: their data differ")
    yield f"{split}: {len(answers[0].labels)} examples"
    yield f"  {metric}: {scores}"
    if metric in METRICS:
        found = bootstrap([answers], metric)
        low, value, high = (100 * number for number in (found.low, found.value, found.high))
        yield f"  difference: {value:+.2f} points [{low:+.2f}, {high:+.2f}], paired bootstrap p = {found.p:.4f}"
    if metric in _CLASS_METRICS:
        yield f"  right answers: McNemar p = {mcnemar_p(*answers):.4f}"


def _answers(folder: Path, split: str) -> Predictions:
    found = read_predictions(folder, split)
    if found is None:
        raise DataError(f"{folder.name} stored no predictions on {split}; delete the run and launch again")
    return found


def compare_command(arguments: Sequence[str] | None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m suites.report compare", description=__doc__)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="id or folder of a finished run; first minus second")
    parser.add_argument("--store", type=Path, default=Path("results/runs"), metavar="DIR", help="where runs lie")
    options = parse(parser, arguments)
    folders = map(Store(options.store).named, options.runs)
    print("\n".join(compare_runs(*folders)))
    return 0
