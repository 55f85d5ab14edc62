"""One loop for everything: teacher fine-tuning, search, recovery.

A run has up to three phases, counted in optimiser steps: `before` (no masks), `search` (the pruner's masks are in the
forward pass) and `recovery` (the extracted, smaller model trains on). Extraction comes as soon as the keep is final. A
pruner that does not search is asked for its keep first, and all steps are recovery: that is how a dense model, a
teacher, or a student of fixed depth is trained.

Order inside a search step, after GPP's specification: (1) the pruner sets its masks, (2) student and teacher run,
(3) losses and backward, (4) the pruner sees the mask gradients of the loss parts it asked for, (5) clip, optimiser,
schedule.

A run may be stopped after any step: `Trainer.state_dict` holds all that a fresh trainer with the same arguments needs
to go on to the same bits.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy, mse_loss
from transformers import PreTrainedModel

from gppdfd.budget import Target
from gppdfd.checkpoint import State
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import disagreement, extract
from gppdfd.factorise import embedding_rank
from gppdfd.interface import Distiller, Losses, Pruner, Setting
from gppdfd.logbook import Best, LossLog, Timings
from gppdfd.masks import MaskedEncoder, hold_zeros
from gppdfd.optimisation import Optimisation, plain_name
from gppdfd.pruned import PrunedModel
from gppdfd.seeds import derive_seed, generator
from gppdfd.services import Services
from gppdfd.settings import Phases, Precision, TrainingConfig, plan_phases, recovery_settings
from gppdfd.shrink import parameter_cuts
from gppdfd.structure import WEIGHT, Keep, Masks, Structure, adapter_for, structure_of
from gppdfd.tasks.base import Batch
from gppdfd.tasks.encoding import Encoded, epoch_batches, ordered_batches
from gppdfd.teacher import cached_views
from gppdfd.trace import IndicatorTrace
from gppdfd.views import Observed, View, Viewer

TOLERANCE = 1e-5
"""Largest allowed relative difference of logits between the masked and the extracted model, in float32."""

LOG_EVERY = 10


@dataclass
class Hooks:
    """What the surroundings of a training run want to hear; every field may stay as it is.

    Attributes:
        progress: called with phase, finished steps of the whole run and steps in all.
        log: called with one history entry.
        evaluate: scores of a model; called right before a search's masks become binary, with those that the pruner
            evaluates with, right after, and after each recovery epoch when `select` needs it.
        select: picks one number to maximise from those scores; None keeps the last weights.
        stepped: called after every step with the trainer, whose state may be saved then.
    """

    progress: Callable[[str, int, int], None] = lambda phase, step, steps: None
    log: Callable[[dict[str, Any]], None] = lambda entry: None
    evaluate: Callable[[PreTrainedModel], Any] | None = None
    select: Callable[[Any], float] | None = None
    stepped: Callable[["Trainer"], None] = lambda trainer: None


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
        structure, target = structure_of(self.model), target or Target(0.0)
        scoring = pruner.scoring_epochs(structure, target, config.search_epochs)
        self.phases = plan_phases(config, len(train), pruner.searches, scoring)
        self.services = Services(self)
        self.setting = Setting(
            student=self.model,
            structure=structure,
            target=target,
            search_steps=self.phases.search,
            generator=generator(seed, "pruner"),
            regression=regression,
            loop=self.services,
        )
        self._observed_teacher: Observed | None = None
        self.teacher = self._teacher_viewer(teacher)
        self.step = 0
        self.keep: Keep | None = None
        self.agreement: float | None = None
        self._timings = Timings()
        self._log = LossLog(self.hooks.log)
        self._best = Best(self.hooks.select)
        self._trace = IndicatorTrace(self.setting.structure, self.phases.search, generator(seed, "trace"))

    def run(self, state: State | None = None) -> Trained:
        """Train through all phases, from the beginning or from a `state_dict`; the teacher is left without hooks."""
        try:
            return self._run(state)
        finally:
            if self._observed_teacher is not None:
                self._observed_teacher.remove()

    def _run(self, state: State | None) -> Trained:
        with self._timings.phase("search"):
            self.begin()
            if state is not None:
                self.load_state_dict(state)
            if self.keep is None:
                self._search()
        with self._timings.phase("extraction"):
            if self.keep is None:
                self._binarise()
        with self._timings.phase("recovery"):
            selected = self._recover()
        return self._outcome(selected)

    def begin(self) -> None:
        """Get everything ready for the first step."""
        torch.manual_seed(derive_seed(self.seed, "dropout"))
        self.encoder, self.view = MaskedEncoder(self.model), Observed(self.model, self.distiller.needs)
        self.model.train()
        self.pruner.begin(self.setting)
        self.distiller.begin(self.setting)
        self._check_schedules()
        self._set_optimizer(self.phases.total)
        self._batches = self._batches_from(0)

    def _require_gradients(self, parts: Losses) -> None:
        """A pruner that ranks by gradients must get some of the data.

        Raises:
            UsageError: all loss parts that it asks for and that there are have weight 0.
        """
        wanted = sorted((self.pruner.gradient_parts & parts.keys()) - {"pruner"})
        if self.phases.search and wanted and not any(map(self.distiller.weight, wanted)):
            pruner, distiller = type(self.pruner).__name__, type(self.distiller).__name__
            raise UsageError(
                f"pruner {pruner} ranks by the gradient of {' and '.join(wanted)}, which distiller "
                f"{distiller} gives weight 0: set its {wanted[-1]}_weight"
            )

    def _check_schedules(self) -> None:
        """A recovery that goes on with the search's optimiser needs one that lasts, and has no settings of its own.

        Raises:
            UsageError: the search's schedule ends with it, or settings of the recovery would have no effect.
        """
        if self._at_extraction != "continue" or not self.phases.search or not self.phases.recovery:
            return
        if self.pruner.restart(0) is not None:
            raise UsageError(
                f"at_extraction=continue: the search of {type(self.pruner).__name__} has a schedule of its own, which "
                "ends with it; leave at_extraction out"
            )
        if recovery_settings(self.config) != self.config:
            raise UsageError(
                "recovery_learning_rate and recovery_decay need a schedule that begins with the recovery: "
                "set at_extraction to restart"
            )

    @property
    def _at_extraction(self) -> str:
        return self.config.at_extraction or self.pruner.at_extraction

    def state_dict(self) -> State:
        """All that decides the steps to come."""
        return {
            "step": self.step,
            "keep": self.keep,
            "extracted": isinstance(self.model, PrunedModel),
            "masks": self.encoder.masks if self.keep is None else None,
            "weights": {plain_name(name): weight for name, weight in self.model.state_dict().items()},
            "optimisation": self.optimisation.state_dict(),
            "pruner": self.pruner.state_dict(),
            "distiller": self.distiller.state_dict(),
            "streams": self._streams(),
            "best": self._best.state_dict(),
            "log": self._log.state_dict(),
            "trace": self._trace.rows,
            "agreement": self.agreement,
            "scoring_passes": self.services.passes,
            "seconds": self._timings.so_far(),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on where a trainer with the same arguments was; called after `begin`."""
        self.step, self.agreement = state["step"], state["agreement"]
        if state["keep"] is not None:
            self._leave_search()
            self.keep = state["keep"]
            self.model = extract(self.model, self.keep) if state["extracted"] else self.model
        self.model.load_state_dict(state["weights"])
        settings = TrainingConfig(**state["optimisation"]["config"])
        self.optimisation = Optimisation(
            self.model, self.distiller.parameters(), state["optimisation"]["steps"], settings
        )
        self.pruner.load_state_dict(_on_device(state["pruner"], self.device))
        self.distiller.load_state_dict(_on_device(state["distiller"], self.device))
        self.optimisation.load_state_dict(state["optimisation"])
        if self.keep is None:
            self.encoder.masks = _on_device(state["masks"], self.device)
        self._best.load_state_dict(state["best"])
        self._log.load_state_dict(state["log"])
        self._trace.rows = [tuple(row) for row in state["trace"]]
        self.services.passes = state["scoring_passes"]
        self._timings.seconds = state["seconds"]
        self._batches = self._batches_from(self.step)
        self._set_streams(state["streams"])

    def _streams(self) -> State:
        """Random streams that go on from step to step: dropout's and the pruner's own."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda, "pruner": self.setting.generator.get_state()}

    def _set_streams(self, streams: State) -> None:
        torch.set_rng_state(streams["cpu"])
        self.setting.generator.set_state(streams["pruner"])
        if streams["cuda"] is not None:
            torch.cuda.set_rng_state(streams["cuda"], self.device)

    def _outcome(self, selected: int) -> Trained:
        assert self.keep is not None
        return Trained(
            model=self.model,
            keep=self.keep,
            phases=self.phases,
            selected_step=selected,
            agreement=self.agreement,
            seconds=self._timings.seconds,
            notes=self.distiller.notes(),
            scoring_passes=self.services.passes,
            trace=self._trace,
        )

    def _search(self) -> None:
        while self.step < self.phases.before:
            self._step("before", self.view, None)
        for step in range(self.step - self.phases.before, self.phases.search):
            self._search_step(step)

    def _binarise(self) -> None:
        """From the masks of the last search step to the small model; what this costs is noted, if it can be told."""
        measured = self.hooks.evaluate is not None and self.phases.search > 0
        before = self._evaluate_masked() if measured else None
        self._extract(self._decide())
        if measured:
            noted = {"before": before, "after": self._evaluate()}
            self.hooks.log({"phase": "search", "step": self.step, "binarisation": noted})

    def _decide(self) -> Keep:
        if self.phases.search and self.pruner.snapshot_due(self.phases.search):
            self._snapshot()
        keep = self.pruner.keep()
        if self.phases.search:
            self._trace.record(self.phases.search, {kind: units.float() for kind, units in keep.items()})
        self._leave_search()
        return keep

    def _snapshot(self) -> None:
        if self.distiller.snapshot():
            self.hooks.log({"phase": "search", "step": self.step, "event": "snapshot"})

    def _leave_search(self) -> None:
        self.encoder.remove()
        self.view.remove()

    def _search_step(self, step: int) -> None:
        if self.pruner.snapshot_due(step):
            self._snapshot()
        steps = self.pruner.restart(step)
        if steps is not None:
            self._set_optimizer(steps)
        masks = self._mask_leaves(self.pruner.masks(step))
        self.encoder.masks = masks
        self._trace.record(step, masks)
        self._step("search", self.view, masks, step)

    def _mask_leaves(self, masks: Masks | None) -> Masks | None:
        """Masks that collect a gradient, for a pruner that observes one; others stay as the pruner made them."""
        if masks is None or not self.pruner.gradient_parts:
            return masks
        return {kind: values.detach().requires_grad_() for kind, values in masks.items()}

    def _extract(self, keep: Keep) -> None:
        """Go on with the small model, after making sure that it computes the same."""
        masks = self._folded(keep)
        if masks is None and self._whole(keep):
            self._restart_or_continue(self.model, keep)
            self.keep = keep
            return
        small = extract(self.model, keep, masks)
        longest = [self.train.batch(indices).to(self.device) for indices in ordered_batches(self.train, 32)[:2]]
        self.agreement = disagreement(self.model, small, keep, longest, masks)
        if self.agreement > TOLERANCE:
            raise DataError(f"masked and extracted model disagree by {self.agreement:.2e} (allowed {TOLERANCE:.0e})")
        self._restart_or_continue(small, keep)
        self.keep = keep

    def _whole(self, keep: Keep) -> bool:
        """Whether extraction would change nothing."""
        return all(bool(units.all()) for units in keep.values()) and embedding_rank(self.model) is None

    def _folded(self, keep: Keep) -> Masks | None:
        """Soft masks of the units that stay, if the pruner has such."""
        soft = self.pruner.folded()
        if soft is None:
            return None
        kept = {kind: units.to(self.device, torch.float32) for kind, units in keep.items()}
        return kept | {kind: values.detach() * kept.get(kind, 1) for kind, values in soft.items()}

    def _restart_or_continue(self, small: PreTrainedModel, keep: Keep) -> None:
        dense, self.model = self.model, small
        # Moments of single weights that are gone must not move them again: their optimiser always starts anew.
        if self._at_extraction == "restart" or not self.phases.search or WEIGHT in keep:
            self._set_optimizer(self.phases.recovery, recovery=True)
        else:
            self.optimisation = self.optimisation.continued(small, parameter_cuts(dense, keep))

    def _recover(self) -> int:
        assert self.keep is not None
        view = Observed(self.model, self.distiller.needs)
        held = hold_zeros(self.model, self.keep)
        self.model.train()
        while self.step < self.phases.total:
            self._step("recovery", view, None)
        view.remove()
        for handle in held:
            handle.remove()
        self._log.flush("recovery", self.step, self.optimisation.rate)
        return self._best.restore(self.model) or self.step

    def _offer(self) -> None:
        """Evaluate at the end of each recovery epoch, if the best weights are to be kept."""
        done = self.step - self.phases.before - self.phases.search
        if self.hooks.select is None or done <= 0:
            return
        if done % self._per_epoch == 0 or done == self.phases.recovery:
            scores = self._evaluate()
            self.hooks.log({"phase": "recovery", "step": self.step, "scores": scores})
            self._best.offer(self.step, self.model, scores)

    @property
    def _per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.config.batch_size)

    def _evaluate(self) -> Any:
        assert self.hooks.evaluate is not None, "selection needs Hooks.evaluate"
        scores = self.hooks.evaluate(self.model)
        self.model.train()
        return scores

    def _evaluate_masked(self) -> Any:
        with self.services.as_evaluated():
            return self._evaluate()

    def _step(self, phase: str, student: Viewer, masks: Masks | None, search_step: int | None = None) -> None:
        batch = next(self._batches)
        parts = self.loss_parts(student, batch, masks)
        if self.step == 0:
            self._require_gradients(parts)
        weighted = self.weighted(parts)
        total = torch.stack(list(weighted.values())).sum()
        gradients = self._backward(total, weighted, masks)
        if search_step is not None and masks is not None and gradients:
            self.pruner.observe(search_step, masks, gradients)
        self.optimisation.update()
        for optimizer in self.pruner.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._log.add(parts, total)
        if self.step % LOG_EVERY == 0:
            scheduled = self.pruner.sparsity(search_step) if search_step is not None else None
            self._log.flush(phase, self.step, self.optimisation.rate, scheduled)
        self.hooks.progress(phase, self.step, self.phases.total)
        if phase == "recovery":
            self._offer()
        self.hooks.stepped(self)

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

    def _set_optimizer(self, steps: int, recovery: bool = False) -> None:
        """New AdamW and new schedule over `steps` for the current model and the distiller's maps."""
        config = recovery_settings(self.config) if recovery else self.config
        self.optimisation = Optimisation(self.model, self.distiller.parameters(), steps, config)

    def _teacher_viewer(self, teacher: PreTrainedModel | None) -> Viewer | None:
        needs = self.distiller.needs
        if "teacher" not in needs:
            return None
        if teacher is None:
            raise UsageError(f"distiller {type(self.distiller).__name__} needs a teacher")
        check_teacher(self.distiller, self.setting.structure, structure_of(teacher))
        teacher = teacher.to(self.device).train("teacher_dropout" in needs).requires_grad_(False)
        observed = Observed(teacher, needs)
        live = without_gradient(observed, self.autocast)
        if self.config.cache_teacher and not needs & {"padding", "teacher_dropout"}:
            try:
                return cached_views(live, teacher, self.train, needs, self.device, self.precision)
            finally:
                observed.remove()
        self._observed_teacher = observed
        return live

    def _batches_from(self, step: int) -> Iterator[Batch]:
        """Batches of the steps from `step` on, epoch after epoch."""
        epoch, done = divmod(step, self._per_epoch)
        while True:
            order = epoch_batches(self.train, self.config.batch_size, generator(self.seed, "order", epoch))
            for indices in order[done:]:
                yield self.train.batch(indices).to(self.device)
            epoch, done = epoch + 1, 0

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def check_teacher(distiller: Distiller, student: Structure, teacher: Structure) -> None:
    """`UsageError` when a distiller cannot compare a student with a teacher of such a structure."""
    reason = distiller.unsuitable(student, teacher) if "teacher" in distiller.needs else None
    if reason is not None:
        raise UsageError(
            f"distiller {type(distiller).__name__} cannot learn from this teacher: {reason}; "
            "choose another teacher, distiller or options"
        )


def task_loss(logits: torch.Tensor, labels: torch.Tensor, regression: bool) -> torch.Tensor:
    """Cross-entropy of [batch, classes] logits, or mean squared error of [batch, 1] outputs."""
    return mse_loss(logits.squeeze(-1), labels.to(logits.dtype)) if regression else cross_entropy(logits, labels)


def flooded(loss: torch.Tensor, level: float) -> torch.Tensor:
    """|loss - level| + level: below the flooding level the gradient changes its sign (Ishida et al. 2020)."""
    return (loss - level).abs() + level if level else loss


def without_gradient(view: Viewer, autocast: Callable[[], torch.autocast]) -> Viewer:
    """A viewer whose forward pass keeps no graph."""

    def run(batch: Batch) -> View:
        with torch.no_grad(), autocast():
            return view(batch)

    return run


def _on_device(value: Any, device: torch.device) -> Any:
    """Tensors inside plain data moved to `device`; states of random generators (bytes) stay on the CPU."""
    if isinstance(value, torch.Tensor):
        return value if value.dtype == torch.uint8 else value.to(device)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_device(item, device) for item in value)
    return value
