"""How much faster extracted encoders are, step by step from dense to 95 % sparsity, beside their ratio of FLOPs.

    python -m benchmarks.pruned_speed --model FOLDER_OR_NAME [--batch 32] [--length 128] [--threads 2]

Two sets of kinds are pruned, the same share of every kind: whole heads with FFN dims, and dims inside heads with FFN
dims. The ranking is a first-order importance |dL/dz| on random tokens with random labels, which leaves heads as unequal
as trained methods do; no score of any task is claimed. Times are of the layers
alone, without embeddings and head, dense and small model in turn in one process.
"""

import argparse

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from gppdfd.budget import least_important, sparsity
from gppdfd.extraction import extract
from gppdfd.masks import masked
from gppdfd.measure import measure
from gppdfd.passes import Shape
from gppdfd.structure import Keep, Masks, structure_of
from gppdfd.structure.heads import heads_of
from gppdfd.timing import TimingConfig

KIND_SETS = (("head", "ffn"), ("qk", "vo", "ffn"))
STEPS = (0.0, 0.5, 0.8, 0.9, 0.95)


def importance(model: PreTrainedModel, kinds: tuple[str, ...], batches: int = 8) -> Masks:
    """Sum of |dL/dz| of every unit over batches of random tokens."""
    stream = torch.Generator().manual_seed(0)
    masks = {kind: values.requires_grad_() for kind, values in structure_of(model).ones(kinds).items()}
    sums = {kind: torch.zeros_like(values) for kind, values in masks.items()}
    with masked(model.eval(), masks):
        for _ in range(batches):
            tokens = torch.randint(5, model.config.vocab_size, (16, 64), generator=stream)
            labels = torch.randint(0, model.config.num_labels, (16,), generator=stream)
            loss = cross_entropy(model(input_ids=tokens).logits, labels)
            for kind, gradient in zip(kinds, torch.autograd.grad(loss, list(masks.values())), strict=True):
                sums[kind] += gradient.abs()
    return sums


def keep_at(scores: Masks, target: float) -> Keep:
    """The most important units of each kind, over all layers together; the same share of every kind goes."""
    return {kind: ~least_important(values, round(target * values.numel())) for kind, values in scores.items()}


def shape_of(model: PreTrainedModel, keep: Keep) -> str:
    structure = structure_of(model)
    settled = structure.settled(keep)
    layers = [heads_of(structure, settled, layer) for layer in range(structure.layers)]
    averaging = sum(len(heads.averaging.heads) for heads in layers if heads.averaging)
    widths = "/".join(map(str, settled["ffn"].sum(-1).tolist()))
    return f"{sum(map(len, layers))} heads, {averaging} of them averaging; FFN {widths}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2).eval()
    timing = TimingConfig(threads=options.threads, rounds=options.rounds)
    shape = Shape(options.batch, options.length)
    columns = ("kinds", "sparsity", "speed-up", "ratio of FLOPs", "share", "ms dense", "ms small", "left")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for kinds in KIND_SETS:
        scores = importance(model, kinds)
        for target in STEPS:
            keep = keep_at(scores, target)
            row = measure(extract(model, keep), [shape], timing, against=model, part="encoder").rows[0]
            assert row.against is not None
            assert row.speedup is not None
            cells = (
                "+".join(kinds),
                f"{sparsity(structure_of(model), keep):.3f}",
                f"{row.speedup.median:.1f} ({row.speedup.low:.1f}-{row.speedup.high:.1f})",
                f"{row.flops_ratio:.1f}",
                f"{row.speedup.median / row.flops_ratio:.2f}",
                f"{row.against.seconds.median * 1e3:.0f}",
                f"{row.model.seconds.median * 1e3:.1f}",
                shape_of(model, keep),
            )
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
