"""How well a latency table predicts models that were really extracted: predicted against measured time of the layers.

    python -m benchmarks.latency_table --model micro --batch 32 --length 64

Keeps are drawn at random: every layer gets a share of its heads and FFN dims of its own around the given one. The table
is measured first, the extracted models afterwards, in turn; the error is that of the prediction, in percent of the
measured median.
"""

import argparse
import statistics

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from gppdfd.extraction import extract
from gppdfd.latency import LatencyTable
from gppdfd.measure import latencies
from gppdfd.models import model_path
from gppdfd.passes import Shape
from gppdfd.seeds import generator
from gppdfd.structure import Keep, Structure, structure_of
from gppdfd.timing import Spread, TimingConfig, pooled

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)


def random_keep(structure: Structure, share: float, seed: int) -> Keep:
    """Heads and FFN dims, kept with a probability that every layer draws between 0 and twice `share` (at most 1)."""
    drawn = generator(seed, "latency", str(share))
    keep = {}
    for kind in ("head", "ffn"):
        layers, units = structure.shape(kind)
        shares = (
            (2 * share * torch.rand(layers, 1, generator=drawn)).clamp(max=1) if share < 1 else torch.ones(layers, 1)
        )
        keep[kind] = torch.rand(layers, units, generator=drawn) < shares
    return keep


def random_model(name: str) -> PreTrainedModel:
    """Random weights in the sizes of a model."""
    return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(model_path(name))).eval()


def measured(models: dict[str, PreTrainedModel], shape: Shape, timing: TimingConfig) -> dict[str, Spread]:
    """Time of the layers of each model, in turn."""
    return {name: pooled(rounds) for name, (rounds, _) in latencies(models, shape, "encoder", timing).items()}


def errors(args: argparse.Namespace, timing: TimingConfig) -> list[float]:
    """Print a row per keep; returns the errors in percent."""
    model, shape = random_model(args.model), Shape(args.batch, args.length)
    structure = structure_of(model)
    keeps = {
        f"{share:g} #{seed}": random_keep(structure, share, seed)
        for share in SHARES
        for seed in range(args.keeps if share < 1 else 1)
    }
    table = LatencyTable.measure(structure, shape, timing)
    found = measured({name: extract(model, keep) for name, keep in keeps.items()}, shape, timing)
    rows = {name: (table.seconds(structure, keeps[name]), seconds) for name, seconds in found.items()}
    print(f"{table.machine.device}, {timing.threads} threads, torch {table.machine.torch}; {args.model}, {shape}\n")
    print("| share of units | predicted ms | measured ms | IQR | error |\n|---|---:|---:|---:|---:|")
    for name, (predicted, seconds) in rows.items():
        print(
            f"| {name} | {1000 * predicted:.2f} | {1000 * seconds.median:.2f} | {1000 * seconds.iqr:.2f} "
            f"| {percent(predicted, seconds):+.1f} % |"
        )
    return [percent(*row) for row in rows.values()]


def percent(predicted: float, seconds: Spread) -> float:
    return 100 * (predicted / seconds.median - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each thing that is timed")
    parser.add_argument("--keeps", type=int, default=3, help="random keeps per share")
    args = parser.parse_args()
    found = errors(args, TimingConfig(args.threads, args.seconds))
    worst = max(found, key=abs)
    print(f"\nmedian |error| {statistics.median(map(abs, found)):.1f} %, worst {worst:+.1f} %")


if __name__ == "__main__":
    main()
