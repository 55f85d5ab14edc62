"""CAP's contrastive distillation: the pruned model stays close to what it was, example by example.

Xu, Luo, Wang, Chang, Huang, Huang, Huang: From Dense to Sparse: Contrastive Pruning for Better Pre-trained Language
Model Compression. AAAI 2022, arXiv 2112.07198. Formulas follow the authors' public code
(github.com/RunxinXu/ContrastivePruning, commit eae11d6); the paper's text was not at hand.

Each module compares the student's representation z_i of example i with a bank of representations [examples, k, dims]
that another model gave the training set, all of length 1:

    PrC   the pre-trained model       k = 1
    FiC   the fine-tuned teacher      k = 1
    SnC   snapshots of the student    k grows by 1 whenever the pruner says so

Candidates c of a batch are its own current representations (without gradient; an anchor's own one is left out), their k
bank rows, and the rows of `extras` / k further examples. With positives P(i), the same example (unsupervised) or the
same label (supervised), and one softmax over all candidates:

    L = 1/B sum_i -1/|P(i)| sum_{j in P(i)} log softmax_j(z_i . c_j / tau)            (normalisation `per_anchor`)

The total loss is .1 task + .9 T^2 KL + sum over modules of (lambda_un L_un + lambda_sup L_sup). The released code
divides by |P| twice (`normalisation=released`), and its weights, up to 10, make up for that: with `per_anchor` they
would be a thousand times too strong, so the defaults are weights of our own, .3 for both parts, divided by k for SnC.

Departures: banks are encoded in evaluation mode (option `snapshot_dropout`: as released for CAP-m and CAP-soft), and
encoded before the pruner ranks units, not after. Regression has no labels to agree on, so no supervised part.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.nn.functional import normalize

from gppdfd import seeds
from gppdfd.distilling import soft_labels, unequal
from gppdfd.interface import (
    Distiller,
    DistillerConfig,
    Losses,
    NamedMethod,
    Setting,
    register_distiller,
    register_method,
)
from gppdfd.structure import Masks, Structure
from gppdfd.tasks.base import Batch
from gppdfd.views import View

Normalisation = Literal["per_anchor", "released"]
Representation = Literal["sentence", "first_token", "mean_pooling"]
Who = Literal["student", "teacher"]

FIXED: dict[str, Who] = {"prc": "student", "fic": "teacher"}
"""Modules whose bank never changes, and who fills it when the run begins."""


class ContrastiveConfig(DistillerConfig):
    """Options of the contrastive modules.

    Attributes:
        tau: temperature of the similarities; `temperature` is that of the soft labels.
        representation: what the classifier reads (for BERT the pooler's output), the last hidden state of the first
            token (the released choice for question answering), or the mean over real tokens.
        extras: rows of further training examples among the candidates of a module.
        batch_candidates: whether the batch's current representations are candidates too.
        snapshots: most snapshots that are kept; the oldest makes room.
        bank: precision of the stored representations.
    """

    task_weight: float = 0.1
    soft_weight: float = 0.9
    temperature: float = Field(1.0, gt=0)
    tau: float = Field(0.1, gt=0)
    prc: bool = True
    snc: bool = True
    fic: bool = True
    unsupervised: bool = True
    supervised: bool = True
    unsupervised_weight: float = Field(0.3, ge=0)
    supervised_weight: float = Field(0.3, ge=0)
    normalisation: Normalisation = "per_anchor"
    representation: Representation = "sentence"
    extras: int = Field(4096, ge=0)
    batch_candidates: bool = True
    snapshots: int = Field(10, ge=1)
    snapshot_dropout: bool = False
    bank: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True)
class Candidates:
    """What the anchors of a batch are compared with.

    Attributes:
        vectors: unit vectors without gradient, [candidates, dims].
        examples: training example behind each of them, int64 [candidates].
        own: bool [batch, candidates], where a candidate is the anchor itself.
    """

    vectors: torch.Tensor
    examples: torch.Tensor
    own: torch.Tensor


def representation(view: View, how: Representation) -> torch.Tensor:
    """Unit vectors [batch, dims], one per sequence."""
    if how == "sentence":
        assert view.sentence is not None  # guaranteed by `needs`
        return normalize(view.sentence, dim=-1)
    last = view.hidden_states[-1]
    if how == "first_token":
        return normalize(last[:, 0], dim=-1)
    weights = view.attention_mask[..., None].to(last.dtype)
    return normalize((last * weights).sum(1) / weights.sum(1), dim=-1)


def candidates(
    anchors: torch.Tensor, examples: torch.Tensor, bank: torch.Tensor, extras: torch.Tensor, with_batch: bool = True
) -> Candidates:
    """Candidates of a batch: its anchors, its bank rows, and those of `extras`.

    Args:
        anchors: unit vectors [batch, dims].
        examples: int64 [batch], their places in the bank.
        bank: unit vectors [examples, k, dims].
        extras: int64, places of further examples.
        with_batch: whether the anchors are candidates of each other.
    """
    rows = torch.cat([examples, extras])
    vectors = bank[rows].flatten(0, 1).to(anchors.dtype)
    behind = rows.repeat_interleave(bank.shape[1])
    own = torch.zeros(len(anchors), len(behind), dtype=torch.bool, device=anchors.device)
    if not with_batch:
        return Candidates(vectors, behind, own)
    itself = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    return Candidates(
        torch.cat([anchors.detach(), vectors]), torch.cat([examples, behind]), torch.cat([itself, own], dim=1)
    )


def log_probabilities(anchors: torch.Tensor, found: Candidates, tau: float) -> torch.Tensor:
    """Log-softmax over the candidates, -inf at an anchor itself: [batch, dims] -> [batch, candidates]."""
    return (anchors @ found.vectors.t() / tau).masked_fill(found.own, -torch.inf).log_softmax(-1)


def positives(shared: torch.Tensor, examples: torch.Tensor, found: Candidates) -> torch.Tensor:
    """Bool [batch, candidates], where `shared` [examples] of anchor and candidate agree; never the anchor itself."""
    return (shared[examples][:, None] == shared[found.examples]) & ~found.own


def positives_loss(logs: torch.Tensor, agreeing: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """Minus the mean log-probability of the positives: per anchor, then over anchors; a scalar.

    Args:
        logs: [batch, candidates], finite at positives.
        agreeing: where the positives are, bool of the same shape.
        normalisation: `released` divides the sum over anchors by the number of all positives.
    """
    counts = agreeing.sum(-1)
    losses = -logs.masked_fill(~agreeing, 0).sum(-1) / counts.clamp(min=1)
    return losses.mean() if normalisation == "per_anchor" else losses.sum() / counts.sum().clamp(min=1)


class Bank:
    """Representations of the training set by the latest `capacity` models that were added; memory is taken once."""

    def __init__(self, capacity: int, dtype: torch.dtype) -> None:
        self._capacity, self.dtype = capacity, dtype
        self._rows: torch.Tensor | None = None
        self._added = 0

    def add(self, encodings: torch.Tensor) -> None:
        """Take in unit vectors [examples, dims]."""
        if self._rows is None:
            examples, dims = encodings.shape
            self._rows = encodings.new_empty(examples, self._capacity, dims, dtype=self.dtype)
        self._rows[:, self._added % self._capacity] = encodings.to(self.dtype)
        self._added += 1

    def entries(self) -> torch.Tensor | None:
        """[examples, k, dims], or None before the first."""
        return None if self._rows is None else self._rows[:, : self._added]

    def state_dict(self) -> dict[str, Any]:
        entries = self.entries()
        return {"added": self._added} | ({} if entries is None else {"entries": entries.clone()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows, self._added = None, 0
        for entry in state["entries"].unbind(1) if "entries" in state else ():
            self.add(entry)
        self._added = state["added"]


def agreements(config: ContrastiveConfig, labels: torch.Tensor, regression: bool) -> list[tuple[float, torch.Tensor]]:
    """Weight of each part of a module's loss, and what two examples share if they are positives: [examples]."""
    parts = []
    if config.unsupervised:
        parts.append((config.unsupervised_weight, torch.arange(len(labels), device=labels.device)))
    if config.supervised and not regression:
        parts.append((config.supervised_weight, labels))
    return parts


@register_distiller("contrastive")
class Contrastive(Distiller):
    """Soft labels and CAP's three contrastive modules."""

    reference = "Xu et al. 2022, AAAI, arXiv 2112.07198"
    reconstruction = "after the released code; weights of `per_anchor` are ours"
    Config: ClassVar[type[DistillerConfig]] = ContrastiveConfig

    @property
    def needs(self) -> frozenset[str]:
        teacher = {"teacher"} if self.config.soft_weight or "fic" in self._modules else set()
        states = "sentence" if self.config.representation == "sentence" else "hidden_states"
        return frozenset(teacher | ({states} if self._modules else set()))

    def unsuitable(self, student: Structure, teacher: Structure) -> str | None:
        return unequal(student, teacher, "hidden") if "fic" in self._modules else None

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        assert setting.loop is not None  # the training loop gives it
        self._loop = setting.loop
        self._stream = seeds.generator(setting.generator.initial_seed(), "contrastive")
        self._parts = agreements(self.config, self._loop.labels, setting.regression)
        dtype = getattr(torch, self.config.bank)
        self._banks = {name: Bank(self.config.snapshots if name == "snc" else 1, dtype) for name in self._modules}
        for name, who in FIXED.items():
            if name in self._banks:
                self._banks[name].add(self._encoded(who))

    def snapshot(self) -> bool:
        wanted = "snc" in self._banks
        if wanted:
            self._banks["snc"].add(self._encoded("student", self.config.snapshot_dropout))
        return wanted

    def losses(self, student: View, teacher: View | None, batch: Batch, masks: Masks | None) -> Losses:
        parts = {}
        if self._modules:
            anchors = representation(student, self.config.representation)
            banks = [entries for bank in self._banks.values() if (entries := bank.entries()) is not None]
            losses = [self._module_loss(anchors, batch.examples, bank) for bank in banks]
            # Before the first snapshot there may be no bank: 0, but still a function of the student.
            parts["features"] = torch.stack([anchors.sum() * 0, *losses]).sum()
        if self.config.soft_weight:
            assert teacher is not None  # guaranteed by `needs`
            temperature, regression = self.config.temperature, self.setting.regression
            parts["soft"] = soft_labels(student.logits, teacher.logits, temperature, regression)
        return parts

    def state_dict(self) -> dict[str, Any]:
        banks = {name: bank.state_dict() for name, bank in self._banks.items()}
        return {"stream": self._stream.get_state(), "banks": banks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.set_state(state["stream"])
        for name, bank in self._banks.items():
            bank.load_state_dict(state["banks"][name])

    @property
    def _modules(self) -> list[str]:
        """Modules that are switched on; none if neither part of their loss is."""
        wanted = self.config.unsupervised or self.config.supervised
        return [name for name in ("prc", "snc", "fic") if wanted and getattr(self.config, name)]

    def _encoded(self, who: Who, training_mode: bool = False) -> torch.Tensor:
        return self._loop.encodings(partial(representation, how=self.config.representation), who, training_mode)

    def _module_loss(self, anchors: torch.Tensor, examples: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
        """Weighted loss of one module; both its parts share one softmax."""
        models = bank.shape[1]
        found = candidates(anchors, examples, bank, self._draw(models), self.config.batch_candidates)
        logs = log_probabilities(anchors, found, self.config.tau)
        losses = [
            weight * positives_loss(logs, positives(shared, examples, found), self.config.normalisation)
            for weight, shared in self._parts
        ]
        total = torch.stack([anchors.sum() * 0, *losses]).sum()
        return total / models if self.config.normalisation == "per_anchor" else total

    def _draw(self, models: int) -> torch.Tensor:
        """Places of random training examples, each at most once: `extras` rows of a bank of so many models."""
        count = min(self.config.extras // models, self._loop.examples)
        chosen = torch.randperm(self._loop.examples, generator=self._stream)[:count]
        return chosen.to(self.setting.device)


OWN_WEIGHTS = "unsupervised_weight=0.1,supervised_weight=0.1,temperature=2"
"""Of CAP-m and CAP-soft."""

register_method("cap-f", NamedMethod(spec="cap-f+contrastive", reference=Contrastive.reference))
register_method("cap-m", NamedMethod(spec=f"movement+contrastive({OWN_WEIGHTS})", reference=Contrastive.reference))
register_method(
    "cap-soft", NamedMethod(spec=f"soft-movement+contrastive({OWN_WEIGHTS})", reference=Contrastive.reference)
)
register_method(
    "cap-f-released",
    NamedMethod(
        spec="cap-f(head_floor=released,norm=all)+contrastive(normalisation=released,supervised_weight=3.0)",
        reference="Xu et al. 2022, weights and normalisation of the released code",
    ),
)
