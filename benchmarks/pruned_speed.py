"""How much faster extracted encoders are, step by step from dense to 95 % sparsity, beside their ratio of FLOPs.

    python -m benchmarks.pruned_speed --model FOLDER_OR_NAME [--task mrpc] [--data-dir DIR] [--threads 2]

Two sets of kinds are pruned: whole heads with FFN dims, and dims inside heads with FFN dims. Units are ranked by
|dL/dz| on training rows of the task, all kinds and layers together, as GRAIN does (arXiv 2212.07634), so that heads
become as unequal as a method makes them; nothing is trained, and no score is claimed. Times are of the layers alone,
without embeddings and head, dense and small model in turn in one process.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel

from gppdfd.budget import parameters, prunable, sparsity
from gppdfd.extraction import extract
from gppdfd.masks import masked
from gppdfd.measure import measure
from gppdfd.models import load_encoder, load_tokenizer
from gppdfd.passes import Shape
from gppdfd.structure import Keep, Masks, Structure, structure_of
from gppdfd.structure.heads import heads_of
from gppdfd.tasks import load_task
from gppdfd.tasks.encoding import Encoded, encode, epoch_batches
from gppdfd.timing import TimingConfig
from gppdfd.training import task_loss
from gppdfd.views import Observed

KIND_SETS = (("head", "ffn"), ("qk", "vo", "ffn"))
STEPS = (0.0, 0.5, 0.8, 0.9, 0.95)


def importance(model: PreTrainedModel, train: Encoded, kinds: tuple[str, ...], batches: int = 20) -> Masks:
    """Sum of |dL/dz| of every unit over batches of training rows."""
    masks = {kind: values.requires_grad_() for kind, values in structure_of(model).ones(kinds).items()}
    sums = {kind: torch.zeros_like(values) for kind, values in masks.items()}
    order = epoch_batches(train, 32, torch.Generator().manual_seed(0))[:batches]
    with masked(model.eval(), masks):
        view = Observed(model)
        for batch in map(train.batch, order):
            loss = task_loss(view(batch).logits, batch.labels, regression=model.config.num_labels == 1)
            for kind, gradient in zip(kinds, torch.autograd.grad(loss, list(masks.values())), strict=True):
                sums[kind] += gradient.abs()
    return sums


def keep_at(structure: Structure, scores: Masks, target: float) -> Keep:
    """The most important units of all kinds and layers together; `target` of the parameters goes."""
    sizes = torch.cat([torch.full((v.numel(),), unit_parameters(structure, kind)) for kind, v in scores.items()])
    order = torch.cat([values.flatten() for values in scores.values()]).argsort()
    gone = order[sizes[order].cumsum(0) <= target * prunable(structure)]
    kept = torch.ones(len(order), dtype=torch.bool)
    kept[gone] = False
    parts = kept.split([values.numel() for values in scores.values()])
    return {kind: part.view(scores[kind].shape) for kind, part in zip(scores, parts, strict=True)}


def unit_parameters(structure: Structure, kind: str) -> int:
    """Parameters that leave with one unit of a kind."""
    keep = structure.keep_all((kind,))
    keep[kind].view(-1)[0] = False
    return prunable(structure) - parameters(structure, keep)


def shape_of(model: PreTrainedModel, keep: Keep) -> str:
    structure = structure_of(model)
    settled = structure.settled(keep)
    layers = [heads_of(structure, settled, layer) for layer in range(structure.layers)]
    averaging = sum(len(heads.averaging.heads) for heads in layers if heads.averaging)
    widths = "/".join(map(str, settled["ffn"].sum(-1).tolist()))
    return f"{sum(map(len, layers))} heads, {averaging} of them averaging; FFN {widths}"


def table(model: PreTrainedModel, train: Encoded, shape: Shape, timing: TimingConfig) -> Iterator[str]:
    """Lines of the table, each when it has been measured."""
    columns = ("kinds", "sparsity", "speed-up", "ratio of FLOPs", "share", "ms dense", "ms small", "left")
    yield f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    for kinds in KIND_SETS:
        scores = importance(model, train, kinds)
        for target in STEPS:
            keep = keep_at(structure_of(model), scores, target)
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
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name, best a classifier fine-tuned on the task")
    parser.add_argument("--tokenizer", help="default: the model's")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--data-dir", type=Path, help="folder that holds glue/; without it the hub")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_task(options.task, "glue", data_dir=options.data_dir)
    model = load_encoder(options.model, data.spec, seed=0).eval()
    train = encode(data, load_tokenizer(options.tokenizer or options.model), options.length).train
    timing = TimingConfig(threads=options.threads, rounds=options.rounds)
    for line in table(model, train, Shape(options.batch, options.length), timing):
        print(line, flush=True)


if __name__ == "__main__":
    main()
