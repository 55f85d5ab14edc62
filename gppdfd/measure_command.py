"""`python -m gppdfd measure DIR`: size, FLOPs, latency and memory of a saved model, a picture of what is left of it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from gppdfd.cli import at_least_one
from gppdfd.errors import DataError, UsageError
from gppdfd.files import write_json, write_text
from gppdfd.measure import Report, measure
from gppdfd.measure_report import as_json, as_markdown, show
from gppdfd.models import model_path
from gppdfd.passes import Shape, longest_input
from gppdfd.pruned import PrunedModel, kept, load_pruned
from gppdfd.quiet import quiet
from gppdfd.structure import PREFIX, adapter_for, structure_of
from gppdfd.timing import TimingConfig

BATCHES, LENGTHS = (1, 8, 32, 128), (32, 128, 384)
QUICK_BATCHES, QUICK_LENGTHS = (1, 32), (128,)

_HEADS = {
    "ForSequenceClassification": "SequenceClassification",
    "ForTokenClassification": "TokenClassification",
    "ForQuestionAnswering": "QuestionAnswering",
    "ForMaskedLM": "MaskedLM",
    "ForPreTraining": "MaskedLM",
    "LMHeadModel": "CausalLM",
    "ForCausalLM": "CausalLM",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a saved model, pruned or dense")
    parser.add_argument("--against", metavar="DENSE", help="folder or hub name of the model to compare it with")
    parser.add_argument("--batch", type=at_least_one, nargs="+", help="sequences per batch (default: 1 8 32 128)")
    parser.add_argument("--length", type=at_least_one, nargs="+", help="tokens per sequence (default: 32 128 384)")
    parser.add_argument("--threads", type=at_least_one, help="threads within an operator (default: torch's own)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to measure (default: the GPU if there is one)")
    parser.add_argument("--encoder-only", action="store_true", help="time the layers without embeddings and head")
    parser.add_argument("--quick", action="store_true", help="fewer sizes (batch 1 and 32, length 128), shorter timing")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: DIR/measure)")


def run(options: argparse.Namespace) -> int:
    """Measure, print tables, write `measure.json`, `measure.md`, `structure.png` and `structure.pdf`.

    Raises:
        UsageError: no such folder or device, or no length fits the model.
        DataError: a folder holds no readable model.
    """
    device = _device(options.device)
    model = load_measured(options.folder).to(device)
    against = load_against(options.against, model).to(device) if options.against else None
    with _progress() as progress:
        report = measure(
            model,
            _shapes(options, longest_input(model)),
            _timing(options),
            against=against,
            part="encoder" if options.encoder_only else "model",
            progress=progress,
        )
    show(report)
    for path in write(report, model, options.out or options.folder / "measure"):
        print(path)
    return 0


def write(report: Report, model: PreTrainedModel, out: Path) -> list[Path]:
    """All files of a report; each is written whole or not at all."""
    from gppdfd.drawing import save_figure
    from gppdfd.structure_figure import structure_figure

    write_json(out / "measure.json", as_json(report))
    write_text(out / "measure.md", as_markdown(report) + "\n![kept structure](structure.png)\n")
    title = f"{Path(report.model.name).name}: {100 * report.model.parameters.sparsity:.1f} % of the encoder removed"
    figure = structure_figure(structure_of(model), kept(model) if isinstance(model, PrunedModel) else {}, title)
    return [out / "measure.json", out / "measure.md", *save_figure(figure, "structure", out)]


# --- models ---


def load_measured(folder: Path) -> PreTrainedModel:
    """A saved model, pruned or dense, with the head that it was saved with.

    Raises:
        UsageError: no such folder, or no supported architecture.
        DataError: it holds no readable model.
    """
    if not folder.is_dir():
        raise UsageError(f"folder {str(folder)!r} does not exist; give the folder of a saved model")
    config = _read(str(folder), AutoConfig.from_pretrained)
    adapter_for(config)
    return _ready(load_pruned(folder))


def load_against(name: str, like: PreTrainedModel) -> PreTrainedModel:
    """The model `name` with the number type, the kind and the width of head of `like`: only the encoders differ.

    A head that `name` does not have, or has in another width, gets random weights: they take the same time.

    Raises:
        UsageError: no supported architecture.
        DataError: it cannot be read.
    """
    config = _read(name, AutoConfig.from_pretrained, num_labels=like.config.num_labels)
    if config.model_type.startswith(PREFIX):
        return load_measured(Path(name)).to(like.dtype)
    return _dense(name, config, _auto_class(like.config), like.dtype)


def _dense(name: str, config: Any, auto: Any, dtype: torch.dtype) -> PreTrainedModel:
    adapter_for(config)
    # Only safetensors: other weights are unpickled, which can run anything.
    settings = {"dtype": dtype, "use_safetensors": True, "ignore_mismatched_sizes": True}
    return _ready(_read(name, auto.from_pretrained, config=config, **settings))


def _auto_class(config: Any) -> Any:
    """The Auto class of the head that the model was saved with."""
    architecture = (config.architectures or [""])[0]
    heads = (head for ending, head in _HEADS.items() if architecture.endswith(ending))
    head = next(heads, None)
    return getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")


def _read(name: str, read: Any, **settings: Any) -> Any:
    try:
        with quiet():
            return read(model_path(name), **settings)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"model {name!r} cannot be loaded: {reason}. It needs config.json and model.safetensors"
        ) from error


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    """In evaluation mode, able to take batches."""
    # Decoders without a padding token refuse batches, although nothing here is padded.
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    return model.eval()


# --- options ---


def _shapes(options: argparse.Namespace, limit: int) -> list[Shape]:
    """Batches and lengths that were asked for; of the default lengths at least one fits `limit` positions."""
    batches = options.batch or (QUICK_BATCHES if options.quick else BATCHES)
    defaults = QUICK_LENGTHS if options.quick else LENGTHS
    lengths = options.length or (defaults if min(defaults) <= limit else [limit])
    return [Shape(batch, length) for length, batch in product(sorted(set(lengths)), sorted(set(batches)))]


def _timing(options: argparse.Namespace) -> TimingConfig:
    threads = options.threads or torch.get_num_threads()
    return TimingConfig(threads, seconds=0.3, rounds=3) if options.quick else TimingConfig(threads)


def _device(name: str | None) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here; leave the option out to measure on the CPU")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def _progress() -> Iterator[Any]:
    """A status line on a terminal, nothing elsewhere."""
    from rich.console import Console

    with Console(stderr=True).status("counting FLOPs") as status:
        yield lambda shape: status.update(f"timing batch {shape.batch}, length {shape.length}")
