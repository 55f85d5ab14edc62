"""Reading stored runs: states, tidy frames, and clear refusals of what cannot be read."""

import json
from math import isnan
from pathlib import Path

import pytest

from gppdfd.errors import DataError, UsageError
from suites.records import (
    SCORE_COLUMNS,
    read_history,
    read_indicators,
    read_plan,
    read_record,
    read_results,
)
from suites.store import Store
from tests.suites.fake_store import FakeStore, full_store


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


def test_every_state_is_seen_with_its_reason(store: FakeStore) -> None:
    dense, lost = store.add("mrpc"), store.add("rte")
    done, failed = store.add("mrpc", "gpp+dfd", 0.8), store.add("mrpc", "gpp+none", 0.8)
    waiting, orphan = store.add("mrpc", "random+dfd", 0.8), store.add("rte", "gpp+dfd", 0.8)
    freed = store.add("mrpc", "magnitude+dfd", 0.8)
    far = store.add("mrpc", "depth+none", 0.8, reachable=False, reason="only whole layers")
    store.finish(dense)
    store.finish(done)
    store.fail(lost, "loss is NaN\nTraceback")
    store.fail(failed, "")
    store.fail(orphan, "teacher", kind="blocked", teacher=lost)
    store.fail(freed, "teacher", kind="blocked", teacher=dense)
    results = read_results(store.save_plan(), store.root)
    states = {run.run_id: (run.state, run.note) for run in results.planned}
    assert states == {
        dense: ("done", ""),
        lost: ("failed", "loss is NaN"),
        done: ("done", ""),
        failed: ("failed", "no reason given"),
        waiting: ("missing", ""),
        orphan: ("blocked", "teacher"),
        freed: ("missing", ""),
        far: ("unreachable", "only whole layers"),
    }
    assert set(results.records) == {dense, done}


def test_runs_keep_the_order_of_the_plan(store: FakeStore) -> None:
    first, last = store.add("mrpc", order=7), store.add("rte", order=1)
    assert list(read_plan(store.save_plan())["run_id"]) == [last, first]


def test_scores_are_one_row_per_run_split_and_metric(store: FakeStore) -> None:
    plain, pair = store.add("mnli"), store.add("mrpc", "gpp+dfd", 0.8)
    store.finish(plain, {"matched": [0.7], "mismatched": [0.6]})
    store.finish(pair, {"validation": [0.8, 0.9]}, teacher={"run_id": plain, "scores": {"validation": {"f1": 0.95}}})
    scores = read_results(store.save_plan(), store.root).scores
    assert list(scores.columns) == SCORE_COLUMNS
    assert scores[["run_id", "split", "metric", "value", "primary"]].values.tolist() == [
        [plain, "matched", "accuracy", 0.7, True],
        [plain, "mismatched", "accuracy", 0.6, True],
        [pair, "validation", "accuracy", 0.8, False],
        [pair, "validation", "f1", 0.9, True],
    ]
    assert scores["majority"].tolist() == [0.5, 0.5, 0.5, 0.6]
    assert scores["teacher"].iloc[3] == 0.95
    assert isnan(scores["teacher"].iloc[2])


def test_a_launch_with_nothing_finished_gives_empty_scores(store: FakeStore) -> None:
    store.add("mrpc")
    results = read_results(store.save_plan(), store.root)
    assert results.scores.empty
    assert list(results.scores.columns) == SCORE_COLUMNS


def test_no_plan_names_the_command_and_the_plans_there_are(tmp_path: Path) -> None:
    full_store(tmp_path, tasks=["mrpc"], methods=[])
    with pytest.raises(UsageError, match=r"suites\.run other --preset mini .*glue_ablation-micro"):
        read_plan(Store(tmp_path).plan_path("other", "mini"))


def test_a_broken_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans" / "suite-micro.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"suite-micro\.parquet: unreadable parquet"):
        read_plan(path)


def test_a_plan_without_a_column_is_refused(store: FakeStore) -> None:
    store.add("mrpc")
    for row in store.plan:
        del row["label"]
    with pytest.raises(DataError, match="lacks the columns label"):
        read_plan(store.save_plan())


def test_two_runs_in_one_cell_are_refused_not_averaged(store: FakeStore) -> None:
    store.add("mrpc", "gpp+dfd", 0.8, label="same")
    store.add("mrpc", "gpp(floor=2)+dfd", 0.8, label="same")
    store.add("rte", "gpp(floor=2)+dfd", 0.8, label="same")
    with pytest.raises(DataError, match=r"one table cell \(same, mrpc\): mrpc-gpp\+dfd.*, mrpc-gpp-floor"):
        read_plan(store.save_plan())


@pytest.mark.parametrize("version", [2, None, "1"])
def test_an_unknown_schema_is_refused(store: FakeStore, version: object) -> None:
    folder = store.finish(store.add("mrpc"), schema=version)
    with pytest.raises(DataError, match=rf"record\.json: record schema {version!r}, this version reads 1"):
        read_record(folder)


def test_a_record_without_a_field_names_it(store: FakeStore) -> None:
    folder = store.finish(store.add("mrpc"), size={"encoder_kept": "many"})
    with pytest.raises(DataError, match=r"record\.json: size\.encoder_kept: .*launch again"):
        read_record(folder)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_record_that_is_no_json_object_is_refused(store: FakeStore, text: str) -> None:
    folder = store.finish(store.add("mrpc"))
    (folder / "record.json").write_text(text)
    with pytest.raises(DataError, match=r"record\.json: not "):
        read_record(folder)


def test_a_done_marker_without_a_record_is_refused(store: FakeStore) -> None:
    folder = store.finish(store.add("mrpc"))
    (folder / "record.json").unlink()
    with pytest.raises(DataError, match="marked as done"):
        read_results(store.save_plan(), store.root)


@pytest.mark.parametrize("text", ["no json", "[1]", "{}"])
def test_an_unreadable_failure_is_still_a_failure(store: FakeStore, text: str) -> None:
    run = store.add("mrpc")
    store.fail(run, "x")
    (store.root / run / "failed.json").write_text(text)
    assert read_results(store.save_plan(), store.root).planned[0].state == "failed"


def test_fields_of_a_later_version_are_ignored(store: FakeStore) -> None:
    folder = store.finish(store.add("mrpc"), novelty={"x": 1})
    assert read_record(folder).task == "mrpc"


@pytest.mark.parametrize(("reached", "missed"), [(0.805, False), (0.795, False), (0.8051, True), (0.79, True)])
def test_missed_target_beyond_half_a_point(store: FakeStore, reached: float, missed: bool) -> None:
    folder = store.finish(store.add("mrpc", "gpp+dfd", 0.8), size={"sparsity": reached})
    assert read_record(folder).missed_target is missed


def test_seconds_are_the_total_or_the_sum_of_the_phases(store: FakeStore) -> None:
    run = store.add("mrpc")
    assert read_record(store.finish(run)).seconds == 6.0
    folder = store.finish(run)
    record = json.loads((folder / "record.json").read_text())
    del record["timings"]["total"]
    (folder / "record.json").write_text(json.dumps(record))
    assert read_record(folder).seconds == 5.5


def test_broken_traces_name_their_file(store: FakeStore) -> None:
    folder = store.finish(store.add("mrpc", "gpp+dfd", 0.8))
    (folder / "indicators.parquet").write_text("no parquet")
    (folder / "history.jsonl").write_text('{"phase": "search"}\n{"phase":')
    with pytest.raises(DataError, match=r"indicators\.parquet"):
        read_indicators(folder)
    with pytest.raises(DataError, match=r"history\.jsonl"):
        read_history(folder)


def test_history_by_phase(store: FakeStore) -> None:
    folder = store.finish(store.add("mrpc", "gpp+dfd", 0.8))
    assert read_history(folder, ["recovery"]) == []
    assert len(read_history(folder)) == len(read_history(folder, ["search", "recovery"])) == 12
