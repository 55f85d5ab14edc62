"""`python -m suites.report submission RUN...`: the files that the GLUE server takes, from finished runs.

Test answers are no part of a run's record: they are computed here, from the run's saved model and a data folder with
the official test splits. The server wants a file for WNLI and for the diagnostic set AX too, which are not tasks of
this suite: they are filled with one class, and the README that is written beside the files says so.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gppdfd.cli import parse
from gppdfd.errors import DataError, UsageError
from gppdfd.files import write_text
from suites.published import GENERATED
from suites.records import Record, finished_record
from suites.store import Store

OUT = Path("results/submission")
_NLI = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_BINARY = ("0", "1")


@dataclass(frozen=True)
class ServerFile:
    """A file of a submission.

    Attributes:
        name: what the server calls it.
        rows: number of official test rows.
        answers: allowed answers in the order of our classes; empty for scores from 0 to 5.
        split: name of the official split.
    """

    name: str
    rows: int
    answers: tuple[str, ...]
    split: str = "test"

    @property
    def file(self) -> str:
        return f"{self.name}.tsv"


# Rows: https://gluebenchmark.com/tasks; names of files and answers: the sample submission there.
SERVER_FILES: dict[str, tuple[ServerFile, ...]] = {
    "cola": (ServerFile("CoLA", 1063, _BINARY),),
    "sst2": (ServerFile("SST-2", 1821, _BINARY),),
    "mrpc": (ServerFile("MRPC", 1725, _BINARY),),
    "qqp": (ServerFile("QQP", 390_965, _BINARY),),
    "stsb": (ServerFile("STS-B", 1379, ()),),
    "mnli": (
        ServerFile("MNLI-m", 9796, _NLI, "test_matched"),
        ServerFile("MNLI-mm", 9847, _NLI, "test_mismatched"),
    ),
    "qnli": (ServerFile("QNLI", 5463, _ENTAILMENT),),
    "rte": (ServerFile("RTE", 3000, _ENTAILMENT),),
}
# The most frequent class of WNLI's training rows (323 of 635), and of the diagnostic set (Wang et al., 2019, table 6).
FILLED = {ServerFile("WNLI", 146, _BINARY): "0", ServerFile("AX", 1104, _NLI): "entailment"}

Answers = Sequence[int] | Sequence[float]
Predict = Callable[[Path, str, str, Path | None], Answers]


def write_submission(runs: Sequence[Path], out: Path, data_dir: Path | None, predict: Predict) -> list[Path]:
    """Write a file per task of the runs, those of WNLI and AX, and a README that names where each comes from.

    Args:
        runs: folders of finished runs, one per task.
        data_dir: folder with the official test splits.
        predict: (run's folder, task, split, data folder) -> class numbers or scores of the test rows in their order.

    Raises:
        UsageError: a run that is not there or not finished, or two runs of one task.
        DataError: no test split, part of one, or answers that the server would refuse.
    """
    records = by_task(runs)
    made: dict[ServerFile, tuple[list[str], str]] = {}
    for task, (folder, record) in records.items():
        for file in SERVER_FILES[task]:
            made[file] = written_answers(file, predict(folder, task, file.split, data_dir)), _origin(record)
    for file, answer in FILLED.items():
        made[file] = [answer] * file.rows, f"no model: every row is `{answer}`, the majority class"
    paths = [_write_tsv(out / file.file, answers) for file, (answers, _) in made.items()]
    page = out / "README.md"
    write_text(page, _page({file: origin for file, (_, origin) in made.items()}))
    return [*paths, page]


def by_task(runs: Sequence[Path]) -> dict[str, tuple[Path, Record]]:
    """Folder and record of each run by task, in GLUE's order."""
    found: dict[str, tuple[Path, Record]] = {}
    for folder in runs:
        record = _finished(folder)
        if record.task in found:
            raise UsageError(f"two runs of {record.task}: {found[record.task][0].name} and {folder.name}; name one")
        found[record.task] = folder, record
    return {task: found[task] for task in SERVER_FILES if task in found}


def _finished(folder: Path) -> Record:
    record = finished_record(folder)
    if record.task not in SERVER_FILES:
        raise UsageError(f"{folder.name}: the GLUE server has no task {record.task}")
    if record.data.source == GENERATED:
        raise UsageError(f"{folder.name} was trained on generated data, not on GLUE's {record.task}")
    return record


def written_answers(file: ServerFile, answers: Answers) -> list[str]:
    """Answers as the server reads them.

    Raises:
        DataError: not as many as the server has rows, or one that it does not know.
    """
    if len(answers) != file.rows:
        raise DataError(
            f"{file.file}: {len(answers)} answers, the server wants {file.rows}: is this the official split?"
        )
    if not file.answers:
        return [_score(file, float(answer)) for answer in answers]
    outside = [answer for answer in answers if answer not in range(len(file.answers))]
    if outside:
        raise DataError(f"{file.file}: class {outside[0]} is none of the {len(file.answers)} that the server knows")
    return [file.answers[int(answer)] for answer in answers]


def _score(file: ServerFile, answer: float) -> str:
    if answer != answer:
        raise DataError(f"{file.file}: an answer is not a number; the run has diverged")
    return f"{min(max(answer, 0.0), 5.0):.3f}"


def _write_tsv(path: Path, answers: Sequence[str]) -> Path:
    lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(answers))]
    write_text(path, "\n".join(lines) + "\n")
    return path


def _origin(record: Record) -> str:
    where = f"{record.primary.split}: {record.primary.metric} {100 * record.primary.value:.1f}"
    return f"`{record.run_id}` ({record.label}; on dev, {where})"


def _page(origins: Mapping[ServerFile, str]) -> str:
    lines = [f"| {file.file} | {file.rows} | {origin} |" for file, origin in origins.items()]
    every = [file for files in SERVER_FILES.values() for file in files]
    missing = ", ".join(file.file for file in every if file not in origins)
    end = (
        f"Not complete: the server also wants {missing}. Name runs of these tasks too."
        if missing
        else "Complete: put the TSV files, without folders, into one zip file."
    )
    return "\n".join(["# GLUE submission", "", "| file | rows | answers |", "| :-- | --: | :-- |", *lines, "", end, ""])


def predict_test(folder: Path, task: str, split: str, data_dir: Path | None) -> Answers:
    """Answers of a run's saved model on a test split; torch is loaded here and nowhere before."""
    from suites.unlabelled import predict_split

    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return predict_split(folder / "model", task, split, data_dir, config["data"]["max_length"], config["precision"])


# --- the command ---


def submission_command(arguments: Sequence[str] | None) -> int:
    """Write the files and print their paths."""
    options = parse(_parser(), arguments)
    runs = list(map(Store(options.store).named, options.runs))
    written = write_submission(runs, options.out, options.data_dir, predict_test)
    print("\n".join(map(str, written)))
    print(written[-1].read_text(encoding="utf-8").splitlines()[-1])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.report submission", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="id or folder of a finished run, one per task")
    parser.add_argument("--store", type=Path, default=Path("results/runs"), metavar="DIR", help="where runs lie")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the test splits (or GPPDFD_DATA)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where to (default: {OUT})")
    return parser
