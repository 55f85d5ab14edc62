"""Real runs that are killed or asked to stop, in processes of their own, and end with the bits of one never stopped."""

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from gppdfd.checkpoint import load_checkpoint, save_checkpoint
from gppdfd.settings import TrainingConfig
from gppdfd.tasks import load_task
from gppdfd.tasks.encoding import encode
from suites.checkpoints import Checkpoints, Stopped, StopRequest
from suites.config import DataConfig, RunConfig
from suites.execute import execute, load_tokenizer_once
from suites.grid import Request, load_suite
from suites.plan import make_plan
from suites.store import State, Store
from suites.worker import STOP_SIGNALS, Channel, Worker

SETTINGS = TrainingConfig(batch_size=16, learning_rate=5e-4, search_epochs=1, recovery_epochs=1, flooding=0)
TEACHER = TrainingConfig(batch_size=32, learning_rate=5e-4, search_epochs=0, recovery_epochs=1, flooding=0)
STEPS = 12
BITS = ("model/model.safetensors", "predictions.parquet", "indicators.parquet")


def config(method: str = "gpp+dfd", sparsity: float = 0.8) -> RunConfig:
    data = DataConfig(source="micro", max_length=24, max_train_rows=96)
    settings = {"data": data, "training": SETTINGS, "teacher": TEACHER, "select": "best_dev"}
    return RunConfig(task="sst2", method=method, sparsity=sparsity, seed=1, model="micro", **settings)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """What takes long and is no part of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suites.execute.below_floor", lambda value, spec: False)
        patch.setattr("suites.execute.latency_entry", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which runs are done undisturbed, the teacher first."""
    store = Store(tmp_path_factory.mktemp("whole"))
    attempt(store, config("dense", 0.0))
    return store


@pytest.fixture
def store(tmp_path: Path, whole: Store) -> Store:
    """A store with the teacher."""
    teacher = config("dense", 0.0).run_id
    (tmp_path / teacher).symlink_to(whole.folder(teacher))
    (tmp_path / "events").touch()
    return Store(tmp_path)


def attempt(store: Store, run: RunConfig, every: float = 600.0, stop: StopRequest | None = None) -> None:
    """What a worker does with a run; its events go to a file in the store."""
    with (store.root / "events").open("a", buffering=1) as events:
        worker = Worker(store, None, execute, RunConfig, Channel(events), every, stop or StopRequest())
        worker.do(run.run_id, run.model_dump(mode="json"))


def started(store: Store, run: RunConfig, every: float = 1e-6) -> BaseProcess:
    """A process at work on a run, which saves a checkpoint after each step."""

    def work() -> None:
        stop = StopRequest()
        for name in STOP_SIGNALS:
            signal.signal(name, stop)
        try:
            attempt(store, run, every, stop)
        except Stopped:
            os._exit(3)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def wait_for_step(store: Store, run: RunConfig, step: int, process: BaseProcess) -> None:
    """Until the checkpoint after `step` is there, or the process has ended."""
    folder = store.folder(run.run_id) / "checkpoint"
    while process.is_alive() and not any(int(path.name[4:12]) >= step for path in folder.glob("step*.safetensors")):
        time.sleep(0.002)


def record(store: Store, run: RunConfig) -> dict:
    found = store.record(run.run_id)
    assert found is not None, store.failure(run.run_id)
    return found


def assert_same_bits(store: Store, whole: Store, run: RunConfig) -> None:
    if store.state(run.run_id) is not State.DONE:
        attempt(store, run)
    if whole.state(run.run_id) is not State.DONE:
        attempt(whole, run)
    for name in BITS:
        assert (store.folder(run.run_id) / name).read_bytes() == (whole.folder(run.run_id) / name).read_bytes(), name
    histories = [_history(each, run) for each in (store, whole)]
    assert histories[0] == histories[1]
    assert record(store, run)["scores"] == record(whole, run)["scores"]
    assert not (store.folder(run.run_id) / "checkpoint").exists()


def _history(store: Store, run: RunConfig) -> list[dict]:
    """Logged entries without the times, which differ from run to run."""
    lines = (store.folder(run.run_id) / "history.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("method", ["gpp+dfd", "grain+one-to-one", "cap-f+contrastive"])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(method: str, store: Store, whole: Store) -> None:
    run, moment = config(method), random.Random(method)
    kills = 0
    for step in (2, 5, 9):
        process = started(store, run)
        wait_for_step(store, run, step, process)
        time.sleep(moment.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += store.state(run.run_id) is not State.DONE
    assert_same_bits(store, whole, run)
    assert record(store, run)["resumed"] == kills > 0


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_a_signal_saves_the_step_and_gives_the_run_back(name: signal.Signals, store: Store, whole: Store) -> None:
    run = config()
    process = started(store, run, every=600)
    while '"search"' not in (store.root / "events").read_text():
        time.sleep(0.002)
    os.kill(process.pid or 0, name)
    process.join()
    assert process.exitcode == 3
    assert store.state(run.run_id) is State.MISSING
    state = load_checkpoint(store.folder(run.run_id) / "checkpoint")
    assert state is not None
    assert 0 < state["trainer"]["step"] <= STEPS
    assert_same_bits(store, whole, run)
    assert record(store, run)["resumed"] == 1


@pytest.mark.parametrize("origin", [{"sources": "others"}, {"torch": "0.1"}])
def test_a_checkpoint_of_other_sources_is_left_aside(
    origin: dict[str, str], store: Store, whole: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = config()
    process = started(store, run)
    wait_for_step(store, run, 4, process)
    process.kill()
    process.join()
    folder = store.folder(run.run_id) / "checkpoint"
    state = load_checkpoint(folder)
    assert state is not None
    save_checkpoint(folder, 90, {**state, "origin": state["origin"] | origin})
    assert_same_bits(store, whole, run)
    assert record(store, run)["resumed"] == 0
    assert "other sources or versions" in caplog.text


def test_times_of_all_attempts_are_added(store: Store) -> None:
    run = config("gpp+none")
    process = started(store, run)
    wait_for_step(store, run, 8, process)
    process.kill()
    process.join()
    folder = store.folder(run.run_id) / "checkpoint"
    state = load_checkpoint(folder)
    assert state is not None
    state["seconds"] += 1000
    state["trainer"]["seconds"]["search"] += 500
    save_checkpoint(folder, 90, state)
    attempt(store, run)
    timings = record(store, run)["timings"]
    assert 1000 < timings["total"] < 1100
    assert 500 < timings["search"] < 600
    assert 1000 < (store.seconds(run.run_id) or 0) < 1100


def full_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, every=0)
    with checkpoints.steps():
        assert checkpoints.due()
        checkpoints.save(full_disk)
    assert "no checkpoint can be written: [Errno 28] No space left on device" in caplog.text


def test_a_stopped_run_without_room_for_a_checkpoint_stops_all_the_same(tmp_path: Path) -> None:
    stop = StopRequest()
    checkpoints = Checkpoints(tmp_path, stop=stop)
    with pytest.raises(Stopped), checkpoints.steps():
        _ask_then_save(stop, checkpoints)


def _ask_then_save(stop: StopRequest, checkpoints: Checkpoints) -> None:
    assert not checkpoints.due()
    stop()
    assert checkpoints.due()
    checkpoints.save(full_disk)
    pytest.fail("went on")


def test_outside_the_steps_a_request_is_obeyed_at_once() -> None:
    with pytest.raises(Stopped):
        StopRequest()()


def test_a_second_request_is_obeyed_at_once() -> None:
    stop = StopRequest()
    with pytest.raises(Stopped), stop.steps():
        _ask_twice(stop)


def _ask_twice(stop: StopRequest) -> None:
    stop()
    assert stop.asked
    stop()
    pytest.fail("went on")


def test_a_request_in_the_last_step_is_obeyed_after_it() -> None:
    stop = StopRequest()
    with pytest.raises(Stopped), stop.steps():
        stop()


# --- what runs share ---


def test_all_shipped_suites_find_the_same_teachers() -> None:
    """One teacher per task, model, settings and seed, whatever suite asks for it."""
    teachers = [_teachers(suite) for suite in ("glue_ablation", "glue_main", "gpp_ablation")]
    assert teachers[0] == teachers[1] == teachers[2]
    assert len(teachers[0]) == 1


def _teachers(suite: str) -> set[str]:
    request = Request(preset="micro", only=["task=mrpc"], seeds=1)
    return {run.run_id for run in make_plan(load_suite(suite, request), request) if run.role == "teacher"}


def test_many_processes_share_tokenised_data(tmp_path: Path) -> None:
    """All start at once with an empty cache: each gets the same tokens, one file is left."""
    context = multiprocessing.get_context("fork")
    barrier, sums = context.Barrier(4), context.SimpleQueue()
    data, tokenizer = load_task("rte", "micro"), load_tokenizer_once("micro")

    def read() -> None:
        barrier.wait()
        encoded = [encode(data, tokenizer, 32, tmp_path).train for _ in range(3)]
        sums.put({(int(each.tokens.sum()), len(each)) for each in encoded})

    readers = [context.Process(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    found = [sums.get() for _ in readers]
    for reader in readers:
        reader.join()
    expected = encode(data, tokenizer, 32).train
    assert found == [{(int(expected.tokens.sum()), len(expected))}] * 4
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_a_teacher_is_read_by_many_and_written_by_none(store: Store) -> None:
    """Students read the files of their teacher's run and leave them as they are."""
    teacher = store.folder(config("dense", 0.0).run_id)
    before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
    torch.manual_seed(0)
    attempt(store, config("gpp+logits"))
    assert record(store, config("gpp+logits"))["teacher"]["run_id"] == teacher.name
    assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before
