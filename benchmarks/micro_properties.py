"""What the micro benchmark can tell: majority, bag of words, random start and pre-trained teacher per task.

`python -m benchmarks.micro_properties` prints a markdown table (means over seeds, primary metric in points).
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Settings:
    """Fine-tuning of one model."""

    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 7e-4
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


def first_evaluation(data: TaskData) -> Split:
    return next(iter(data.evaluations.values()))


def majority(data: TaskData) -> float:
    dev = first_evaluation(data)
    constant = 0.0 if data.spec.regression else np.bincount(data.train.labels).argmax()
    return points(data.spec, dev.labels, np.full(len(dev), constant))


def bag_of_words(data: TaskData) -> float:
    """Linear model on the counts of words, with separate features per text column."""
    dev = first_evaluation(data)
    columns = [
        (CountVectorizer(token_pattern=r"\S+"), *texts)
        for texts in zip(data.train.texts, dev.texts, strict=True)
    ]
    train_counts = csr_matrix(hstack([words.fit_transform(train) for words, train, _ in columns]))
    dev_counts = csr_matrix(hstack([words.transform(texts) for words, _, texts in columns]))
    model = Ridge(alpha=10.0) if data.spec.regression else LogisticRegression(C=0.3, max_iter=1000)
    return points(data.spec, dev.labels, model.fit(train_counts, data.train.labels).predict(dev_counts))


@dataclass(frozen=True)
class Tokens:
    """A tokenised split; rows are padded when a batch is made."""

    ids: list[list[int]]
    types: list[list[int]]
    labels: Tensor

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(self.ids[row]) for row in rows], batch_first=True)
        types = nn.utils.rnn.pad_sequence([torch.tensor(self.types[row]) for row in rows], batch_first=True)
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": (ids > 0).long()}


def tokenise(split: Split, model: Path) -> Tokens:
    encoded = AutoTokenizer.from_pretrained(model)(*split.texts)
    return Tokens(encoded["input_ids"], encoded["token_type_ids"], torch.from_numpy(split.labels))


def batches(tokens: Tokens, size: int, random: torch.Generator) -> Iterator[list[int]]:
    """Endless shuffled batches; four batches at a time are sorted by length to save padding."""
    while True:
        order = torch.randperm(len(tokens.ids), generator=random).tolist()
        pools = [
            sorted(order[at : at + 4 * size], key=lambda row: len(tokens.ids[row]))
            for at in range(0, len(order), 4 * size)
        ]
        cut = [pool[at : at + size] for pool in pools for at in range(0, len(pool), size)]
        yield from (cut[place] for place in torch.randperm(len(cut), generator=random).tolist())


def classifier(spec: TaskSpec, settings: Settings, pretrained: bool, seed: int) -> PreTrainedModel:
    torch.manual_seed(derive_seed(seed, spec.name, "classifier"))
    if pretrained:
        return AutoModelForSequenceClassification.from_pretrained(settings.model, num_labels=spec.outputs)
    config = AutoConfig.from_pretrained(settings.model, num_labels=spec.outputs)
    return AutoModelForSequenceClassification.from_config(config)


def fine_tune(model: PreTrainedModel, spec: TaskSpec, train: Tokens, settings: Settings, seed: int) -> None:
    """AdamW with a tenth of linear warm-up, then linear decay."""
    warmup = settings.steps // 10
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, (settings.steps - step) / (settings.steps - warmup))
    )
    model.train()
    for _, rows in zip(
        range(settings.steps), batches(train, settings.batch_size, generator(seed, spec.name)), strict=False
    ):
        logits = model(**train.batch(rows)).logits
        labels = train.labels[rows]
        loss = (
            nn.functional.mse_loss(logits[:, 0], labels)
            if spec.regression
            else nn.functional.cross_entropy(logits, labels)
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


@torch.inference_mode()
def evaluate(model: PreTrainedModel, spec: TaskSpec, dev: Tokens) -> float:
    model.eval()
    order = sorted(range(len(dev.ids)), key=lambda row: len(dev.ids[row]))
    logits = torch.cat([model(**dev.batch(order[at : at + 50])).logits for at in range(0, len(order), 50)])
    predictions = logits[:, 0] if spec.regression else logits.argmax(1)
    return points(spec, dev.labels[order].numpy(), predictions.numpy())


@torch.no_grad()
def prune_at_random(
    model: PreTrainedModel, seed: int, heads: int = 2, units: int = 85
) -> list[Callable[[], None]]:
    """Zero all but `heads` attention heads and `units` FFN units of the whole model; returns how to zero them again."""
    random = generator(seed, "prune")
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    kept_heads = _keep(config.num_hidden_layers * config.num_attention_heads, heads, random)
    kept_units = _keep(config.num_hidden_layers * config.intermediate_size, units, random)
    head_masks = kept_heads.view(config.num_hidden_layers, -1).repeat_interleave(size, 1)
    unit_masks = kept_units.view(config.num_hidden_layers, -1)
    for layer, head_mask, unit_mask in zip(model.bert.encoder.layer, head_masks, unit_masks, strict=True):
        for linear, mask in ((layer.attention.output.dense, head_mask), (layer.output.dense, unit_mask)):
            linear.weight *= mask
            linear.weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    return []


def _keep(total: int, kept: int, random: torch.Generator) -> Tensor:
    mask = torch.zeros(total)
    mask[torch.randperm(total, generator=random)[:kept]] = 1
    return mask


def measure(name: str, seeds: int, settings: Settings, pruned_steps: int) -> list[object]:
    """One table row: task, rows, mean tokens, majority, bag of words, random start, teacher, teacher pruned at random."""
    data = load(name)
    spec = data.spec
    train, dev = (tokenise(split, settings.model) for split in (data.train, first_evaluation(data)))
    scores: dict[str, list[float]] = {"random": [], "teacher": [], "pruned": []}
    for seed in range(seeds):
        for start in ("random", "teacher"):
            model = classifier(spec, settings, start == "teacher", seed)
            fine_tune(model, spec, train, settings, seed)
            scores[start].append(evaluate(model, spec, dev))
        pruned = copy.deepcopy(model)
        prune_at_random(pruned, seed)
        short = Settings(pruned_steps, settings.batch_size, settings.learning_rate, settings.model)
        fine_tune(pruned, spec, train, short, seed + 1000)
        scores["pruned"].append(evaluate(pruned, spec, dev))
    length = np.mean([len(ids) for ids in train.ids])
    means = (
        f"{np.mean(values):.1f} ± {np.std(values, ddof=1) if seeds > 1 else 0:.1f}"
        for values in scores.values()
    )
    return [
        name,
        len(data.train),
        f"{length:.1f}",
        f"{majority(data):.1f}",
        f"{bag_of_words(data):.1f}",
        *means,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    print(
        "| task | rows | tokens | majority | bag of words | random start | teacher | pruned at random (95%) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.tasks:
        row = measure(name, options.seeds, settings, options.pruned_steps)
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
