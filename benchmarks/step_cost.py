"""What one optimiser step costs, part by part, as ratios to plain fine-tuning measured in the same process.

    python benchmarks/step_cost.py --model micro --tokens 16 --batch-size 16

The rows are taken in turn, several times over, and the medians are compared: on a busy machine absolute times mean
little.
"""

import argparse
import statistics
from collections.abc import Callable

import torch

from gppdfd.budget import Target
from gppdfd.interface import parse_method
from gppdfd.models import load_encoder
from gppdfd.settings import TrainingConfig
from gppdfd.tasks import task_spec
from gppdfd.tasks.encoding import Encoded
from gppdfd.training import Trainer

SPEC = task_spec("sst2")

ROWS = {
    "plain fine-tuning": ("none+none", 0.0, False),
    "search, no teacher": ("gpp+none", 0.95, False),
    "search, live teacher": ("gpp+dfd", 0.95, False),
    "search, cached teacher": ("gpp+dfd", 0.95, True),
}


def random_data(rows: int, tokens: int, vocabulary: int) -> Encoded:
    """Sequences of equal length, so that every step does the same work."""
    ids = torch.randint(5, vocabulary, (rows * tokens,), dtype=torch.int32)
    offsets = torch.arange(rows + 1) * tokens
    return Encoded(ids, torch.zeros_like(ids, dtype=torch.uint8), offsets, torch.randint(0, 2, (rows,)), pad=0)


def phase_times(spec: str, sparsity: float, cached: bool, args: argparse.Namespace) -> dict[str, float]:
    """Seconds per step of each phase of one short run."""
    pruner, distiller = parse_method(spec).build()
    models = [load_encoder(args.model, SPEC, seed) for seed in (1, 2)]
    data = random_data(args.steps * args.batch_size, args.tokens, models[0].config.vocab_size)
    config = TrainingConfig(batch_size=args.batch_size, search_epochs=1, recovery_epochs=1, cache_teacher=cached)
    trainer = Trainer(models[0], pruner, distiller, data, config, teacher=models[1], target=Target(sparsity))
    seconds = trainer.run().seconds
    return {phase: seconds[phase] / max(1, getattr(trainer.phases, phase)) for phase in ("search", "recovery")}


def medians(measure: Callable[[str, float, bool], dict[str, float]], repeats: int) -> dict[str, dict[str, float]]:
    """Median per row and phase over interleaved repeats."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    for _ in range(repeats):
        for name, row in ROWS.items():
            seen[name].append(measure(*row))
    return {
        name: {phase: statistics.median(each[phase] for each in times) for phase in times[0]}
        for name, times in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = medians(lambda *row: phase_times(*row, args), args.repeats)
    plain = found["plain fine-tuning"]["recovery"]
    print(f"plain fine-tuning: {1000 * plain:.1f} ms per step ({args.model}, {args.batch_size} x {args.tokens} tokens)")
    print("| ratio to plain fine-tuning | search step | recovery step at 95 % |\n|---|---:|---:|")
    for name in list(ROWS)[1:]:
        print(f"| {name} | {found[name]['search'] / plain:.2f} | {found[name]['recovery'] / plain:.2f} |")


if __name__ == "__main__":
    main()
