"""Prune a model on rows of your own; the folder that it writes holds model, tokenizer and `compression.json`."""

import argparse
import hashlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gppdfd.cli import at_least_one, set_value
from gppdfd.errors import UsageError
from gppdfd.files import home_of, write_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gppdfd.compression import Report

REPORT = "compression.json"
NOT_HIDDEN = ("[!.]*",)
DEFAULT_SPARSITY = 0.95
TARGETS = {
    "sparsity": (float, f"share of the encoder's parameters to remove (default: {DEFAULT_SPARSITY})"),
    "params": (int, "encoder parameters that may remain"),
    "flops": (float, "FLOPs of the encoder layers on 128 tokens that may remain"),
    "latency": (float, "seconds that the encoder layers may take for 32 rows of 128 tokens on this machine"),
}
"""Options of which one is given: type and help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("--model", required=True, help="folder or hub name of the encoder or classifier")
    add("--data", required=True, type=Path, metavar="FILE", help="training rows: .csv, .tsv, .jsonl or .parquet")
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--text-column", action="append", metavar="NAME",
        help="column with the texts; give it twice for pairs (default: the only one with texts)")  # fmt: skip
    add("--label-column", default="label", metavar="NAME", help="column with the labels (default: %(default)s)")
    _add_targets(parser)
    add("--method", default="gpp+dfd", help="default: %(default)s; python -m suites.list methods prints all")
    add("--teacher", metavar="DIR", help="fine-tuned classifier, folder or hub name (default: one is trained first)")
    add("--tokenizer", metavar="DIR", help="folder or hub name (default: the model's)")
    add("--eval-data", type=Path, metavar="FILE", help="rows to score student and teacher on at the end")
    add("--epochs", type=float, metavar="N", help="epochs of the search and of the recovery each")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="training settings: training.learning_rate=1e-4 training.batch_size=16")  # fmt: skip
    add("--max-length", type=at_least_one, metavar="N", help="tokens per row (default: 128)")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--precision", default="fp32", help="fp32 (default) or bf16")
    add("--overwrite", action="store_true", help="replace the model in --output")
    add("--quiet", action="store_true", help="show no progress")


def run(options: argparse.Namespace) -> int:
    """Check the request, compress, write the folder; returns the exit code.

    Raises:
        UsageError, DataError: before any training, with a message for the user; `--output` is as it was.
    """
    settings, target = _training(options), _target(options)
    check_output(options)
    # Late, because torch takes seconds that a wrong option should not cost.
    from gppdfd.compression import compress
    from gppdfd.given import Models
    from gppdfd.tasks.table import read_table

    found: list[Report] = []
    tokenizer = Models(options.model, None).tokenizer(options.tokenizer)
    train, evaluation = (path and read_table(path) for path in (options.data, options.eval_data))
    about = _surroundings(options)
    small = compress(
        options.model,
        train,
        teacher=options.teacher,
        method=options.method,
        target=target,
        tokenizer=tokenizer,
        text_columns=options.text_column,
        label_column=options.label_column,
        eval_dataset=evaluation,
        training=settings,
        max_length=options.max_length,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        progress=not options.quiet,
        report=found.append,
    )
    write_output(options.output, small, tokenizer, {**found[0].as_dict(), **about})
    print(f"small model in {options.output}")
    return 0


def check_output(options: argparse.Namespace) -> None:
    """Refuse an output folder that would cost the user something, or that cannot be written.

    Raises:
        UsageError: it is a file, holds something, or holds what is to be read.
    """
    folder: Path = options.output
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file; name a folder")
    for given in filter(None, (options.model, options.teacher, options.tokenizer, options.data, options.eval_data)):
        if folder.resolve() in (Path(given).resolve(), *Path(given).resolve().parents):
            raise UsageError(f"--output {folder} holds {given}, which is to be read; name another folder")
    if folder.is_dir() and any(folder.iterdir()):
        _check_overwrite(folder, options.overwrite)
    home = home_of(folder)
    home.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryDirectory(prefix=".gppdfd.", dir=home).cleanup()  # fails here, not in the end


def _check_overwrite(folder: Path, overwrite: bool) -> None:
    if not overwrite:
        raise UsageError(f"--output {folder} is not empty: name another folder, or add --overwrite")
    if not (folder / REPORT).is_file():
        raise UsageError(
            f"--overwrite replaces only what this command wrote, but {folder} holds no {REPORT}; name another folder"
        )


def write_output(folder: Path, model: "PreTrainedModel", tokenizer: Any, report: Mapping[str, Any]) -> None:
    """Write model, tokenizer and report into `folder`; of what was there before, only hidden files such as .git stay.

    Raises:
        DataError: the finished files cannot be moved into `folder`; the message says where they lie.
    """
    from gppdfd.files import write_json
    from gppdfd.pruned import save

    def write(temporary: Path) -> None:
        save(model, temporary, tokenizer)
        write_json(temporary / REPORT, report)

    write_model(folder, write, replaced=NOT_HIDDEN)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for name, (kind, text) in TARGETS.items():
        group.add_argument(f"--{name}", type=kind, metavar="X", help=text)


def _target(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in TARGETS if getattr(options, name) is not None}
    return given or {"sparsity": DEFAULT_SPARSITY}


def _training(options: argparse.Namespace) -> dict[str, Any]:
    """Training settings of --epochs and --set."""
    settings: dict[str, Any] = {}
    for setting in options.set:
        if not setting.startswith("training."):
            raise UsageError(f"--set {setting}: write training.KEY=VALUE, such as training.learning_rate=1e-4")
        set_value(settings, setting)
    epochs = {} if options.epochs is None else dict.fromkeys(("search_epochs", "recovery_epochs"), options.epochs)
    return epochs | settings.get("training", {})


def _surroundings(options: argparse.Namespace) -> dict[str, Any]:
    """What the report says beside the compression itself: inputs, never with a path of this machine, and versions."""
    import torch
    import transformers

    import gppdfd
    from gppdfd.models import model_content

    return {
        "inputs": {
            **_described("model", options.model, model_content),
            **_described("teacher", options.teacher, model_content),
            **_described("data", options.data, _file_content),
            **_described("eval_data", options.eval_data, _file_content),
            "text_column": options.text_column,
            "label_column": options.label_column,
            "max_length": options.max_length,
            "precision": options.precision,
        },
        "versions": {
            "gppdfd": gppdfd.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def _described(what: str, given: str | Path | None, content: Callable[[str], str | None]) -> dict[str, str | None]:
    """Name of an input, without folders, and a hash of what is in it, if it is on this machine."""
    if given is None:
        return {what: None}
    path = Path(given)
    return {what: path.resolve().name if path.exists() else str(given), f"{what}_content": content(str(given))}


def _file_content(path: str) -> str:
    """What `sha256sum` prints."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
