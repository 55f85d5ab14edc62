"""One run from its config to its record: data, teacher, search, extraction, recovery, evaluation, files.

Everything that the next run of the same process can use again (tokenised data, the last teacher with its cached
outputs) stays warm.
"""

import json
import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

import gppdfd
from gppdfd.budget import forward_flops, parameters, prunable, sparsity
from gppdfd.checkpoint import State, load_checkpoint, save_checkpoint
from gppdfd.errors import DataError
from gppdfd.evaluation import Evaluation, evaluate
from gppdfd.files import write_atomically, write_json, write_text
from gppdfd.interface import Setting
from gppdfd.logbook import Timings
from gppdfd.measure import latencies
from gppdfd.memory import PeakMemory
from gppdfd.models import load_encoder, load_tokenizer, model_content
from gppdfd.passes import Shape, longest_input
from gppdfd.pruned import load_pruned, save
from gppdfd.structure import WEIGHT, Keep, Structure, adapter_for
from gppdfd.tasks import TaskData, TaskSpec, load_task
from gppdfd.tasks.encoding import EncodedTask, encode
from gppdfd.tasks.metrics import majority
from gppdfd.timing import TimingConfig, pooled, ratio
from gppdfd.training import Hooks, Trained, Trainer
from suites.checkpoints import Checkpoints
from suites.commit import git_state
from suites.config import SCHEMA, RunConfig
from suites.sources import sources_hash
from suites.store import Progress
from suites.tracking import tracked

Report = Callable[[Progress], None]

LATENCY_BATCH, LATENCY_SECONDS, LATENCY_ROUNDS = 32, 0.1, 3

logger = logging.getLogger(__name__)


def execute(
    config: RunConfig,
    folder: Path,
    store_root: Path,
    data_dir: Path | None,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Do a whole run and write its files into `folder`; the caller sets the done marker.

    Args:
        store_root: where the teacher's run lies and tokenised data is cached.
        data_dir: folder with real GLUE data, or None.
        checkpoints: where the run goes on and saves its state; by default in `folder`, every ten minutes.

    Raises:
        UsageError, DataError: with a message for the user; nothing is left that looks finished.
    """
    Run(config, folder, store_root, data_dir, report, checkpoints).execute()


class Run:
    """State of one run while it is being done."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        store_root: Path,
        data_dir: Path | None,
        report: Report,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.config, self.folder, self.store, self.report = config, folder, store_root, report
        self.checkpoints = checkpoints or Checkpoints(folder / "checkpoint")
        self.started = time.perf_counter()
        self.timings = Timings()
        self.history: list[dict[str, Any]] = []
        self.resumed = 0
        self.device = prepare_device(config)
        self.memory = PeakMemory(self.device)
        self.earlier_peak: int | None = 0
        self._check_model()
        self.data, self.encoded = self._read_data(data_dir)
        self._check_data()
        self.teacher_config = config.teacher_config()
        self.teacher = self._load_teacher()

    def execute(self) -> None:
        """Train, evaluate, write all files."""
        state = self._resume()
        trainer = self._trainer()
        self.timings.seconds["start"] = self.timings.seconds.get("start", 0.0) + time.perf_counter() - self.started
        with tracked(self.store, self.config.run_id) as self._track, self.checkpoints.steps():
            trained = trainer.run(state)
        self.timings.seconds |= trained.seconds
        with self.timings.phase("evaluation"):
            evaluations = self._evaluate(trained.model)
        with self.timings.phase("saving"):
            self._save(trained, evaluations)
        write_json(self.folder / "record.json", self._record(trained, evaluations, trainer.setting))

    def _resume(self) -> State | None:
        """What the trainer goes on from; the rest of an earlier attempt's state is taken over here."""
        state = load_checkpoint(self.checkpoints.folder)
        if state is None:
            return None
        if state["origin"] != self._origin:
            logger.warning("the checkpoint was made by other sources or versions: the run starts from the beginning")
            self.checkpoints.forget()
            return None
        self.history, self.resumed = state["history"], state["resumed"] + 1
        self.checkpoints.earlier, self.timings.seconds = state["seconds"], state["timings"]
        self.earlier_peak = state["peak_memory"]
        trainer: State = state["trainer"]
        logger.info("goes on after step %d, for the %d. time", trainer["step"], self.resumed)
        return trainer

    def _stepped(self, trainer: Trainer) -> None:
        if self.checkpoints.due(last=trainer.step == trainer.phases.total):
            self.checkpoints.save(lambda folder: save_checkpoint(folder, trainer.step, self._state(trainer)))

    def _state(self, trainer: Trainer) -> State:
        return {
            "origin": self._origin,
            "resumed": self.resumed,
            "seconds": self.seconds,
            "timings": self.timings.seconds,
            "peak_memory": self.peak_memory,
            "history": self.history,
            "trainer": trainer.state_dict(),
        }

    @property
    def _origin(self) -> dict[str, str]:
        """What must be the same for a run to go on: a result is made by one version of everything."""
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return {"sources": sources_hash(), "device": self.device.type, **versions}

    @property
    def seconds(self) -> float:
        """Duration so far, over all attempts as far as the run goes on from them."""
        return self.checkpoints.earlier + time.perf_counter() - self.started

    @property
    def peak_memory(self) -> int | None:
        """Most bytes held so far, over all attempts; None where the system does not tell."""
        now = self.memory.bytes
        return None if now is None or self.earlier_peak is None else max(now, self.earlier_peak)

    def _read_data(self, data_dir: Path | None) -> tuple[TaskData, EncodedTask]:
        self.report(Progress("start", 0, 0))
        config, data = self.config, self.config.data
        cache_dir = self.store / ".cache"
        return load_encoded(
            config.task, data.source, data_dir, data.max_train_rows, data.max_length, config.model, cache_dir
        )

    def _check_model(self) -> None:
        """What is recorded, and hashed into the id, must be what the run is done with."""
        config = self.config
        if config.model_content is not None and model_content_once(config.model) != config.model_content:
            raise DataError(f"the files of the model {config.model} have changed since the launch: launch again")

    def _check_data(self) -> None:
        if self.config.data_content not in (None, self.data.content):
            raise DataError(f"the data of {self.config.task} have changed since the launch: launch again")

    def _save(self, trained: Trained, evaluations: Mapping[str, Evaluation]) -> None:
        save(trained.model, self.folder / "model", load_tokenizer_once(self.config.model))
        self._write_predictions(evaluations)
        self._write_indicators(trained)
        write_text(self.folder / "history.jsonl", "".join(map(_json_line, self.history)))

    def _trainer(self) -> Trainer:
        pruner, distiller = self.config.parsed.build()
        settings, spec = self.config.settings, self.data.spec
        student = load_encoder(self.config.model, spec, self.config.seed, settings.init != "random")
        if settings.init == "teacher" and self.teacher is not None:
            student.load_state_dict(self.teacher.state_dict())
        return Trainer(
            student,
            pruner,
            distiller,
            self.encoded.train,
            settings,
            teacher=self.teacher,
            target=self.config.target,
            seed=self.config.seed,
            regression=spec.regression,
            device=self.device,
            precision=self.config.precision,
            hooks=self._hooks(),
        )

    def _hooks(self) -> Hooks:
        hooks = Hooks(
            progress=lambda *where: self.report(Progress(*where)),
            log=self._log,
            evaluate=self._selection_scores,
            stepped=self._stepped,
        )
        if self.config.select == "best_dev":
            hooks.select = lambda scores: scores[self.selection_split][self.data.spec.primary]
        return hooks

    def _log(self, entry: dict[str, Any]) -> None:
        self.history.append(entry)
        self._track(entry)

    @property
    def selection_split(self) -> str:
        return next(iter(self.data.evaluations))

    def _selection_scores(self, model: PreTrainedModel) -> dict[str, dict[str, float]]:
        split = {self.selection_split: self.encoded.evaluations[self.selection_split]}
        found = evaluate(model, self.data.spec, split, self.device, self.config.precision)
        return {name: evaluation.scores for name, evaluation in found.items()}

    def _load_teacher(self) -> PreTrainedModel | None:
        if self.teacher_config is None:
            return None
        teacher, scores = load_teacher(self.store / self.teacher_config.run_id)
        value, spec = scores[self.selection_split][self.data.spec.primary], self.data.spec
        if below_floor(value, spec):
            raise DataError(
                f"teacher {self.teacher_config.run_id} scores {value:.3f} {spec.primary} on {self.config.task}, "
                f"below the floor of {spec.floor}: labels in another order, or not trained?"
            )
        return teacher

    def _evaluate(self, model: PreTrainedModel) -> dict[str, Evaluation]:
        self.report(Progress("evaluation", 0, 0))
        return evaluate(model, self.data.spec, self.encoded.evaluations, self.device, self.config.precision)

    def _write_predictions(self, evaluations: Mapping[str, Evaluation]) -> None:
        columns: dict[str, list[Any]] = {name: [] for name in ("split", "example", "label", "prediction", "logits")}
        for name, evaluation in evaluations.items():
            split = self.data.evaluations[name]
            columns["split"] += [name] * len(split)
            columns["example"] += split.ids.tolist()
            columns["label"] += split.labels.astype(float).tolist()
            columns["prediction"] += evaluation.predictions.astype(float).tolist()
            columns["logits"] += evaluation.logits.tolist()
        write_parquet(self.folder / "predictions.parquet", columns)

    def _write_indicators(self, trained: Trained) -> None:
        if trained.trace is None or not trained.trace.rows:
            return
        names = ("step", "kind", "layer", "unit", "z")
        columns = dict(zip(names, map(list, zip(*trained.trace.rows, strict=True)), strict=True))
        write_parquet(self.folder / "indicators.parquet", columns)

    def _record(self, trained: Trained, evaluations: Mapping[str, Evaluation], setting: Setting) -> dict[str, Any]:
        return {
            **self._labels(),
            **self._results(evaluations),
            "teacher": self._teacher_entry(),
            "size": size_entry(trained.model, setting.structure, trained.keep, self.mean_tokens),
            "latency": latency_entry(trained.model, setting.student, self.config),
            "kept": kept_counts(setting.structure, trained.keep),
            "agreement": trained.agreement,
            "binarisation": self._binarisation(),
            "data": self._data_entry(),
            "timings": {**self.timings.seconds, "total": self.seconds},
            "peak_memory": self.peak_memory,
            "resumed": self.resumed,
            "steps": vars(trained.phases),
            "scoring_passes": trained.scoring_passes,
            "notes": trained.notes,
            "selection": {"rule": self.config.select, "step": trained.selected_step},
            "environment": environment(self.device, self.config),
            "sources": sources_hash(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": self.config.model_dump(mode="json"),
        }

    def _binarisation(self) -> dict[str, Any] | None:
        """Scores with the masks of the last search step and with the binary ones, before any recovery."""
        return next((entry["binarisation"] for entry in self.history if "binarisation" in entry), None)

    def _labels(self) -> dict[str, Any]:
        """What a reader of records sorts and groups by."""
        config = self.config
        return {
            "schema": SCHEMA,
            "run_id": config.run_id,
            "task": config.task,
            "method": config.method,
            "protocol": config.protocol,
            "label": config.method,
            "sparsity_target": config.sparsity,
            "seed": config.seed,
            "role": "teacher" if config.is_teacher else "student",
            "model": Path(config.model).name,
        }

    def _results(self, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Scores with what they must be judged by: the majority class, missing splits, constant answers."""
        scores, metric = {name: each.scores for name, each in evaluations.items()}, self.data.spec.primary
        constant = [name for name, evaluation in evaluations.items() if evaluation.constant]
        return {
            "scores": scores,
            "primary": {
                "split": self.selection_split,
                "metric": metric,
                "value": scores[self.selection_split][metric],
            },
            "majority": self._majority(),
            "missing": dict(self.data.missing),
            "warnings": [f"constant predictions on {name}" for name in constant],
            "constant_predictions": constant,
        }

    @property
    def mean_tokens(self) -> int:
        return round(len(self.encoded.train.tokens) / len(self.encoded.train))

    def _majority(self) -> dict[str, dict[str, float]]:
        labels = self.data.train.labels
        return {name: majority(self.data.spec, labels, split.labels) for name, split in self.data.evaluations.items()}

    def _teacher_entry(self) -> dict[str, Any] | None:
        if self.teacher_config is None:
            return None
        run_id = self.teacher_config.run_id
        return {"run_id": run_id, "scores": load_teacher(self.store / run_id)[1]}

    def _data_entry(self) -> dict[str, Any]:
        rows = {"train": len(self.data.train), **{name: len(split) for name, split in self.data.evaluations.items()}}
        return {
            "source": self.data.source,
            "content": self.data.content,
            "rows": rows,
            "subset": list(self.data.subset),
            "max_train_rows": self.config.data.max_train_rows,
            "mean_tokens": self.mean_tokens,
        }


def below_floor(value: float, spec: TaskSpec) -> bool:
    """Whether a teacher's score says that its labels are in another order or that it learnt nothing."""
    return value < spec.floor


@lru_cache(maxsize=16)
def load_encoded(
    task: str,
    source: str,
    data_dir: Path | None,
    max_train_rows: int | None,
    max_length: int,
    model: str,
    cache_dir: Path,
) -> tuple[TaskData, EncodedTask]:
    """Rows and tokens of a task, kept for the next run of this process."""
    data = load_task(task, source, data_dir=data_dir, max_train_rows=max_train_rows)
    return data, encode(data, load_tokenizer_once(model), max_length, cache_dir)


@cache
def load_tokenizer_once(model: str) -> Any:
    """Tokenizer of a model."""
    return load_tokenizer(model)


@cache
def model_content_once(model: str) -> str | None:
    """Content hash of a model's files: large ones are read once per process."""
    return model_content(model)


@lru_cache(maxsize=2)
def load_teacher(folder: Path) -> tuple[PreTrainedModel, dict[str, dict[str, float]]]:
    """A finished teacher and its scores; the last two stay in memory, and with them their cached outputs."""
    record = folder / "record.json"
    if not (folder / "done").exists() or not record.is_file():
        raise DataError(f"teacher {folder.name} has not finished")
    return load_pruned(folder / "model"), json.loads(record.read_text(encoding="utf-8"))["scores"]


def prepare_device(config: RunConfig) -> torch.device:
    """Device of this process, with as many threads as the run says.

    Raises:
        DataError: this machine cannot honour the run's threads or precision.
    """
    torch.set_num_threads(config.threads)
    if torch.get_num_threads() != config.threads:
        raise DataError(f"this process cannot use the {config.threads} threads that the run asks for")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and config.precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise DataError("precision bf16 is not supported by this GPU: use --set precision=fp32")
    return device


def size_entry(model: PreTrainedModel, structure: Structure, keep: Keep, tokens: int) -> dict[str, Any]:
    """Sizes of the extracted model by every definition that a table may need."""
    weights = list(model.parameters())
    embeddings = adapter_for(model).embedding_parameters(model)
    total = sum(weight.numel() for weight in weights)
    return {
        "encoder_dense": prunable(structure),
        "encoder_kept": parameters(structure, keep),
        "sparsity": sparsity(structure, keep),
        "total": total,
        "total_without_embeddings": total - embeddings,
        "density": {kind: float(units.float().mean()) for kind, units in keep.items()},
        "nonzero": sum(int(weight.count_nonzero()) for weight in weights),
        "flops_task": forward_flops(structure, keep, tokens),
        "flops_128": forward_flops(structure, keep, 128),
        "flops_task_dense": forward_flops(structure, structure.keep_all(), tokens),
        "flops_128_dense": forward_flops(structure, structure.keep_all(), 128),
    }


def latency_entry(model: PreTrainedModel, dense: PreTrainedModel, config: RunConfig) -> dict[str, Any]:
    """Seconds that the layers of the extracted and of the dense model take for one batch, in turn; a first impression.

    Other runs may share the machine: the ratio holds, the seconds may not. `python -m gppdfd measure` takes its time.
    """
    tokens = min(128, config.data.max_length, longest_input(model))
    timing = TimingConfig(threads=config.threads, seconds=LATENCY_SECONDS, rounds=LATENCY_ROUNDS)
    models = {"model": model, "dense": dense}
    found = {
        name: rounds for name, (rounds, _) in latencies(models, Shape(LATENCY_BATCH, tokens), "encoder", timing).items()
    }
    seconds, speedup = {name: pooled(rounds) for name, rounds in found.items()}, ratio(found["dense"], found["model"])
    return {
        "part": "encoder",
        "batch": LATENCY_BATCH,
        "tokens": tokens,
        "seconds": seconds["model"].median,
        "dense_seconds": seconds["dense"].median,
        "speedup": speedup.median,
        "speedup_quartiles": [speedup.low, speedup.high],
    }


def kept_counts(structure: Structure, keep: Keep) -> dict[str, list[int]]:
    """Kept units per layer by kind; of kinds that are not per layer, their number."""
    layered = {kind: units.view(structure.layers, -1) for kind, units in keep.items() if kind not in ("hidden", WEIGHT)}
    whole = {kind: [int(units.sum())] for kind, units in keep.items() if kind not in layered}
    return {kind: units.sum(1).tolist() for kind, units in layered.items()} | whole


def write_parquet(path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Atomic parquet file from columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def environment(device: torch.device, config: RunConfig) -> dict[str, Any]:
    """Where and with what a run was done."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    commit, dirty = git_state()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gppdfd": gppdfd.__version__,
        "python": platform.python_version(),
        "device": f"{device.type}: {name}",
        "precision": config.precision,
        "threads": config.threads,
        "cores": os.cpu_count(),
        "host": socket.gethostname(),
        "commit": commit,
        "dirty": dirty,
    }


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
