"""Rebuild the shipped tokenizer and encoder: `python -m gppdfd.tasks.micro.build` (17 minutes on one core).

Masked language modelling on endless fresh text of the micro grammar. The opening connective of a line stands
in the place of [CLS]; where it is hidden, [CLS] has to predict it, which makes [CLS] a summary of the line.
"""

import argparse
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.models.bert.modeling_bert import BertLMPredictionHead

from gppdfd.files import write_json
from gppdfd.seeds import derive_seed, generator
from gppdfd.tasks.micro import MODEL
from gppdfd.tasks.micro.corpus import Line, line, vocabulary
from gppdfd.tasks.micro.grammar import Chooser, text

PAD, UNK, CLS, SEP, MASK = range(5)
IGNORED = -100
# Share of lines whose opening word is seen (in the place of [CLS]), so that it explains words of the text.
SHOWN = 0.3
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Everything that the weights depend on."""

    steps: int = 8000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.01
    masked: float = 0.2
    seed: int = 0
    precision: str = "bf16"
    threads: int = 1


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level BERT tokenizer over the closed vocabulary."""
    ids = {word: number for number, word in enumerate(vocabulary())}
    words = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=64,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def encoder_config(words: int) -> BertConfig:
    return BertConfig(
        vocab_size=words, hidden_size=128, num_hidden_layers=4, num_attention_heads=8, intermediate_size=512,
        max_position_embeddings=64, pad_token_id=PAD,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.02,
    )  # fmt: skip


class MaskedLanguageModel(nn.Module):
    """The encoder with BERT's prediction head, applied to hidden positions only."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.encoder = BertModel(config)
        self.head = BertLMPredictionHead(config)
        self.head.decoder.weight = self.encoder.embeddings.word_embeddings.weight
        # An identity pooler hands [CLS] on as pre-training left it.
        nn.init.eye_(self.encoder.pooler.dense.weight)

    def forward(self, ids: Tensor, types: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy per hidden position of `ids` [lines, tokens]; `targets` is IGNORED elsewhere."""
        states = self.encoder(ids, attention_mask=ids != PAD, token_type_ids=types).last_hidden_state
        hidden = targets != IGNORED
        return nn.functional.cross_entropy(self.head(states[hidden]).float(), targets[hidden], reduction="none")


@dataclass(frozen=True)
class Sample:
    """A batch of lines with some words hidden: int64 [lines, tokens] each."""

    ids: Tensor
    types: Tensor
    targets: Tensor


def pack(lines: list[Line], ids: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [lines, tokens], token types [lines, tokens], opening words [lines]."""
    rows = [[CLS] for _ in lines]
    types = [[0] for _ in lines]
    for row, kinds, packed in zip(rows, types, lines, strict=True):
        for kind, words in enumerate(packed.texts):
            row += [*(ids[word] for word in text(words).split()), SEP]
            kinds += [kind] * (len(row) - len(kinds))
    width = max(map(len, rows))
    openings = torch.tensor([ids[packed.opening] for packed in lines])
    return _padded(rows, width), _padded(types, width), openings


def _padded(rows: list[list[int]], width: int) -> Tensor:
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def hide(ids: Tensor, openings: Tensor, rate: float, words: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """(ids with hidden words, targets).

    Of the hidden words 80% are masked, 10% replaced (half by a neighbour in the alphabet, which is often
    another form of the same word, half by any word) and 10% kept, so that the encoder
    learns to compare what it sees with what should be there. Most openings are hidden too.
    """
    hidden = (torch.rand(ids.shape, generator=random) < rate) & (ids > MASK)
    kind = torch.rand(ids.shape, generator=random)
    seen = torch.where(hidden & (kind < 0.8), MASK, ids)
    seen = torch.where(hidden & (kind > 0.9), _other_words(ids, words, random), seen)
    targets = torch.where(hidden, ids, IGNORED)
    shown = torch.rand(len(ids), generator=random) < SHOWN
    seen[:, 0] = torch.where(shown, openings, CLS)
    targets[:, 0] = torch.where(shown, IGNORED, openings)
    return seen, targets


def _other_words(ids: Tensor, words: int, random: torch.Generator) -> Tensor:
    offsets = torch.randint(1, 3, ids.shape, generator=random)
    signs = torch.randint(0, 2, ids.shape, generator=random) * 2 - 1
    neighbours = (ids + signs * offsets).clamp(MASK + 1, words - 1)
    anything = torch.randint(MASK + 1, words, ids.shape, generator=random)
    return torch.where(torch.rand(ids.shape, generator=random) < 0.5, neighbours, anything)


def samples(settings: Settings) -> Iterator[Sample]:
    """Endless batches; lines of a batch have similar lengths, to save padding."""
    ids = {word: number for number, word in enumerate(vocabulary())}
    choose = Chooser(derive_seed(settings.seed, "micro", "corpus"))
    random = generator(settings.seed, "micro", "hide")
    pool = 32
    while True:
        lines = sorted((line(choose) for _ in range(settings.batch_size * pool)), key=_length)
        for place in torch.randperm(pool, generator=random).tolist():
            packed, types, openings = pack(lines[place * settings.batch_size :][: settings.batch_size], ids)
            seen, targets = hide(packed, openings, settings.masked, len(ids), random)
            yield Sample(seen, types, targets)


def _length(packed: Line) -> int:
    return sum(map(len, packed.texts))


def rate_at(step: int, settings: Settings) -> float:
    """Linear warm-up to 1, then half a cosine to 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - settings.warmup) / max(1, settings.steps - settings.warmup))


def pretrain(settings: Settings) -> tuple[MaskedLanguageModel, dict[str, float]]:
    """Train the encoder; returns it with its last running losses (words and openings)."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(derive_seed(settings.seed, "micro", "start"))
    model = MaskedLanguageModel(encoder_config(len(vocabulary()))).train()
    optimiser = torch.optim.AdamW(
        model.parameters(),
        settings.learning_rate,
        (0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, settings))
    losses = {"words": math.log(len(vocabulary())), "openings": math.log(10)}
    started = time.monotonic()
    for step, sample in zip(range(settings.steps), samples(settings), strict=False):
        _step(model, sample, optimiser, settings, losses)
        schedule.step()
        if (step + 1) % 250 == 0:
            log.info("step %d of %d, %.0f s, %s", step + 1, settings.steps, time.monotonic() - started, losses)
    return model, losses


def _step(
    model: MaskedLanguageModel,
    sample: Sample,
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    losses: dict[str, float],
) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
        each = model(sample.ids, sample.types, sample.targets)
    opening = (sample.targets != IGNORED).nonzero()[:, 1] == 0
    parts = {"words": each[~opening].mean(), "openings": each[opening].mean()}
    loss = parts["words"] + parts["openings"]
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    for name, part in parts.items():
        losses[name] += 0.01 * (part.item() - losses[name])


def build(folder: Path, settings: Settings) -> None:
    """Write tokenizer, encoder and `build.json` (settings and losses) into `folder`."""
    model, losses = pretrain(settings)
    model.encoder.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    write_json(folder / "build.json", {"settings": asdict(settings), "final_losses": losses})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MODEL, help="folder to write (default: the package's own)")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(options.out, Settings(steps=options.steps, seed=options.seed))


if __name__ == "__main__":
    main()
