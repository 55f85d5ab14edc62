"""How much faster an extracted model is in onnxruntime, beside torch.

    python -m benchmarks.onnx_speed SMALL --against DENSE [--batch 32] [--length 128] [--threads 2]

SMALL and DENSE are folders of saved models. onnxruntime is timed as it comes and without its fusion of residuals
and LayerNorm, whose kernel takes longer than the two operators it replaces. Times are of whole models, all runtimes and
both sizes in turn in one process.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
from transformers import PreTrainedModel

from gppdfd.onnx import export
from gppdfd.passes import Shape, forward_pass, random_inputs
from gppdfd.pruned import load_pruned
from gppdfd.timing import TimingConfig, pooled, ratio, times

FUSION = "SkipLayerNormFusion"
RUNTIMES = ("torch", "onnxruntime", f"onnxruntime without {FUSION}")


def ways(model: PreTrainedModel, shape: Shape, threads: int, folder: Path) -> Iterator[tuple[str, Callable]]:
    """By runtime: a call that runs `model` on one batch."""
    yield RUNTIMES[0], forward_pass(model, shape)
    inputs = {name: values.numpy() for name, values in random_inputs(model, shape).items()}
    path = export(model, folder / "model.onnx")
    for runtime, disabled in zip(RUNTIMES[1:], ([], [FUSION]), strict=True):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"], disabled_optimizers=disabled)
        yield runtime, partial(session.run, None, inputs)


def table(small: PreTrainedModel, dense: PreTrainedModel, shape: Shape, timing: TimingConfig) -> Iterator[str]:
    """Lines of the table."""
    calls: dict[tuple[str, str], Callable] = {}
    with TemporaryDirectory() as folder:
        for size, model in (("small", small), ("dense", dense)):
            for runtime, call in ways(model, shape, timing.threads, Path(folder)):
                calls[size, runtime] = call
        rounds = times(calls, timing)
    yield "| runtime | ms dense | ms small | speed-up |\n|---|---:|---:|---:|"
    for runtime in RUNTIMES:
        slow, fast = rounds["dense", runtime], rounds["small", runtime]
        speedup = ratio(slow, fast)
        cells = (f"{pooled(slow).median * 1e3:.0f}", f"{pooled(fast).median * 1e3:.0f}")
        yield f"| {runtime} | {' | '.join(cells)} | {speedup.median:.1f} ({speedup.low:.1f}-{speedup.high:.1f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    small, dense = load_pruned(options.small), load_pruned(options.against)
    timing = TimingConfig(threads=options.threads, rounds=options.rounds, seconds=3.0)
    for line in table(small, dense, Shape(options.batch, options.length), timing):
        print(line, flush=True)


if __name__ == "__main__":
    main()
