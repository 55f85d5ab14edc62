"""What was submitted, as files in the store, where later commands find it. Imports nothing heavy.

STORE/slurm/LAUNCH/ARRAY.json         the runs of an array with their settings (order.py)
STORE/slurm/LAUNCH/ARRAY.job.json     number and name of the array and the run ids of each of its jobs
STORE/slurm/LAUNCH/time-limits/RUN    how many time limits a run met in this launch
STORE/slurm/LAUNCH/log/               submitit's folder: batch scripts and what jobs printed
STORE/slurm/code/HASH/                sources
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gppdfd.files import write_json
from suites.store import Store, read_json

FOLDER, SUFFIX = "slurm", ".job.json"


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted with a run in it.

    Attributes:
        job: number as Slurm writes it, `12` or `12_3`.
        name: name of the job; numbers are used again where a cluster was set up anew.
        log: what the job printed.
    """

    job: str
    name: str
    submitted: float
    log: Path


def note_submitted(path: Path, name: str, jobs: Mapping[str, Sequence[str]]) -> None:
    """Note the jobs of an array with the ids of their runs."""
    content = {"name": name, "submitted": time.time(), "jobs": {job: list(ids) for job, ids in jobs.items()}}
    write_json(path.with_name(f"{path.stem}{SUFFIX}"), content)


def submitted(store: Store) -> dict[str, Submitted]:
    """By run id, the last job that was submitted with it."""
    found: dict[str, Submitted] = {}
    for run_id, job in _all_submitted(store):
        if run_id not in found or found[run_id].submitted < job.submitted:
            found[run_id] = job
    return found


def _all_submitted(store: Store) -> Iterator[tuple[str, Submitted]]:
    for path in store.root.glob(f"{FOLDER}/*/*{SUFFIX}"):
        content = read_json(path) or {"jobs": {}}
        for job, run_ids in content["jobs"].items():
            log = path.parent / "log" / f"{job}_0_log.out"
            for run_id in run_ids:
                yield run_id, Submitted(job, content["name"], content["submitted"], log)
