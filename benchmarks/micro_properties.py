"""What the micro tasks can tell: majority, bag of words, random start, teacher, and a crippled teacher.

`python -m benchmarks.micro_properties` prints a markdown table: the primary metric in points, mean and
standard deviation over seeds. It has a small training loop of its own: it judges the data, not the suite.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel

from gppdfd.seeds import derive_seed, generator
from gppdfd.tasks.base import Split, TaskData, TaskSpec
from gppdfd.tasks.micro import MODEL, SPECS, load

HEADER = (
    "task",
    "rows",
    "tokens",
    "majority",
    "bag of words",
    "random start",
    "teacher",
    "95% removed at random",
)


@dataclass(frozen=True)
class Settings:
    """Fine-tuning of one model."""

    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 5e-4
    model: Path = MODEL


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews": matthews_corrcoef,
    "spearman": lambda labels, values: 0.0 if np.ptp(values) == 0 else spearmanr(labels, values).statistic,
}


def points(spec: TaskSpec, labels: np.ndarray, predictions: np.ndarray) -> float:
    """The primary metric, times 100."""
    return 100 * float(METRICS[spec.primary](labels, predictions))


def majority(data: TaskData, dev: Split) -> float:
    constant = 0 if data.spec.regression else np.bincount(data.train.labels).argmax()
    return points(data.spec, dev.labels, np.full(len(dev), constant))


def bag_of_words(data: TaskData, dev: Split) -> float:
    """Linear model on the counts of words, with separate features per text column."""
    counters = [CountVectorizer(token_pattern=r"\S+").fit(texts) for texts in data.train.texts]
    train_counts, dev_counts = (
        csr_matrix(hstack([words.transform(texts) for words, texts in zip(counters, split.texts, strict=True)]))
        for split in (data.train, dev)
    )
    model = Ridge(alpha=10.0) if data.spec.regression else LogisticRegression(C=0.3, max_iter=1000)
    return points(data.spec, dev.labels, model.fit(train_counts, data.train.labels).predict(dev_counts))


@dataclass(frozen=True)
class Tokens:
    """A tokenised split; rows are padded when a batch is made."""

    ids: list[list[int]]
    types: list[list[int]]
    labels: Tensor

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        ids, types = (
            nn.utils.rnn.pad_sequence([torch.tensor(values[row]) for row in rows], batch_first=True)
            for values in (self.ids, self.types)
        )
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": (ids > 0).long()}

    def __len__(self) -> int:
        return len(self.ids)


def tokenise(split: Split, model: Path) -> Tokens:
    encoded = AutoTokenizer.from_pretrained(model)(*split.texts)
    return Tokens(encoded["input_ids"], encoded["token_type_ids"], torch.from_numpy(split.labels))


def batches(tokens: Tokens, size: int, random: torch.Generator) -> Iterator[list[int]]:
    """Endless shuffled batches; the rows of four batches at a time are sorted by length to save padding."""
    while True:
        order = torch.randperm(len(tokens), generator=random).tolist()
        pools = (order[at : at + 4 * size] for at in range(0, len(order), 4 * size))
        ordered = [row for pool in pools for row in sorted(pool, key=lambda row: len(tokens.ids[row]))]
        cut = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        yield from (cut[place] for place in torch.randperm(len(cut), generator=random).tolist())


def classifier(spec: TaskSpec, settings: Settings, pretrained: bool, seed: int) -> PreTrainedModel:
    torch.manual_seed(derive_seed(seed, spec.name, "classifier"))
    if pretrained:
        return AutoModelForSequenceClassification.from_pretrained(settings.model, num_labels=spec.outputs)
    config = AutoConfig.from_pretrained(settings.model, num_labels=spec.outputs)
    return AutoModelForSequenceClassification.from_config(config)


def fine_tune(model: PreTrainedModel, spec: TaskSpec, train: Tokens, settings: Settings, seed: int) -> None:
    """AdamW; a tenth of the steps is linear warm-up, the rest linear decay."""
    warmup, steps = settings.steps // 10, settings.steps
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    model.train()
    drawn = batches(train, settings.batch_size, generator(seed, spec.name))
    for _, rows in zip(range(steps), drawn, strict=False):
        loss = task_loss(spec, model(**train.batch(rows)).logits, train.labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def task_loss(spec: TaskSpec, logits: Tensor, labels: Tensor) -> Tensor:
    if spec.regression:
        return nn.functional.mse_loss(logits[:, 0], labels)
    return nn.functional.cross_entropy(logits, labels)


@torch.inference_mode()
def evaluate(model: PreTrainedModel, spec: TaskSpec, dev: Tokens) -> float:
    model.eval()
    order = sorted(range(len(dev)), key=lambda row: len(dev.ids[row]))
    logits = torch.cat([model(**dev.batch(order[at : at + 50])).logits for at in range(0, len(order), 50)])
    predictions = logits[:, 0] if spec.regression else logits.argmax(1)
    return points(spec, dev.labels[order].numpy(), predictions.numpy())


@torch.no_grad()
def prune_at_random(model: PreTrainedModel, seed: int, heads: int = 2, units: int = 85) -> None:
    """Cut off for good all but `heads` attention heads and `units` FFN units, drawn at random."""
    config, random = model.config, generator(seed, "prune")
    size = config.hidden_size // config.num_attention_heads
    kept_heads = _keep(config.num_hidden_layers * config.num_attention_heads, heads, random)
    kept_units = _keep(config.num_hidden_layers * config.intermediate_size, units, random)
    head_masks = kept_heads.view(config.num_hidden_layers, -1).repeat_interleave(size, 1)
    unit_masks = kept_units.view(config.num_hidden_layers, -1)
    for layer, head_mask, unit_mask in zip(model.bert.encoder.layer, head_masks, unit_masks, strict=True):
        _cut(layer.attention.output.dense.weight, head_mask)
        _cut(layer.output.dense.weight, unit_mask)


def _keep(total: int, kept: int, random: torch.Generator) -> Tensor:
    mask = torch.zeros(total)
    mask[torch.randperm(total, generator=random)[:kept]] = 1
    return mask


def _cut(weight: Tensor, mask: Tensor) -> None:
    weight *= mask
    weight.register_hook(lambda gradient: gradient * mask)


def scores_of(data: TaskData, settings: Settings, pruned_steps: int, seed: int) -> dict[str, list[float]]:
    """Per evaluation split: random start, teacher, and the teacher crippled and trained again."""
    spec, train = data.spec, tokenise(data.train, settings.model)
    models = [classifier(spec, settings, pretrained, seed) for pretrained in (False, True)]
    for model in models:
        fine_tune(model, spec, train, settings, seed)
    crippled = copy.deepcopy(models[-1])
    prune_at_random(crippled, seed)
    fine_tune(crippled, spec, train, replace(settings, steps=pruned_steps), derive_seed(seed, "again"))
    return {
        name: [evaluate(model, spec, tokenise(dev, settings.model)) for model in (*models, crippled)]
        for name, dev in data.evaluations.items()
    }


def measure(name: str, seeds: int, settings: Settings, pruned_steps: int) -> Iterator[list[str]]:
    """Table rows of a task, one per evaluation split; columns as in `HEADER`."""
    data = load(name)
    runs = [scores_of(data, settings, pruned_steps, seed) for seed in range(seeds)]
    length = np.mean([len(ids) for ids in tokenise(data.train, settings.model).ids])
    for split, dev in data.evaluations.items():
        label = f"{name}-mm" if split == "mismatched" else name
        plain = (f"{value:.1f}" for value in (length, majority(data, dev), bag_of_words(data, dev)))
        yield [
            label,
            f"{len(data.train)}",
            *plain,
            *map(_mean, zip(*(run[split] for run in runs), strict=True)),
        ]


def _mean(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(SPECS), choices=list(SPECS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--pruned-steps", type=int, default=100)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(options.steps, options.batch_size, options.learning_rate, options.model)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for name in options.tasks:
        for row in measure(name, options.seeds, settings, options.pruned_steps):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
