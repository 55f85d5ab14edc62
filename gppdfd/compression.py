"""A small model from a model and rows of one's own, in one call: `compress`.

Everything that can be wrong with the request, the data or the models is found before the first training step. Then,
where the method distils and no teacher is given, a copy of the model is fine-tuned as the teacher; then the student is
pruned and trained by the method, as in a suite.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, get_args

import torch
from transformers import PreTrainedModel

from gppdfd.budget import Target, forward_flops, parameters, prunable, sparsity
from gppdfd.errors import UsageError, unknown
from gppdfd.evaluation import Evaluation, evaluate
from gppdfd.given import Model, Models, check_tokens, count
from gppdfd.interface import Method, parse_method
from gppdfd.latency import LatencyTable
from gppdfd.logbook import Timings
from gppdfd.passes import Shape
from gppdfd.progress import Progress, duration, make_progress
from gppdfd.seeds import derive_seed
from gppdfd.settings import Precision, TrainingConfig
from gppdfd.structure import Structure
from gppdfd.tasks.base import TaskData
from gppdfd.tasks.encoding import encode
from gppdfd.tasks.metrics import majority
from gppdfd.tasks.own import EVALUATION, own_task
from gppdfd.tasks.table import table_of
from gppdfd.timing import TimingConfig
from gppdfd.training import Hooks, Trained, Trainer, check_teacher
from gppdfd.validation import validated

DEFAULT_TARGET: Mapping[str, float] = MappingProxyType({"sparsity": 0.95})
TARGETS = ("sparsity", "params", "flops", "latency")
"""Kinds of target; exactly one is given."""

EPOCHS, STEPS = 3, 200
"""What search and recovery get each where nothing else is said: 3 epochs, or 200 steps if those are more."""

RATE, RATE_HIDDEN, HIGHEST_RATE = 3e-5, 768, 1e-3
"""Learning rate at hidden size 768, and the most that a small model gets."""

TEACHER_METHOD = "dense"


@dataclass(frozen=True)
class Report:
    """What a compression did.

    Attributes:
        labels: class names in label order; empty for regression.
        rows: rows of the training and the evaluation split.
        teacher: `trained here`, `given`, or None where the method needs none.
        training: all training settings of the student.
        sparsity: encoder sparsity reached, 0 to 1.
        parameters: of the encoder's attention and FFN maps and of the whole model, before and after.
        flops: of the encoder layers on one row of `tokens` tokens (the mean of the training rows), before and after.
        scores: on the evaluation rows, of `student`, `teacher` and `majority` (always the most frequent class, or the
            mean value); empty without evaluation rows.
        seconds: wall time by phase.
    """

    method: str
    target: dict[str, Any]
    seed: int
    labels: tuple[str, ...]
    rows: dict[str, int]
    teacher: str | None
    training: dict[str, Any]
    sparsity: float
    parameters: dict[str, int]
    flops: dict[str, int]
    scores: dict[str, dict[str, float]]
    warnings: list[str]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        sizes, time = self.parameters, duration(sum(self.seconds.values()))
        lines = [
            f"{self.method}: {self.sparsity:.2%} of the encoder removed ({sizes['encoder_dense']:,} -> "
            f"{sizes['encoder']:,} parameters; whole model {sizes['total_dense']:,} -> {sizes['total']:,}) in {time}"
        ]
        lines += [f"{who:8}  {_score_line(scores)}" for who, scores in self.scores.items()]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def compress(
    model: Model,
    train_dataset: Any,
    *,
    teacher: Model | None = None,
    method: str = "gpp+dfd",
    target: Mapping[str, Any] | Target = DEFAULT_TARGET,
    tokenizer: Any = None,
    text_columns: Sequence[str] | str | None = None,
    label_column: str = "label",
    eval_dataset: Any = None,
    training: Mapping[str, Any] | TrainingConfig | None = None,
    max_length: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    progress: bool = True,
    report: Callable[[Report], None] | None = None,
) -> PreTrainedModel:
    """Prune a model on rows of one's own; returns the small model, in evaluation mode.

    Labels: names (sorted, unless the model's `id2label` knows them), whole numbers, or real numbers for a regression;
    whole numbers are a regression too for a loaded model with `num_labels=1`. The result's `id2label` has the names.

    Settings that `training` does not name: batches of 32 rows; 3 epochs of search and 3 of recovery, but at least 200
    steps each; learning rate 3e-5 * (768 / hidden size)^2, at most 1e-3; the rest as in `TrainingConfig`. A teacher
    that is trained here gets as many epochs as the search by default, and the student starts from its weights
    (`training={"init": "pretrained"}` starts from the model's own).

    Args:
        model: sequence classifier, which is not changed; or a folder or hub name, whose classifier is made for the
            labels of the data if it has none that fits them.
        train_dataset: `datasets.Dataset`, pandas DataFrame, list of dicts, list of (text, label), or what
            `gppdfd.tasks.table.read_table` made of a file.
        teacher: fine-tuned classifier, or its folder or hub name; `teacher=model` takes the model as it is. None
            fine-tunes a copy of the model first, if the method needs a teacher.
        method: a name such as `gpp+dfd`; `python -m suites.list methods` prints all.
        target: what must remain, exactly one of `sparsity`, `params`, `flops` (of the encoder layers on 128 tokens, or
            on `tokens`) and `latency` (seconds of the encoder layers for 32 rows of 128 tokens on this machine, which
            is timed first, or by the `table` that comes with it).
        tokenizer: a fast tokenizer, or its folder or hub name; None takes the model's.
        text_columns: one column, or two for pairs; None takes the only column with texts.
        eval_dataset: rows to score student and teacher on at the end, with the same columns.
        training: settings of `TrainingConfig` by name; a whole `TrainingConfig` is taken as it is.
        max_length: longest row in tokens; longer ones are cut. None: 128, or what the model has positions for.
        seed: same seed, machine and settings give the same bits on a CPU.
        device: where to train; None takes a GPU if there is one. The result lies where `model` lay.
        precision: `bf16` trains under autocast.
        progress: show phase, steps and time left on standard error.
        report: called once with sizes, scores and settings, of which the progress shows the most important.

    Raises:
        UsageError: the request cannot be: unknown names, no tokenizer, labels that do not fit the model, a target out
            of reach, too few rows.
        DataError: the rows or the files of a model are broken; the message names rows or file.
    """
    models, place = Models(model, teacher), _device(device)
    request = Request(
        method=parse_method(method),
        target=target_of(target, lambda: latency_table(models.structure, place)),
        training=training,
        max_length=max_length,
        seed=seed,
        device=place,
        precision=_known_precision(precision),
    )
    train = table_of(train_dataset, "the training data", label_column)
    evaluation = None if eval_dataset is None else table_of(eval_dataset, "the evaluation data", label_column)
    data = own_task(train, evaluation, text_columns, label_column, models.heads)
    own_tokenizer = models.tokenizer(tokenizer)
    with make_progress(progress) as display, _own_random_state(request.device):
        small, found = Compression(request, models, data, own_tokenizer, display).run()
        display.message(str(found))
    if report:
        report(found)
    return small


def target_of(target: Mapping[str, Any] | Target, timed: Callable[[], LatencyTable]) -> Target:
    """Target from a mapping with exactly one of `TARGETS`, and further fields of `Target` if need be.

    Args:
        timed: makes the latency table of this machine, for a target `latency` that brings none.

    Raises:
        UsageError: none or several kinds, an unknown key, or a value out of range.
    """
    if isinstance(target, Target):
        return target
    known = {each.name for each in fields(Target)}
    for key in target:
        if key not in known:
            raise unknown("key in target", str(key), known)
    if sum(key in TARGETS for key in target) != 1:
        raise UsageError(f"target needs exactly one of {', '.join(TARGETS)}, such as {{'sparsity': 0.95}}")
    try:
        fields_of_target: dict[str, Any] = dict(target)
        if "latency" in target and "table" not in target:
            fields_of_target["table"] = timed()
        return Target(**fields_of_target)
    except (TypeError, ValueError) as error:
        raise UsageError(f"target {dict(target)}: {error}") from None


def latency_table(structure: Structure, device: torch.device) -> LatencyTable:
    """Latency of the encoder's sublayers for 32 rows of 128 tokens, with torch's present number of threads."""
    timing = TimingConfig(threads=torch.get_num_threads())
    return LatencyTable.measure(structure, Shape(32, 128), timing, str(device))


def training_settings(
    given: Mapping[str, Any] | TrainingConfig | None, method: Method, rows: int, hidden: int, teacher_first: bool
) -> TrainingConfig:
    """The student's settings: the given ones, then those that the method brings, then the defaults of `compress`.

    Args:
        given: a whole `TrainingConfig` is taken as it is.
        rows, hidden: training rows and hidden size, which the defaults depend on.
        teacher_first: whether a teacher is trained first, so that the student can start from it.
    """
    if isinstance(given, TrainingConfig):
        return given
    named = {**method.training, **(given or {})}
    batch_size = validated(TrainingConfig, named, "training").batch_size
    epochs = max(EPOCHS, STEPS / math.ceil(rows / batch_size))
    defaults = {
        "learning_rate": min(HIGHEST_RATE, RATE * (RATE_HIDDEN / hidden) ** 2),
        "search_epochs": epochs,
        "recovery_epochs": epochs,
        "init": "teacher" if teacher_first else "pretrained",
    }
    return validated(TrainingConfig, defaults | named, "training")


def teacher_settings(student: TrainingConfig) -> TrainingConfig:
    """Plain fine-tuning for as many epochs as the student searches (or, without a search, recovers)."""
    return TrainingConfig(
        batch_size=student.batch_size,
        learning_rate=student.learning_rate,
        weight_decay=student.weight_decay,
        clip_norm=student.clip_norm,
        warmup=0.1,
        flooding=0.0,
        search_epochs=0.0,
        recovery_epochs=student.search_epochs or student.recovery_epochs,
    )


@dataclass(frozen=True)
class Request:
    """What is to be done, apart from models and data."""

    method: Method
    target: Target
    training: Mapping[str, Any] | TrainingConfig | None
    max_length: int | None
    seed: int
    device: torch.device
    precision: Precision

    @property
    def distils(self) -> bool:
        """Whether the distiller looks at a teacher."""
        _, distiller = self.method.build()
        return "teacher" in distiller.needs


class Compression:
    """One compression; making it checks everything, `run` trains."""

    def __init__(self, request: Request, models: Models, data: TaskData, tokenizer: Any, display: Progress) -> None:
        self.request, self.models, self.data, self.display = request, models, data, display
        self.spec, self.structure = data.spec, models.structure
        rows, hidden = len(data.train), self.structure.hidden
        teacher_first = request.distils and models.teacher is None
        self.settings = training_settings(request.training, request.method, rows, hidden, teacher_first)
        self.needs_teacher = request.distils or self.settings.init == "teacher"
        check_rows(rows, self.settings.batch_size)
        check_reachable(request, self.structure)
        check_teacher(request.method.build()[1], self.structure, models.teacher_structure or self.structure)
        self.encoded = encode(data, tokenizer, models.length(request.max_length))
        self.student = models.fresh(self.spec, request.seed)
        self.teacher = models.given_teacher(self.spec, request.seed) if self.needs_teacher else None
        for model in filter(None, (self.student, self.teacher)):
            check_tokens(model, [self.encoded.train, *self.encoded.evaluations.values()])
        self.timings = Timings()

    def run(self) -> tuple[PreTrainedModel, Report]:
        """Train, evaluate; the small model and what became of it."""
        if self.needs_teacher and self.teacher is None:
            with self.timings.phase("teacher"):
                self.teacher = self._fine_tuned()
        self._initialise()
        total = count(self.student)
        trained = self._train("student", self.student, self.request.method, self.settings, self.request.seed)
        self.timings.seconds |= trained.seconds
        with self.timings.phase("evaluation"):
            evaluations = self._evaluate(trained.model)
        return trained.model.to(self.models.home).eval(), self._report(trained, evaluations, total)

    def _fine_tuned(self) -> PreTrainedModel:
        method, settings = parse_method(TEACHER_METHOD), teacher_settings(self.settings)
        seed = derive_seed(self.request.seed, "teacher")
        return self._train("teacher", deepcopy(self.student), method, settings, seed).model

    def _initialise(self) -> None:
        """Give the student the weights that it starts from."""
        if self.settings.init == "random":
            self.student = self.models.random(self.spec, self.request.seed)
        if self.settings.init != "teacher" or self.teacher is None:
            return
        try:
            self.student.load_state_dict(self.teacher.state_dict())
        except RuntimeError:
            raise UsageError("training.init=teacher needs a teacher of the student's architecture") from None

    def _train(self, name: str, model: PreTrainedModel, method: Method, settings: TrainingConfig, seed: int) -> Trained:
        pruner, distiller = method.build()
        student = name == "student"
        trainer = Trainer(
            model,
            pruner,
            distiller,
            self.encoded.train,
            settings,
            teacher=self.teacher,
            target=self.request.target if student else None,
            seed=seed,
            regression=self.spec.regression,
            device=self.request.device,
            precision=self.request.precision,
            hooks=Hooks(
                progress=lambda phase, *steps: self.display.step(name, phase if student else "fine-tuning", *steps)
            ),
        )
        return trainer.run()

    def _evaluate(self, small: PreTrainedModel) -> dict[str, Evaluation]:
        """Outputs of student and teacher on the evaluation rows, if there are any."""
        if EVALUATION not in self.encoded.evaluations:
            return {}
        models = {"student": small} | ({"teacher": self.teacher} if self.teacher is not None else {})
        request, splits = self.request, self.encoded.evaluations
        return {
            who: evaluate(model, self.spec, splits, request.device, request.precision)[EVALUATION]
            for who, model in models.items()
        }

    def _report(self, trained: Trained, evaluations: Mapping[str, Evaluation], total: int) -> Report:
        dense, keep = self.structure.keep_all(), trained.keep
        tokens = round(len(self.encoded.train.tokens) / len(self.encoded.train))
        return Report(
            method=self.request.method.spec,
            target=self.request.target.described,
            seed=self.request.seed,
            labels=self.spec.labels,
            rows={"train": len(self.data.train), **{name: len(rows) for name, rows in self.data.evaluations.items()}},
            teacher=self._teacher_entry(),
            training=self.settings.model_dump(),
            sparsity=sparsity(self.structure, keep),
            parameters={
                "encoder_dense": prunable(self.structure),
                "encoder": parameters(self.structure, keep),
                "total_dense": total,
                "total": count(trained.model),
            },
            flops={
                "tokens": tokens,
                "dense": forward_flops(self.structure, dense, tokens),
                "small": forward_flops(self.structure, keep, tokens),
            },
            scores=self._scores(evaluations),
            warnings=[
                f"the {who} gives every row the same answer" for who, each in evaluations.items() if each.constant
            ],
            seconds=self.timings.seconds,
        )

    def _teacher_entry(self) -> str | None:
        if not self.needs_teacher:
            return None
        return "trained here" if self.models.teacher is None else "given"

    def _scores(self, evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, float]]:
        if not evaluations:
            return {}
        scores = {who: evaluation.scores for who, evaluation in evaluations.items()}
        rows = self.data.evaluations[EVALUATION]
        return scores | {"majority": majority(self.spec, self.data.train.labels, rows.labels)}


def check_rows(rows: int, batch_size: int) -> None:
    """`UsageError` when the training rows do not fill a batch."""
    if rows < batch_size:
        raise UsageError(
            f"{rows} training rows are too few: at least {batch_size}, one batch, are needed; give more rows or a "
            "smaller training.batch_size"
        )


def check_reachable(request: Request, structure: Structure) -> None:
    """`UsageError` when the method cannot meet the target on such a model."""
    pruner, _ = request.method.build()
    if reason := pruner.unreachable(structure, request.target):
        raise UsageError(f"{request.method.spec} cannot meet the target {request.target}: {reason}")


def _device(name: torch.device | str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {str(name)!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _known_precision(precision: Precision) -> Precision:
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    return precision


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Leave torch's global random state as it was."""
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    with torch.random.fork_rng(devices=[index] if device.type == "cuda" else []):
        yield


def _score_line(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
