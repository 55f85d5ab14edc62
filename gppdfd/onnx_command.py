"""`python -m gppdfd export DIR --output FILE.onnx`: a saved model, pruned or dense, as an ONNX file."""

import argparse
from pathlib import Path

from gppdfd.errors import UsageError
from gppdfd.onnx import OPSETS, export
from gppdfd.pruned import load_pruned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a saved model, pruned or dense")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.onnx", help="file to write")
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=OPSETS[0],
        metavar="N",
        help=f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)",
    )
    parser.add_argument("--no-check", action="store_true", help="do not compare the file with the model in onnxruntime")


def run(options: argparse.Namespace) -> int:
    """Export and say where.

    Raises:
        UsageError: no such folder, or its model cannot be exported.
        DataError: the folder holds no readable model, or the file does not compute what it does.
    """
    if not options.folder.is_dir():
        raise UsageError(f"folder {str(options.folder)!r} does not exist; give the folder of a saved model")
    model = load_pruned(options.folder).float()
    print(export(model, options.output, opset=options.opset, check=not options.no_check))
    return 0
