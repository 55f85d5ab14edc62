"""A whole run on the embedded benchmark, from config to record; a few steps only."""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from gppdfd.errors import DataError, UsageError
from gppdfd.files import hash_files, write_text
from gppdfd.models import load_encoder, load_structure, model_content
from gppdfd.pruned import load_pruned
from gppdfd.settings import TrainingConfig
from gppdfd.tasks import task_spec
from suites.config import DataConfig, RunConfig
from suites.execute import execute, load_teacher

SHORT = TrainingConfig(
    batch_size=32, learning_rate=5e-4, search_epochs=1, recovery_epochs=1, flooding=0, cache_teacher=True
)
TEACHER = TrainingConfig(batch_size=32, learning_rate=5e-4, search_epochs=0, recovery_epochs=2, flooding=0)


def config(method: str = "gpp+dfd", **changes) -> RunConfig:
    fields = {
        "task": "sst2",
        "method": method,
        "sparsity": 0.0 if method == "dense" else 0.8,
        "seed": 1,
        "model": "micro",
        "data": DataConfig(source="micro", max_length=32, max_train_rows=320),
        "training": SHORT,
        "teacher": TEACHER,
    }
    return RunConfig(**{**fields, **changes})


def done(run: RunConfig, store: Path) -> dict:
    """Do a run (and the teacher it needs) in `store` and read its record."""
    teacher = run.teacher_config()
    if teacher is not None and not (store / teacher.run_id / "done").exists():
        done(teacher, store)
    folder = store / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    execute(run, folder, store, None, lambda progress: None)
    (folder / "done").touch()
    return json.loads((folder / "record.json").read_text())


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", autouse=True)
def low_floor(module_mocker=None):
    """Ten steps make no good teacher: the floor has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suites.execute.below_floor", lambda value, spec: False)
        yield


@pytest.fixture(scope="module")
def record(store: Path) -> dict:
    return done(config(), store)


def test_record_says_what_was_done(record: dict) -> None:
    assert record["role"] == "student"
    assert record["latency"]["tokens"] == 32
    assert record["latency"]["speedup"] > 0
    assert record["latency"]["seconds"] > 0
    assert record["size"]["sparsity"] == pytest.approx(0.8, abs=0.005)
    assert record["agreement"] < 1e-5
    assert record["steps"] == {"before": 0, "search": 10, "recovery": 10}
    assert record["data"]["rows"] == {"train": 320, "validation": 400}
    assert record["data"]["max_train_rows"] == 320
    assert record["peak_memory"] > 50_000_000
    assert set(record["binarisation"]) == {"before", "after"}
    assert set(record["binarisation"]["after"]["validation"]) == set(task_spec("sst2").metrics)
    assert record["teacher"]["run_id"] == config().teacher_config().run_id
    assert set(record["scores"]["validation"]) == set(task_spec("sst2").metrics)
    assert record["primary"]["value"] == record["scores"]["validation"]["accuracy"]
    assert sum(record["kept"]["head"]) == round(record["size"]["density"]["head"] * 32)


def test_files_beside_the_record(record: dict, store: Path) -> None:
    folder = store / record["run_id"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == 400
    assert (predictions.label == predictions.prediction).mean() == pytest.approx(record["primary"]["value"])
    phases = {json.loads(line)["phase"] for line in (folder / "history.jsonl").read_text().splitlines()}
    assert phases == {"search", "recovery"}
    indicators = pd.read_parquet(folder / "indicators.parquet")
    final = indicators[indicators.step == indicators.step.max()]
    assert set(final.z) == {0.0, 1.0}


def test_saved_model_gives_the_recorded_predictions(record: dict, store: Path) -> None:
    from gppdfd.evaluation import predict
    from suites.execute import load_encoded

    run = config()
    _, encoded = load_encoded("sst2", "micro", None, 320, 32, "micro", store / ".cache")
    logits = predict(load_pruned(store / run.run_id / "model"), encoded.evaluations["validation"], torch.device("cpu"))
    stored = pd.read_parquet(store / run.run_id / "predictions.parquet").logits
    assert logits.tolist() == [list(row) for row in stored]


def test_the_same_run_again_gives_the_same_bits(record: dict, store: Path, tmp_path: Path) -> None:
    load_teacher.cache_clear()
    again = done(config(), tmp_path)
    assert again["scores"] == record["scores"]
    for name in ("model/model.safetensors", "predictions.parquet", "indicators.parquet"):
        assert (tmp_path / again["run_id"] / name).read_bytes() == (store / record["run_id"] / name).read_bytes()


def test_best_dev_keeps_the_best_epoch(store: Path) -> None:
    settings = SHORT.model_copy(update={"recovery_epochs": 3.0})
    best = done(config(select="best_dev", training=settings), store)
    entries = map(json.loads, (store / best["run_id"] / "history.jsonl").read_text().splitlines())
    seen = {entry["step"]: entry["scores"]["validation"]["accuracy"] for entry in entries if "scores" in entry}
    assert len(seen) == 3
    assert best["primary"]["value"] == max(seen.values())
    assert seen[best["selection"]["step"]] == max(seen.values())


def test_teacher_below_its_floor_is_refused_by_name(store: Path, monkeypatch) -> None:
    monkeypatch.setattr("suites.execute.below_floor", lambda value, spec: True)
    run = config("random+dfd")
    with pytest.raises(DataError, match=f"teacher {run.teacher_config().run_id} scores"):
        done(run, store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_content": "old"}, "the files of the model micro have changed since the launch"),
        ({"data_content": "old"}, "the data of sst2 have changed since the launch"),
    ],
)
def test_a_run_is_not_done_with_other_files_than_those_of_its_id(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        done(config("dense", **changes), tmp_path)


def test_unfinished_teacher_is_refused(tmp_path: Path) -> None:
    run = config()
    (tmp_path / run.run_id).mkdir()
    with pytest.raises(DataError, match="has not finished"):
        execute(run, tmp_path / run.run_id, tmp_path, None, lambda progress: None)


def test_id_follows_what_decides_the_result_and_nothing_else() -> None:
    base = config()
    same = [
        config(method="gpp(mask=progressive)+dfd(window=3)").run_id[-10:],
        config(model="/elsewhere/copy", model_content="abc").run_id[-10:],
    ]
    assert same[0] == base.run_id[-10:]
    assert same[1] == config(model="micro", model_content="abc").run_id[-10:]
    others = [
        config(seed=2), config(sparsity=0.7), config(precision="bf16"), config(threads=2), config(select="best_dev"),
        config(count="published"), config(task="cola"), config(data_content="x"), config(model_content="y"),
        config(training=SHORT.model_copy(update={"learning_rate": 1e-3})),
        config(teacher=TEACHER.model_copy(update={"learning_rate": 1e-3})),
        config(method="gpp(mask=hard_once)+dfd"),
    ]  # fmt: skip
    assert len({base.run_id, *(other.run_id for other in others)}) == 1 + len(others)


def test_the_hash_of_files_does_not_depend_on_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "__init__.py" for folder in ("a", "b")]
    for path in paths:
        write_text(path, path.parent.name)
    assert hash_files(paths) == hash_files(reversed(paths))


def test_ids_of_long_methods_can_be_names_of_folders() -> None:
    long = [config(f"random+logits(temperature={value:.250f})") for value in (1, 2)]
    assert long[0].run_id != long[1].run_id
    assert all(len(run.run_id.encode()) < 220 for run in long)
    assert config("gpp(mask=hard_once)+dfd").run_id.startswith("sst2-gpp-mask-hard-once-dfd-0.8-seed1-")


def test_teacher_settings_leave_students_without_a_teacher_alone() -> None:
    other = TEACHER.model_copy(update={"learning_rate": 1e-3})
    assert config("gpp+none").run_id == config("gpp+none", teacher=other).run_id
    assert config("gpp+none").teacher_config() is None
    assert config("gpp+none", training=SHORT.model_copy(update={"init": "teacher"})).teacher_config() is not None


def test_the_dense_row_is_the_teacher_of_the_students() -> None:
    assert config().teacher_config().run_id == config("dense").run_id
    assert config().teacher_config().run_id == config("dense", training=TrainingConfig()).run_id


@cache
def folder_content() -> str | None:
    return model_content("micro")


def test_a_copied_model_is_the_same_model(tmp_path: Path) -> None:
    import shutil

    from gppdfd.tasks.micro import MODEL

    shutil.copytree(MODEL, tmp_path / "copy")
    assert model_content(str(tmp_path / "copy")) == folder_content()


def test_bad_models_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        model_content(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"config\.json, model\.safetensors missing"):
        model_content(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UsageError, match="no supported encoder"):
        load_structure(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_structure(str(tmp_path))


def test_random_start_differs_from_the_pretrained_one() -> None:
    spec = task_spec("sst2")
    trained, random = (load_encoder("micro", spec, seed=1, pretrained=flag) for flag in (True, False))
    weight = "bert.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(trained.state_dict()[weight], random.state_dict()[weight])
    assert trained.config.id2label == {0: "negative", 1: "positive"}


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    spec = task_spec("mnli")
    model = load_encoder("micro", spec, seed=1)
    model.config.id2label = dict(enumerate(reversed(spec.labels)))
    model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="in the order contradiction, neutral, entailment; here they are entailment"):
        load_encoder(str(tmp_path), spec, seed=1)
