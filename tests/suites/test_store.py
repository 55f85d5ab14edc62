"""States of runs, claims, and that exactly one result is committed."""

import json
import multiprocessing
import os
import shutil
import subprocess
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gppdfd.errors import UsageError
from gppdfd.files import write_json
from suites import claims
from suites.claims import Claim, ClaimLostError, Heartbeat, claim, forget_failure, forget_result, give_back, mark_failed
from suites.retry import forget, runs_to_retry
from suites.sources import sources_hash
from suites.store import CLAIM, HEARTBEAT, Progress, State, Store, process_ticks

RUN = "mrpc-gpp-dfd-0.8-seed1-0123456789"


def started(store: Store, run_id: str = RUN, record: str = "{}") -> Claim:
    """A claim whose attempt has written its record."""
    made = claim(store, run_id)
    assert made is not None
    made.start({"task": "mrpc"})
    (made.work / "record.json").write_text(record)
    return made


def silence(store: Store, run_id: str = RUN) -> None:
    """Make the last sign of life of a run old."""
    for name in (CLAIM, HEARTBEAT):
        if (path := store.folder(run_id) / name).exists():
            os.utime(path, (1, 1))


def kill_holder(store: Store, run_id: str = RUN) -> None:
    """Make the claim one of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = store.folder(run_id) / CLAIM
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": ended.pid}))


def test_a_run_goes_through_its_states(store: Store) -> None:
    assert store.state(RUN) is State.MISSING
    made = started(store, record='{"run_id": "x"}')
    assert store.state(RUN) is State.RUNNING
    assert store.record(RUN) is None
    made.commit(seconds=2.5)
    assert store.state(RUN) is State.DONE
    assert store.record(RUN) == {"run_id": "x"}
    assert store.seconds(RUN) == 2.5
    assert list(store.records([RUN, "missing"])) == [{"run_id": "x"}]


def test_a_done_run_keeps_only_results(store: Store) -> None:
    started(store).commit(1.0)
    names = {path.name for path in store.folder(RUN).iterdir()}
    assert names == {"config.json", "record.json", "committed", "done"}


def test_a_failed_run_says_why_and_can_be_forgotten(store: Store) -> None:
    started(store).fail("error", "no data", "Traceback ...")
    assert store.state(RUN) is State.FAILED
    assert store.reason(RUN) == "no data"
    assert store.failure(RUN)["traceback"] == "Traceback ..."
    forget_failure(store, RUN)
    assert store.state(RUN) is State.MISSING


def test_a_retried_run_forgets_its_failure(store: Store) -> None:
    started(store).fail("error", "no data")
    started(store).commit(1.0)
    assert store.state(RUN) is State.DONE
    assert store.reason(RUN) == ""


def test_a_student_is_blocked_as_long_as_its_teacher_is_failed(store: Store) -> None:
    started(store, "teacher").fail("error", "no data")
    assert mark_failed(store, RUN, "blocked", "its teacher failed", teacher="teacher")
    assert store.state(RUN) is State.BLOCKED
    forget_failure(store, "teacher")
    assert store.state(RUN) is State.MISSING


def test_a_living_holder_is_not_disturbed(store: Store) -> None:
    started(store)
    assert claim(store, RUN) is None
    give_back(store, RUN)
    assert store.state(RUN) is State.RUNNING


@pytest.mark.parametrize("end", [kill_holder, silence])
def test_a_stale_claim_can_be_taken_over(store: Store, end: object) -> None:
    first = started(store)
    end(store)  # type: ignore[operator]
    assert store.state(RUN) is State.STALE
    second = started(store)
    assert second.token != first.token
    assert store.state(RUN) is State.RUNNING
    assert not first.work.exists()


def test_a_process_of_another_machine_is_judged_by_its_heartbeat_only(store: Store) -> None:
    started(store)
    kill_holder(store)
    path = store.folder(RUN) / CLAIM
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    assert store.state(RUN) is State.RUNNING
    silence(store)
    assert store.state(RUN) is State.STALE


def test_a_later_process_of_the_same_number_does_not_hold_the_claim(store: Store) -> None:
    started(store)
    path = store.folder(RUN) / CLAIM
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ticks": "1"}))
    assert store.state(RUN) is State.STALE


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert process_ticks(child.pid)
    child.kill()
    while process_ticks(child.pid) is not None:
        time.sleep(0.01)
    assert child.wait() == -9


@pytest.mark.parametrize("content", ['{"host": ', '{"pid": 3}'])
def test_a_damaged_claim_is_taken_over(store: Store, content: str) -> None:
    started(store)
    (store.folder(RUN) / CLAIM).write_text(content)
    assert store.state(RUN) is State.STALE
    started(store).commit(1.0)
    assert store.state(RUN) is State.DONE


def test_a_state_is_readable_whatever_its_files_lack(store: Store) -> None:
    made = started(store)
    (store.folder(RUN) / HEARTBEAT).write_text('{"phase": "search"}')
    assert (store.state(RUN), store.progress(RUN)) == (State.RUNNING, None)
    made.fail("blocked", "no teacher is named")
    assert store.state(RUN) is State.FAILED


def test_a_claim_that_was_taken_over_writes_nothing_more(store: Store) -> None:
    first = started(store, record='{"by": 1}')
    silence(store)
    second = started(store, record='{"by": 2}')
    for write in (lambda: first.commit(1.0), lambda: first.fail("error", "x"), lambda: first.start({})):
        with pytest.raises(ClaimLostError):
            write()
    first.release()
    assert store.state(RUN) is State.RUNNING
    second.commit(2.0)
    assert store.record(RUN) == {"by": 2}


def test_a_holder_stopped_between_check_and_write_commits_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = started(store, record='{"by": 1}')
    silence(store)
    second = started(store, record='{"by": 2}')
    monkeypatch.setattr(Claim, "check", lambda self: None)
    with pytest.raises(ClaimLostError):
        first.commit(1.0)
    second.commit(2.0)
    with pytest.raises(ClaimLostError):
        first.commit(1.0)
    assert store.record(RUN) == {"by": 2}
    assert store.seconds(RUN) == 2.0


@settings(deadline=None, max_examples=30)
@given(actions=st.lists(st.tuples(st.sampled_from(["claim", "commit", "interrupt"]), st.integers(0, 9)), max_size=12))
def test_whatever_happens_one_attempt_is_committed(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    """Holders are stopped anywhere, also after the check of their token, and none of them knows it."""
    store, attempts, winners = Store(tmp_path_factory.mktemp("store")), [], []
    finish = Claim.finish_commit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Claim, "check", lambda self: None)
        patch.setattr(Store, "watch", 0.0)
        for action, number in actions:
            if action == "claim":
                silence(store)
                if made := claim(store, RUN):
                    made.start({})
                    (made.work / "record.json").write_text(json.dumps({"by": made.token}))
                    attempts.append(made)
            elif attempts:
                made = attempts[number % len(attempts)]
                patch.setattr(Claim, "finish_commit", (lambda *_: None) if action == "interrupt" else finish)
                try:
                    made.commit(1.0)
                    winners.append(made.token)
                except ClaimLostError:
                    pass
                patch.setattr(Claim, "finish_commit", finish)
        silence(store)
        claim(store, RUN)
    assert len(winners) <= 1
    assert (store.record(RUN) or {}).get("by") == (winners[0] if winners else None)
    shutil.rmtree(store.root)


def test_a_commit_that_was_interrupted_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = started(store, record='{"by": 1}')
    (made.work / "model").mkdir()
    (made.work / "model" / "config.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _interrupt_at_the_model(Path.replace))
        with pytest.raises(KeyboardInterrupt):
            made.commit(3.0)
    assert store.state(RUN) is State.RUNNING
    silence(store)
    assert claim(store, RUN) is None
    assert store.state(RUN) is State.DONE
    assert store.record(RUN) == {"by": 1}
    assert (store.folder(RUN) / "model" / "config.json").exists()


def test_the_done_marker_is_the_last_thing_that_is_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever its writer dies, what is left is one run to finish or one folder with nothing to tidy up."""
    made = started(store, record='{"by": 1}')
    with monkeypatch.context() as patch:
        patch.setattr(claims, "write_json", _refuse)
        with pytest.raises(KeyboardInterrupt):
            made.commit(3.0)
    assert names(store) == {"config.json", "record.json", "committed"}
    assert store.state(RUN) is State.MISSING
    assert claim(store, RUN) is None
    assert names(store) == {"config.json", "record.json", "committed", "done"}


def test_a_frozen_holder_leaves_no_sign_of_life_in_a_done_run(store: Store) -> None:
    first = started(store)
    kill_holder(store)
    second = claim(store, RUN)
    assert second is not None
    second.start({})
    second.commit(2.0)
    (store.folder(RUN) / "heartbeat").write_text("{}")  # it was frozen between its check and its write
    first.release()
    assert "heartbeat" not in names(store)


def names(store: Store) -> set[str]:
    return {path.name for path in store.folder(RUN).iterdir()}


def _refuse(*_: object) -> None:
    raise KeyboardInterrupt


def _interrupt_after(moves: int, rename: object) -> object:
    left = iter(range(moves))

    def interrupted(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(self, target)  # type: ignore[operator, no-any-return]

    return interrupted


def _interrupt_at_the_model(replace_file: object) -> object:
    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "model":
            raise KeyboardInterrupt
        return replace_file(self, target)  # type: ignore[operator, no-any-return]

    return interrupted


def test_processes_that_race_for_runs_get_each_run_once(store: Store) -> None:
    assert _race(store, [f"run-{number}" for number in range(20)]) == [1] * 20


def test_processes_that_race_for_stale_runs_get_each_run_once(store: Store) -> None:
    runs = [f"run-{number}" for number in range(20)]
    for run_id in runs:
        started(store, run_id)
        kill_holder(store, run_id)
    assert _race(store, runs) == [1] * 20


def _race(store: Store, runs: list[str], processes: int = 3) -> list[int]:
    """How many of several processes, which all go for the same runs at once, get each of the runs."""
    context = multiprocessing.get_context("fork")
    barrier, claimed = context.Barrier(processes), context.SimpleQueue()
    racers = [context.Process(target=_claim_all, args=(store, runs, barrier, claimed)) for _ in range(processes)]
    for racer in racers:
        racer.start()
    got = [claimed.get() for _ in racers]
    for racer in racers:
        racer.join()
    return [sum(run_id in own for own in got) for run_id in runs]


def _claim_all(store: Store, runs: list[str], barrier: Barrier, claimed: object) -> None:
    got = []
    for run_id in runs:
        barrier.wait()
        if claim(store, run_id):
            got.append(run_id)
    barrier.wait()  # who ends earlier would be taken for dead, and lose its claims
    claimed.put(got)  # type: ignore[attr-defined]


def test_the_heartbeat_tells_the_progress_and_keeps_a_run_alive(store: Store) -> None:
    made = started(store)
    silence(store)
    with Heartbeat(made, seconds=0.01) as heartbeat:
        heartbeat.report(Progress("search", 3, 9))
        _wait_for(lambda: store.progress(RUN) == Progress("search", 3, 9))
    assert store.state(RUN) is State.RUNNING


def test_the_heartbeat_stops_a_run_that_was_taken_over(store: Store) -> None:
    made = started(store)
    with Heartbeat(made, seconds=0.01) as heartbeat:
        holder = store.folder(RUN) / CLAIM
        holder.write_text(json.dumps(json.loads(holder.read_text()) | {"token": "other"}))

        def lost() -> bool:
            with pytest.raises(ClaimLostError):
                heartbeat.report(Progress("search", 1, 9))
            return True

        time.sleep(0.1)
        assert lost()


def test_a_failure_is_not_forgotten_once_the_run_is_done_again(store: Store) -> None:
    started(store).fail("error", "no reason")
    made = started(store)
    forget_failure(store, RUN)
    assert (store.state(RUN), made.work.exists()) == (State.RUNNING, True)
    made.commit(1.0)
    forget_failure(store, RUN)
    assert store.state(RUN) is State.DONE


def test_a_result_is_forgotten_only_while_it_is_unwanted(store: Store) -> None:
    started(store).commit(1.0)
    forget_result(store, RUN, lambda: False)
    assert store.state(RUN) is State.DONE
    forget_result(store, RUN, lambda: True)
    assert store.state(RUN) is State.MISSING
    made = started(store)
    forget_result(store, RUN, lambda: True)
    assert (store.state(RUN), made.work.exists()) == (State.RUNNING, True)


@pytest.mark.parametrize("moves", range(3))
def test_a_result_that_is_half_forgotten_is_no_result_and_can_be_forgotten_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Killed after some of its files went: nobody commits what is left of it, and it counts as done until all went."""
    started(store).commit(1.0)
    backwards = sorted(store.folder(RUN).iterdir())[::-1]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda folder: backwards)  # the order of a folder's files is anybody's
        patch.setattr(Path, "rename", _interrupt_after(moves, Path.rename))
        with pytest.raises(KeyboardInterrupt):
            forget_result(store, RUN, lambda: True)
    assert store.state(RUN) is State.DONE
    assert ("committed" in names(store)) == (moves == 0)
    forget_result(store, RUN, lambda: True)
    claim(store, RUN)
    assert store.state(RUN) is State.RUNNING
    assert names(store) == {"config.json", "claim.json"}


def test_half_a_checkpoint_goes_with_its_writer(store: Store) -> None:
    made = started(store)
    made.checkpoints.mkdir()
    for name in ("step00000007.safetensors", "step00000009.tmp"):
        (made.checkpoints / name).write_text("")
    kill_holder(store)
    again = claim(store, RUN)
    assert again is not None
    assert [path.name for path in again.checkpoints.iterdir()] == ["step00000007.safetensors"]


def test_retry_takes_failed_runs_and_finished_ones_of_other_sources(store: Store) -> None:
    for run_id, sources in (("today", sources_hash()), ("earlier", "other")):
        started(store, run_id, json.dumps({"sources": sources})).commit(1.0)
    states = {f"run-{state}": state for state in State if state is not State.DONE}
    states |= {"today": State.DONE, "earlier": State.DONE}
    assert runs_to_retry(store, states, []) == set()
    assert runs_to_retry(store, states, ["failed"]) == {"run-failed"}
    assert runs_to_retry(store, states, ["stale"]) == {"earlier"}
    assert runs_to_retry(store, states, ["earlier", "run-failed"]) == {"earlier", "run-failed"}
    for name in ("today", "run-missing", "run-running", "run-stale", "run-blocked"):
        with pytest.raises(UsageError, match="this run is"):
            runs_to_retry(store, states, [name])


def test_retry_leaves_alone_what_another_launch_does_again(store: Store) -> None:
    started(store).fail("error", "no reason")
    chosen = runs_to_retry(store, {RUN: store.state(RUN)}, ["failed"])
    made = started(store)
    write_json(made.work / "record.json", {"sources": sources_hash()})
    for state in (State.RUNNING, State.DONE):
        for run_id in chosen:
            forget(store, run_id)
        assert store.state(RUN) is state
        if state is State.RUNNING:
            made.commit(1.0)


def test_a_lock_left_by_a_dead_process_does_not_last(store: Store) -> None:
    started(store)
    kill_holder(store)
    lock = store.folder(RUN) / claims.TAKEOVER
    lock.write_text("{}")
    assert claim(store, RUN) is None
    os.utime(lock, (1, 1))
    assert claim(store, RUN) is None  # removes the lock
    assert claim(store, RUN) is not None


def test_a_run_is_given_back_for_a_dead_process(store: Store) -> None:
    made = started(store)
    kill_holder(store)
    give_back(store, RUN)
    assert store.state(RUN) is State.MISSING
    assert not made.work.exists()


def test_a_done_run_cannot_be_claimed_or_marked(store: Store) -> None:
    started(store).commit(1.0)
    assert claim(store, RUN) is None
    assert not mark_failed(store, RUN, "died", "killed")
    assert store.state(RUN) is State.DONE


def test_patience_is_a_setting_of_the_store(store: Store) -> None:
    started(store)
    assert replace(store, stale_after=-1.0).state(RUN) is State.STALE


def test_a_finished_run_is_judged_by_one_listing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    started(store).commit(1.0)
    listed, list_folder = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or list_folder(path))
    monkeypatch.setattr("suites.store.read_json", lambda path: pytest.fail(f"{path} is read"))
    assert store.state(RUN) is State.DONE
    assert listed == [store.folder(RUN)]


def _wait_for(condition: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
