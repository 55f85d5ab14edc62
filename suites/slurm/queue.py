"""What Slurm says of the jobs of a store. Imports nothing heavy: status pages use it.

The rule: a run whose result is in the store is done, whatever Slurm says. A job is alive as long as the queue shows
it: requeued jobs stay there, while the accounting calls them NODE_FAIL or PREEMPTED until they start again. Jobs that
are gone are looked up in the accounting, for the reason alone; an array element that was cancelled before it started
has no entry there.
"""

import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from getpass import getuser

from gppdfd.errors import DataError
from suites.slurm.submitted import Submitted, submitted
from suites.store import Store

TIMEOUT_SECONDS = 60
BATCH = 500
NOT_STARTED = "CANCELLED before its start"
# What Slurm says of jobs that failed by themselves; other jobs were ended from outside and may be submitted again.
FAILED_STATES = ("FAILED", "OUT_OF_MEMORY", "TIMEOUT", "DEADLINE")


@dataclass(frozen=True)
class Queued:
    """A job in the queue: PENDING, RUNNING, ...; `reason` says what a pending one waits for."""

    state: str
    reason: str
    name: str

    @property
    def told(self) -> str:
        """`pending (Resources)`, `running`."""
        waits = self.state == "PENDING" and self.reason not in ("", "None")
        return f"{self.state.lower()} ({self.reason})" if waits else self.state.lower()


def queue() -> dict[str, Queued]:
    """This user's jobs by number, array elements singly.

    Raises:
        DataError: Slurm does not answer.
    """
    output = ask("squeue", "--noheader", "--array", f"--user={getuser()}", "--format=%i|%T|%r|%j")
    jobs = {}
    for line in output.splitlines():
        job, state, reason, name = line.split("|", 3)
        jobs[job] = Queued(state, reason, name)
    return jobs


def alive(jobs: Mapping[str, Queued], run_jobs: Mapping[str, Submitted]) -> dict[str, Queued]:
    """By run id, the entry of its job in the queue; without those whose job is gone."""
    entries = {run_id: jobs.get(job.job) for run_id, job in run_jobs.items()}
    return {run_id: entry for run_id, entry in entries.items() if entry and entry.name == run_jobs[run_id].name}


def queued_runs(store: Store) -> dict[str, Queued]:
    """By run id, the job that is to do it; empty where nothing was submitted or Slurm does not answer."""
    run_jobs = submitted(store)
    if not run_jobs:
        return {}
    try:
        return alive(queue(), run_jobs)
    except DataError:
        return {}


def cancel_suite(store: Store, suite: str) -> list[str]:
    """Cancel the jobs of a suite that are in the queue; returns their numbers.

    Running jobs write checkpoints first, so that the next launch goes on from there.

    Raises:
        DataError: Slurm does not answer.
    """
    run_jobs = submitted(store)
    waiting = alive(queue(), run_jobs)
    own = (run_jobs[run_id] for run_id in waiting)
    jobs = sorted({job.job for job in own if job.name.rpartition("-")[0] == suite})
    for start in range(0, len(jobs), BATCH):
        ask("scancel", *jobs[start : start + BATCH])
    return jobs


def endings(jobs: Collection[str]) -> dict[str, str]:
    """How jobs ended, as the accounting says; without those that it does not know, and empty without accounting."""
    found: dict[str, str] = {}
    listed = list(jobs)
    for start in range(0, len(listed), BATCH):
        found |= _endings(listed[start : start + BATCH])
    return {job: found.get(job, "") for job in jobs if found.get(job)}


def _endings(jobs: Iterable[str]) -> dict[str, str]:
    try:
        output = ask("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}",
                     "--format=JobID,State")  # fmt: skip
    except DataError:
        return {}
    return dict(line.split("|", 1) for line in output.splitlines())


def largest_array() -> int:
    """How many jobs the cluster takes in one array."""
    for line in ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            # The greatest index is one less, and the first one is 0.
            return int(value)
    raise DataError("scontrol show config: the cluster tells no MaxArraySize")


def ask(*command: str) -> str:
    """Output of one of Slurm's commands; `DataError` if it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except FileNotFoundError:
        raise DataError(f"{command[0]}: not found; is this a machine of the cluster?") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{command[0]}: Slurm gave no answer within {TIMEOUT_SECONDS} s") from None
    if answer.returncode:
        raise DataError(f"{command[0]}: {' '.join(answer.stderr.split()) or 'failed'}")
    return answer.stdout
