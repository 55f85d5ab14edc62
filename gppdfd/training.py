"""One loop for everything: teacher fine-tuning, search, recovery.

A run has up to three phases, counted in optimiser steps: `before` (no masks), `search` (the pruner's masks are in the
forward pass) and `recovery` (the extracted, smaller model trains on). Extraction comes as soon as the keep is final. A
pruner that does not search is asked for its keep first, and all steps are recovery: that is how a dense model, a
teacher, or a student of fixed depth is trained.

Order inside a search step, after GPP's specification: (1) the pruner sets its masks, (2) student and teacher run,
(3) losses and backward, (4) the pruner sees the mask gradients of the loss parts it asked for, (5) clip, optimiser,
schedule.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import PreTrainedModel

from gppdfd.budget import Target
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import disagreement, extract
from gppdfd.interface import Distiller, Losses, Pruner, Setting
from gppdfd.masks import MaskedEncoder, hold_zeros
from gppdfd.seeds import derive_seed, generator
from gppdfd.services import Services
from gppdfd.shrink import Cuts, parameter_cuts
from gppdfd.structure import WEIGHT, Keep, Masks, adapter_for, structure_of
from gppdfd.tasks.base import Batch
from gppdfd.tasks.encoding import Encoded, epoch_batches, ordered_batches
from gppdfd.teacher import cached_views
from gppdfd.trace import IndicatorTrace
from gppdfd.views import Observed, View, Viewer

Precision = Literal["fp32", "bf16"]
Decay = Literal["linear", "constant"]

TOLERANCE = 1e-5
"""Largest allowed relative difference of logits between the masked and the extracted model, in float32."""

LOG_EVERY = 10


class TrainingConfig(BaseModel):
    """Settings of one training run; the defaults are those of GPP+DFD's released script.

    Epochs may be fractions. `warmup` is the share of a schedule's steps. `before_share` is the part of the search
    epochs that goes without masks, for methods that begin so; `before_epochs` come on top. `at_extraction=None` leaves
    it to the pruner.
    `carry_weight_grads` and `task_forward=separate` are what the released code does. `cache_teacher` computes the
    teacher's outputs once per training set instead of once per step, in exchange for memory. `recovery_learning_rate`
    and `recovery_decay` are for methods that end with a schedule of its own; None: as in the search.
    `freeze_embeddings` leaves the embeddings as they are. The passes over the training set that a pruner makes only to
    score units are taken off its search, so that all methods have equally many forward-backward passes;
    `scoring=extra` adds them instead, as papers do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    decay: Decay = "linear"
    flooding: float = Field(0.01, ge=0)
    before_epochs: float = Field(0.0, ge=0)
    before_share: float = Field(0.0, ge=0, lt=1)
    search_epochs: float = Field(20.0, ge=0)
    recovery_epochs: float = Field(12.0, ge=0)
    recovery_learning_rate: float | None = Field(None, gt=0)
    recovery_decay: Decay | None = None
    freeze_embeddings: bool = False
    scoring: Literal["within", "extra"] = "within"
    init: Literal["pretrained", "teacher", "random"] = "pretrained"
    at_extraction: Literal["restart", "continue"] | None = None
    cache_teacher: bool = False
    carry_weight_grads: bool = False
    task_forward: Literal["shared", "separate"] = "shared"


@dataclass(frozen=True)
class Phases:
    """Optimiser steps of each phase."""

    before: int
    search: int
    recovery: int

    @property
    def total(self) -> int:
        return self.before + self.search + self.recovery


def plan_phases(config: TrainingConfig, examples: int, searches: bool, scoring_epochs: float = 0.0) -> Phases:
    """Steps of each phase for a training set of `examples` rows.

    Raises:
        UsageError: a pruner that searches was given no search step, or nothing would be trained at all.
    """
    per_epoch = math.ceil(examples / config.batch_size)
    searching = config.search_epochs - (scoring_epochs if config.scoring == "within" else 0.0)
    if searches and searching <= 0 < config.search_epochs:
        raise UsageError(
            f"scoring units takes {scoring_epochs:g} of {config.search_epochs:g} search epochs and leaves none: "
            "raise search_epochs, score fewer examples, or set training.scoring to extra"
        )
    without_masks = config.before_epochs + config.before_share * searching
    before, search, recovery = (
        round(epochs * per_epoch)
        for epochs in (without_masks, (1 - config.before_share) * searching, config.recovery_epochs)
    )
    if before + search + recovery == 0:
        raise UsageError("training has no steps: raise search_epochs or recovery_epochs")
    if not searches:
        return Phases(0, 0, before + search + recovery)
    if search == 0:
        raise UsageError("this pruner needs a search: set training.search_epochs above 0")
    return Phases(before, search, recovery)


@dataclass
class Hooks:
    """What the surroundings of a training run want to hear; every field may stay as it is.

    Attributes:
        progress: called with phase, finished steps of the whole run and steps in all.
        log: called with one history entry.
        evaluate: scores of a model; called after each recovery epoch when `select` needs it.
        select: picks one number to maximise from those scores; None keeps the last weights.
    """

    progress: Callable[[str, int, int], None] = lambda phase, step, steps: None
    log: Callable[[dict[str, Any]], None] = lambda entry: None
    evaluate: Callable[[PreTrainedModel], Any] | None = None
    select: Callable[[Any], float] | None = None


@dataclass
class Trained:
    """Outcome of a training run."""

    model: PreTrainedModel
    keep: Keep
    phases: Phases
    selected_step: int
    agreement: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    scoring_passes: int = 0
    trace: IndicatorTrace | None = None


class Trainer:
    """Trains one student (or teacher) from its first step to its last.

    Args:
        student: dense encoder with a sequence-classification head; it is trained in place until extraction.
        teacher: fine-tuned encoder, needed if the distiller needs one.
        train: tokenised training split.
        device, precision: where and how it runs; `bf16` is autocast, masks and losses stay float32.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        pruner: Pruner,
        distiller: Distiller,
        train: Encoded,
        config: TrainingConfig,
        *,
        teacher: PreTrainedModel | None = None,
        target: Target | None = None,
        seed: int = 0,
        regression: bool = False,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        hooks: Hooks | None = None,
    ) -> None:
        self.device = torch.device(device)
        pruner.prepare(student)
        self.model = student.to(self.device)
        if config.freeze_embeddings:
            for module in adapter_for(self.model).embedding_modules(self.model):
                module.requires_grad_(False)
        self.pruner, self.distiller, self.train, self.config = pruner, distiller, train, config
        self.seed, self.regression, self.precision = seed, regression, precision
        self.hooks = hooks or Hooks()
        self.phases = plan_phases(config, len(train), pruner.searches, pruner.scoring_epochs)
        self.services = Services(self)
        self.setting = Setting(
            student=self.model,
            structure=structure_of(self.model),
            target=target or Target(0.0),
            search_steps=self.phases.search,
            generator=generator(seed, "pruner"),
            regression=regression,
            steps=self.phases.total,
            loop=self.services,
        )
        self.teacher = self._teacher_viewer(teacher)
        self.step = 0
        self.seconds: dict[str, float] = {}
        self.agreement: float | None = None
        self._log = LossLog(self.hooks.log)

    def run(self) -> Trained:
        """Train through all phases."""
        with self._timed("search"):
            self.begin()
            keep, trace = self._search()
        with self._timed("extraction"):
            self._extract(keep)
        with self._timed("recovery"):
            selected = self._recover(keep)
        return Trained(
            self.model,
            keep,
            self.phases,
            selected,
            self.agreement,
            self.seconds,
            self.distiller.notes(),
            self.services.passes,
            trace,
        )

    def begin(self) -> None:
        """Get everything ready for the first step."""
        torch.manual_seed(derive_seed(self.seed, "dropout"))
        self._batches = self._endless_batches()
        self.encoder, self.view = MaskedEncoder(self.model), Observed(self.model, self.distiller.needs)
        self.model.train()
        self.pruner.begin(self.setting)
        self.distiller.begin(self.setting)
        self._set_optimizer(self.phases.total)

    def _search(self) -> tuple[Keep, IndicatorTrace]:
        trace = IndicatorTrace(self.setting.structure, self.phases.search, generator(self.seed, "trace"))
        for _ in range(self.phases.before):
            self._step("before", self.view, None)
        for step in range(self.phases.search):
            self._search_step(step, trace)
        keep = self.pruner.keep()
        if self.phases.search:
            trace.record(self.phases.search, {kind: units.float() for kind, units in keep.items()})
        self.encoder.remove()
        self.view.remove()
        return keep, trace

    def _search_step(self, step: int, trace: IndicatorTrace) -> None:
        if self.pruner.snapshot_due(step):
            self.distiller.snapshot()
        steps = self.pruner.restart(step)
        if steps is not None:
            self._set_optimizer(steps)
        masks = self._mask_leaves(self.pruner.masks(step))
        self.encoder.masks = masks
        trace.record(step, masks)
        self._step("search", self.view, masks, step)

    def _mask_leaves(self, masks: Masks | None) -> Masks | None:
        """Masks that collect a gradient, for a pruner that observes one; others stay as the pruner made them."""
        if masks is None or not self.pruner.gradient_parts:
            return masks
        return {kind: values.detach().requires_grad_() for kind, values in masks.items()}

    def _extract(self, keep: Keep) -> None:
        """Go on with the small model, after making sure that it computes the same."""
        masks = self._folded(keep)
        if masks is None and all(bool(units.all()) for units in keep.values()):
            if self.pruner.searches:
                self._restart_or_continue(self.model, keep)
            return
        small = extract(self.model, keep, masks)
        longest = [self.train.batch(indices).to(self.device) for indices in ordered_batches(self.train, 32)[:2]]
        self.agreement = disagreement(self.model, small, keep, longest, masks)
        if self.agreement > TOLERANCE:
            raise DataError(f"masked and extracted model disagree by {self.agreement:.2e} (allowed {TOLERANCE:.0e})")
        self._restart_or_continue(small, keep)

    def _folded(self, keep: Keep) -> Masks | None:
        """Soft masks of the units that stay, if the pruner has such."""
        soft = self.pruner.folded()
        if soft is None:
            return None
        kept = {kind: units.to(self.device, torch.float32) for kind, units in keep.items()}
        return kept | {kind: values.detach() * kept.get(kind, 1) for kind, values in soft.items()}

    def _restart_or_continue(self, small: PreTrainedModel, keep: Keep) -> None:
        how = self.config.at_extraction or self.pruner.at_extraction
        # Moments of single weights that are gone must not move them again: their optimiser always starts anew.
        if how == "restart" or not self.phases.search or WEIGHT in keep:
            self.model = small
            self._set_optimizer(self.phases.recovery if self.phases.search else self.phases.total, recovery=True)
            return
        state = sliced_states(self.optimizer, self.model, parameter_cuts(self.model, keep))
        schedule = self.scheduler.state_dict()
        self.model = small
        self._set_optimizer(self.phases.total)
        load_states(self.optimizer, small, state)
        self.scheduler.load_state_dict(schedule)
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _recover(self, keep: Keep) -> int:
        view = Observed(self.model, self.distiller.needs)
        held = hold_zeros(self.model, keep)
        best = Best(self.hooks.select)
        per_epoch = math.ceil(len(self.train) / self.config.batch_size)
        self.model.train()
        for step in range(1, self.phases.recovery + 1):
            self._step("recovery", view, None)
            if self.hooks.select and (step % per_epoch == 0 or step == self.phases.recovery):
                best.offer(self.step, self.model, self._evaluate())
                self.model.train()
        view.remove()
        for handle in held:
            handle.remove()
        self._log.flush("recovery", self.step, self._rate)
        return best.restore(self.model) or self.step

    def _evaluate(self) -> Any:
        assert self.hooks.evaluate is not None, "selection needs Hooks.evaluate"
        scores = self.hooks.evaluate(self.model)
        self.hooks.log({"phase": "recovery", "step": self.step, "scores": scores})
        return scores

    def _step(self, phase: str, student: Viewer, masks: Masks | None, search_step: int | None = None) -> None:
        batch = next(self._batches)
        parts = self.loss_parts(student, batch, masks)
        weighted = self.weighted(parts)
        total = torch.stack(list(weighted.values())).sum()
        gradients = self._backward(total, weighted, masks)
        if search_step is not None and masks is not None and gradients:
            self.pruner.observe(search_step, masks, gradients)
        self._update()
        self.step += 1
        self._log.add(parts, total)
        if self.step % LOG_EVERY == 0:
            scheduled = self.pruner.sparsity(search_step) if search_step is not None else None
            self._log.flush(phase, self.step, self._rate, scheduled)
        self.hooks.progress(phase, self.step, self.phases.total)

    def weighted(self, parts: Losses) -> Losses:
        """Loss parts times their weights in the total."""
        return {part: self.distiller.weight(part) * loss for part, loss in parts.items()}

    def loss_parts(self, student: Viewer, batch: Batch, masks: Masks | None) -> Losses:
        """All parts of the loss on one batch, unweighted; the `task` part comes flooded."""
        with self.autocast():
            view = student(batch)
            logits = student(batch).logits if self.config.task_forward == "separate" else view.logits
        target = self.teacher(batch) if self.teacher else None
        parts = {"task": flooded(task_loss(logits, batch.labels, self.regression), self.config.flooding)}
        parts |= self.distiller.losses(view, target, batch, masks)
        own = self.pruner.loss(masks)
        return parts if own is None else parts | {"pruner": own}

    def _backward(self, total: torch.Tensor, weighted: Losses, masks: Masks | None) -> Masks:
        """Backward through the total; gradients of the masks from the parts that the pruner asked for."""
        wanted = [loss for part, loss in weighted.items() if part in self.pruner.gradient_parts]
        if masks is None or not wanted:
            total.backward()
            return {}
        if len(wanted) == len(weighted):
            total.backward()
            return {kind: values.grad for kind, values in masks.items() if values.grad is not None}
        found = torch.autograd.grad(torch.stack(wanted).sum(), list(masks.values()), retain_graph=True)
        total.backward()
        return dict(zip(masks, found, strict=True))

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        for optimizer in self.pruner.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        if not self.config.carry_weight_grads:
            self.optimizer.zero_grad()

    def _set_optimizer(self, steps: int, recovery: bool = False) -> None:
        """New AdamW and new schedule over `steps` for the current model and the distiller's maps."""
        config = recovery_settings(self.config) if recovery else self.config
        self._parameters = [*self.model.parameters(), *self.distiller.parameters()]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self._parameters, config.weight_decay), lr=config.learning_rate, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, steps, config)
        )

    def _teacher_viewer(self, teacher: PreTrainedModel | None) -> Viewer | None:
        needs = self.distiller.needs
        if "teacher" not in needs:
            return None
        if teacher is None:
            raise UsageError(f"distiller {type(self.distiller).__name__} needs a teacher")
        teacher = teacher.to(self.device).eval().requires_grad_(False)
        live = without_gradient(Observed(teacher, needs), self.autocast)
        if self.config.cache_teacher and "padding" not in needs:
            return cached_views(live, teacher, self.train, needs, self.device, self.precision)
        return live

    def _endless_batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            for indices in epoch_batches(self.train, self.config.batch_size, generator(self.seed, "order", epoch)):
                yield self.train.batch(indices).to(self.device)
            epoch += 1

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def _rate(self) -> float:
        return float(self.scheduler.get_last_lr()[0])

    def _timed(self, phase: str) -> "Stopwatch":
        return Stopwatch(self.seconds, phase)


def task_loss(logits: torch.Tensor, labels: torch.Tensor, regression: bool) -> torch.Tensor:
    """Cross-entropy of [batch, classes] logits, or mean squared error of [batch, 1] outputs."""
    return mse_loss(logits.squeeze(-1), labels.to(logits.dtype)) if regression else cross_entropy(logits, labels)


def flooded(loss: torch.Tensor, level: float) -> torch.Tensor:
    """|loss - level| + level: below the flooding level the gradient changes its sign (Ishida et al. 2020)."""
    return (loss - level).abs() + level if level else loss


def learning_rate_factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Factor of the learning rate: linear warm-up, then linear decay to 0 at `steps`, or constant."""
    warm = round(config.warmup * steps)
    if step < warm:
        return step / warm
    if config.decay == "constant":
        return 1.0
    return max(0.0, (steps - step) / max(1, steps - warm))


def recovery_settings(config: TrainingConfig) -> TrainingConfig:
    """Settings with the learning rate and decay that the recovery has of its own, if any."""
    own = {"learning_rate": config.recovery_learning_rate, "decay": config.recovery_decay}
    return config.model_copy(update={name: value for name, value in own.items() if value is not None})


def parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: biases and LayerNorm are vectors."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def sliced_states(
    optimizer: torch.optim.Optimizer, model: nn.Module, cuts: dict[str, Cuts]
) -> dict[str, dict[str, Any]]:
    """Optimiser state by parameter name, cut to what extraction keeps of each parameter."""
    states = {}
    for name, parameter in model.named_parameters():
        state = dict(optimizer.state.get(parameter, {}))
        states[name] = {key: _sliced(value, parameter, cuts.get(name, {})) for key, value in state.items()}
    return states


def _sliced(value: Any, parameter: nn.Parameter, cuts: Cuts) -> Any:
    """Slice a state tensor of the parameter's shape; step counters stay as they are."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    for dim, cut in cuts.items():
        value = cut.apply(value, dim)
    return value


def load_states(optimizer: torch.optim.Optimizer, model: nn.Module, states: dict[str, dict[str, Any]]) -> None:
    """Counterpart of `sliced_states` for the small model."""
    for name, parameter in model.named_parameters():
        if states[name]:
            optimizer.state[parameter] = states[name]


def without_gradient(view: Viewer, autocast: Callable[[], torch.autocast]) -> Viewer:
    """A viewer whose forward pass keeps no graph."""

    def run(batch: Batch) -> View:
        with torch.no_grad(), autocast():
            return view(batch)

    return run


class Best:
    """Keeps the best weights seen so far, if there is a rule to compare them by."""

    def __init__(self, rule: Callable[[Any], float] | None) -> None:
        self._rule = rule
        self._value = -math.inf
        self._step: int | None = None
        self._weights: dict[str, torch.Tensor] = {}

    def offer(self, step: int, model: nn.Module, scores: Any) -> None:
        assert self._rule is not None
        value = self._rule(scores)
        if value <= self._value:
            return
        self._value, self._step = value, step
        self._weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def restore(self, model: nn.Module) -> int | None:
        """Put the best weights back; returns the step they come from."""
        if self._step is not None:
            model.load_state_dict(self._weights)
        return self._step


class LossLog:
    """Means of loss parts between two history entries; summed on the device, read once per entry."""

    def __init__(self, log: Callable[[dict[str, Any]], None]) -> None:
        self._write = log
        self._start = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._sums: Losses = {}
        self._count = 0

    def add(self, parts: Losses, total: torch.Tensor) -> None:
        self._count += 1
        for part, loss in {**parts, "total": total}.items():
            self._sums[part] = self._sums.get(part, 0.0) + loss.detach()

    def flush(self, phase: str, step: int, rate: float, sparsity: float | None = None) -> None:
        """Write the means; a loss that is no number any more ends the run here.

        Raises:
            DataError: naming the first loss part that is NaN or infinite.
        """
        if not self._count:
            return
        means = {part: float(value) / self._count for part, value in self._sums.items()}
        for part, value in means.items():
            if not math.isfinite(value):
                raise DataError(
                    f"loss part {part!r} is {value} around step {step} of {phase}: lower the learning rate?"
                )
        entry = {
            "phase": phase,
            "step": step,
            "seconds": time.perf_counter() - self._start,
            "lr": rate,
            "losses": means,
        }
        self._write(entry if sparsity is None else {**entry, "sparsity": sparsity})
        self._reset()


class Stopwatch:
    """Context that adds its wall time to `seconds[phase]`."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds, self._phase = seconds, phase

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + time.perf_counter() - self._start
