"""Submits the runs of a launch as job arrays and follows them in the store.

Results are read from the store, never from what submitit passes back: a launch may end, or its machine go away, and the
next one with the same line follows the same jobs and submits what is missing.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from gppdfd.errors import DataError, UsageError
from suites.checkpoints import EVERY_SECONDS
from suites.claims import mark_failed
from suites.display import Display
from suites.plan import PlannedRun
from suites.slurm import queue
from suites.slurm.arrays import Array, at_once, make_arrays
from suites.slurm.job import Job, worker_command
from suites.slurm.order import Order
from suites.slurm.profile import Profile
from suites.slurm.snapshot import take_snapshot
from suites.slurm.submitted import FOLDER, Submitted, note_submitted, submitted
from suites.store import State, Store
from suites.worker import EXECUTE

POLL_SECONDS = 2.0
# Slurm is asked seldom, as clusters want it; the store is read in between.
QUEUE_SECONDS = 15.0
# A job that is gone from the queue may have written its last files to a slow file system.
GONE_SECONDS = 8.0
# Whether a run may meet one more time limit is counted per run; submitit's count per job must not end it before.
NO_LIMIT = 10**6
DEFAULT_LARGEST = 1001

UNFINISHED = (State.MISSING, State.STALE, State.BLOCKED)


@dataclass(frozen=True)
class SlurmSettings:
    """How to launch.

    Attributes:
        store: where the runs go; every node must reach it.
        name: what the jobs are called.
        detach: submit and return.
    """

    store: Store
    profile: Profile
    name: str = "suite"
    data_dir: Path | None = None
    execute: str = EXECUTE
    checkpoint_every: float = EVERY_SECONDS
    detach: bool = False


class SlurmLauncher:
    """Does all runs of a plan that are neither done nor failed nor in the queue already."""

    def __init__(self, plan: Sequence[PlannedRun], settings: SlurmSettings, display: Display) -> None:
        self._plan = {run.run_id: run for run in plan}
        self._settings, self._store, self._display = settings, settings.store, display
        self._jobs: dict[str, Submitted] = {}
        self._left: dict[str, PlannedRun] = {}
        self._gone: dict[str, float] = {}
        self._asked = 0.0

    def run(self) -> None:
        """Submit what is missing, then follow it unless detached.

        Raises:
            DataError: Slurm does not answer or refuses jobs; what was submitted before goes on.
            KeyboardInterrupt: as asked for; the jobs go on.
        """
        self._left = dict(self._plan)
        self._settle_all()
        self.submit()
        if self._settings.detach:
            return
        try:
            self._follow()
        except KeyboardInterrupt:
            self._display.message(self._farewell())
            raise

    def submit(self) -> None:
        """Submit the runs that are neither settled nor in the queue."""
        run_jobs, jobs = submitted(self._store), queue.queue()
        waiting = queue.alive(jobs, run_jobs)
        self._jobs = {run_id: run_jobs[run_id] for run_id in self._left if run_id in waiting}
        if self._jobs:
            self._display.message(f"{len(self._jobs)} runs are in the queue already: {_listed(self._numbers())}")
        missing = [run for run in self._left.values() if run.run_id not in self._jobs and self._may_start(run)]
        if missing:
            self._submit(missing, {run_id: job.job for run_id, job in self._jobs.items()})

    def _may_start(self, run: PlannedRun) -> bool:
        return self._store.state(run.run_id) in UNFINISHED

    def _submit(self, runs: Sequence[PlannedRun], queued: Mapping[str, str]) -> None:
        arrays = make_arrays(runs, self._settings.profile, queue.largest_array(), queued)
        launch = Launch.make(self._settings, self._plan)
        numbers: dict[str, str] = {}
        for array in arrays:
            made = launch.submit(array, numbers)
            numbers[array.name] = made[0].job.partition("_")[0]
            self._display.message(f"submitted {array.name}: {len(array.runs)} runs in {_jobs(made)}")
            self._jobs |= {run.run_id: job for runs, job in zip(array.jobs, made, strict=True) for run in runs}

    def _follow(self) -> None:
        """Show what happens until every run is settled or its job is gone."""
        while self._left:
            started = time.monotonic()
            self._settle_all()
            if started - self._asked > QUEUE_SECONDS:
                self._asked = started
                self._look_for_gone()
            if self._left:
                # A store of many runs is not read without a pause.
                time.sleep(max(POLL_SECONDS, time.monotonic() - started))

    def _settle_all(self) -> None:
        """Take note of the state of each run."""
        # Students before teachers: a failed teacher blocks only those that have no result of their own.
        for run in reversed(list(self._left.values())):
            self._settle(run, self._store.state(run.run_id))

    def _settle(self, run: PlannedRun, state: State) -> None:
        if state is State.DONE:
            self._finish(run)
        elif state is State.FAILED:
            self._fail(run)
        elif state is State.RUNNING:
            self._show(run)
        elif run.run_id in self._display.running:
            self._display.released(run)

    def _finish(self, run: PlannedRun) -> None:
        del self._left[run.run_id]
        if run.run_id in self._display.left:
            self._display.done(run, self._store.seconds(run.run_id))

    def _show(self, run: PlannedRun) -> None:
        if run.run_id not in self._display.running:
            self._display.started(run)
        if progress := self._store.progress(run.run_id):
            self._display.progressed(run, progress)

    def _fail(self, run: PlannedRun) -> None:
        """A failed run; its students need not wait for a job of their own to be called blocked."""
        del self._left[run.run_id]
        reason = self._store.reason(run.run_id)
        self._display.failed(run, reason, self._store.log(run.run_id))
        for student in [other for other in self._left.values() if other.teacher == run.run_id]:
            why = f"its teacher failed ({run.title}): {reason}"
            mark_failed(self._store, student.run_id, "blocked", why, teacher=run.run_id)
            self._display.blocked(student, why)
            del self._left[student.run_id]

    def _look_for_gone(self) -> None:
        """Give up the runs whose job has left the queue for good."""
        try:
            jobs = queue.queue()
        except DataError as error:
            self._display.message(f"Slurm does not answer, the jobs are followed in the store alone: {error}")
            return
        waiting = queue.alive(jobs, {run_id: self._jobs[run_id] for run_id in self._left if run_id in self._jobs})
        now = time.monotonic()
        self._gone = {run_id: self._gone.get(run_id, now) for run_id in self._left if run_id not in waiting}
        lost = [run_id for run_id, since in self._gone.items() if now - since >= GONE_SECONDS and self._silent(run_id)]
        numbers = {self._jobs[run_id].job for run_id in lost if run_id in self._jobs}
        ended = queue.endings(numbers) if numbers else {}
        for run_id in lost:
            self._lose(self._left.pop(run_id), ended)

    def _silent(self, run_id: str) -> bool:
        """Whether nobody works on a run, as far as its files tell."""
        return self._store.state(run_id) in UNFINISHED

    def _lose(self, run: PlannedRun, endings: Mapping[str, str]) -> None:
        """Tell of a run that ended without a result; if its job failed in the middle of it, so did the run."""
        job = self._jobs.get(run.run_id)
        ending = endings.get(job.job, queue.NOT_STARTED) if job else "its job is unknown"
        if job and ending.startswith(queue.FAILED_STATES) and self._store.state(run.run_id) is State.STALE:
            mark_failed(self._store, run.run_id, "died", f"job {job.job}: {ending}")
            self._display.failed(run, self._store.reason(run.run_id), job.log)
            return
        self._display.released(run)
        self._display.message(f"no result: {run.title}: {_words(job, ending)}")

    def _farewell(self) -> str:
        numbers = _listed(self._numbers(), " ")
        return f"the jobs go on, and the same command follows them again; to end them: scancel {numbers}"

    def _numbers(self) -> list[str]:
        """Numbers of the jobs with runs that are left, an array under its one number."""
        jobs = (self._jobs[run_id].job for run_id in self._left if run_id in self._jobs)
        return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


@dataclass(frozen=True)
class Launch:
    """Arrays that are submitted together, and the folder with their files."""

    settings: SlurmSettings
    plan: Mapping[str, PlannedRun]
    folder: Path
    code: Path
    name: str

    @classmethod
    def make(cls, settings: SlurmSettings, plan: Mapping[str, PlannedRun]) -> "Launch":
        """A new launch with a copy of the sources."""
        root = settings.store.root.resolve() / FOLDER
        token = uuid4().hex[:8]
        launch = cls(settings, plan, root / token, take_snapshot(root / "code"), f"{settings.name}-{token}")
        (launch.folder / "log").mkdir(parents=True)
        return launch

    def submit(self, array: Array, numbers: Mapping[str, str]) -> list[Submitted]:
        """Submit an array; `numbers` are those of the arrays that it may have to wait for.

        Raises:
            DataError: Slurm refuses it.
        """
        order = self.order(array)
        order.write()
        jobs = [Job(order.path, tuple(run.run_id for run in job)) for job in array.jobs]
        ids = self._sbatch(array, jobs, parameters(array, self.name, self.code, numbers, self.settings.profile))
        note_submitted(order.path, self.name, dict(zip(ids, (job.run_ids for job in jobs), strict=True)))
        logs = (self.folder / "log" / f"{job}_0_log.out" for job in ids)
        return [Submitted(job, self.name, time.time(), log) for job, log in zip(ids, logs, strict=True)]

    def order(self, array: Array) -> Order:
        profile, settings = self.settings.profile, self.settings
        runs = {run.run_id: run for run in array.runs}
        teachers = {run.teacher: self.plan[run.teacher] for run in array.runs if run.teacher}
        return Order(
            path=self.folder / f"{array.name}.json",
            store=settings.store.root.resolve(),
            stale_after=settings.store.stale_after,
            data_dir=settings.data_dir.resolve() if settings.data_dir else None,
            execute=settings.execute,
            interpreter=worker_command(profile.container, profile.python or sys.executable),
            cpus=array.resources.cpus,
            minutes=array.resources.time,
            grace=array.resources.grace,
            time_limits=profile.time_limits,
            checkpoint_every=settings.checkpoint_every,
            runs=runs | teachers,
        )

    def _sbatch(self, array: Array, jobs: Sequence[Job], wanted: Mapping[str, Any]) -> list[str]:
        import submitit

        with outside_of_jobs():
            executor = _executor(self.folder / "log")
            executor.update_parameters(**wanted)
            try:
                return [str(job.job_id) for job in executor.submit_array(jobs)]
            except submitit.core.utils.FailedJobError as error:
                told = " ".join(str(error).split())
                raise DataError(
                    f"the cluster refuses {array.name}; what was submitted before goes on. {told}"
                ) from None


def parameters(array: Array, name: str, code: Path, numbers: Mapping[str, str], profile: Profile) -> dict[str, Any]:
    """What submitit is told of an array, in the words of its SlurmExecutor."""
    asked = array.resources
    gpus = f"{asked.gpu_type}:{asked.gpus}" if asked.gpu_type else asked.gpus
    after = [*(numbers[other] for other in array.after), *array.after_jobs]
    return {
        "job_name": name,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "gpus_per_node": gpus if asked.gpus else None,
        "cpus_per_task": asked.cpus,
        "mem": asked.memory,
        "time": asked.time,
        "signal_delay_s": asked.grace,
        "ntasks_per_node": 1,
        "array_parallelism": array.throttle or len(array.jobs),
        # However it ended: students of a failed teacher start, and say that they are blocked.
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "wckey": None,
        "stderr_to_stdout": True,
        "setup": _setup(profile, code),
        # srun does not take over the number of CPUs from sbatch any more.
        "srun_args": [f"--cpus-per-task={asked.cpus}"],
        # In the copy of the sources: Python looks for modules in the folder that it is started in first.
        "additional_parameters": {"requeue": True, "chdir": code, **profile.sbatch},
    }


def runs_at_once(plan: Sequence[PlannedRun], profile: Profile, largest: int = DEFAULT_LARGEST) -> int:
    """How many of the runs may go on at the same time, if the cluster has room for every job."""
    return at_once(make_arrays(plan, profile, largest))


def sbatch_preview(plan: Sequence[PlannedRun], profile: Profile, largest: int = DEFAULT_LARGEST) -> list[str]:
    """The batch scripts that runs would be submitted with, one for each array; asks Slurm nothing.

    Args:
        plan: runs to be done.
        largest: number of jobs that the cluster takes in one array.
    """
    arrays = make_arrays(plan, profile, largest)
    numbers = {array.name: f"<{array.name}>" for array in arrays}
    return [_script(array, numbers, profile) for array in arrays]


def _script(array: Array, numbers: Mapping[str, str], profile: Profile) -> str:
    # submitit has no public name for the text; its executor writes the file with this function.
    from submitit.slurm.slurm import _make_sbatch_string

    wanted = parameters(array, array.name, Path("<copy of the sources>"), numbers, profile)
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit <folder>"
    count = len(array.jobs) if len(array.jobs) > 1 else None
    return str(_make_sbatch_string(command=command, folder="<folder>", map_count=count, **wanted))


def _setup(profile: Profile, code: Path) -> list[str]:
    """Shell lines before the job."""
    modules = [f"module load {shlex.quote(name)}" for name in profile.modules]
    given = {**_data_folder(), **profile.environment}
    variables = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
    path = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return [*modules, *variables, *profile.setup, path]


def _data_folder() -> dict[str, str]:
    """The variable that names the folder of the tasks' data: jobs start elsewhere, so it must be a whole path."""
    value = os.environ.get("GPPDFD_DATA")
    return {"GPPDFD_DATA": str(Path(value).absolute())} if value else {}


def _executor(folder: Path) -> Any:
    import submitit

    try:
        return submitit.SlurmExecutor(folder, max_num_timeout=NO_LIMIT)
    except RuntimeError:
        raise UsageError("--launcher slurm: srun not found; start this on a login node of the cluster") from None


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Environment without the traces of a job that this process runs in: sbatch would take them for options."""
    kept = os.environ.copy()
    if "SLURM_JOB_ID" in kept:
        for name in kept:
            if name.startswith(("SLURM_", "SRUN_", "SBATCH_", "SUBMITIT_")) and name != "SLURM_CONF":
                del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


def _words(job: Submitted | None, ending: str) -> str:
    return f"job {job.job}: {ending or 'ended'}; log: {job.log}" if job else ending


def _jobs(made: Sequence[Submitted]) -> str:
    number = made[0].job.partition("_")[0]
    return f"{len(made)} jobs, number {number}" if len(made) > 1 else f"job {number}"


def _listed(numbers: Sequence[str], separator: str = ", ") -> str:
    return separator.join(numbers)
