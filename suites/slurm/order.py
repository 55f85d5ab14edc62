"""What was submitted, as files in the store. Jobs find their runs here, and later commands the jobs.

STORE/slurm/LAUNCH/ARRAY.json         the runs of an array with their settings, written before it is submitted
STORE/slurm/LAUNCH/ARRAY.job.json     number and name of the array and the run ids of each of its jobs
STORE/slurm/LAUNCH/time-limits/RUN    how many time limits a run met in this launch
STORE/slurm/LAUNCH/log/               submitit's folder: batch scripts and what jobs printed
STORE/slurm/code/HASH/                sources
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gppdfd.errors import DataError
from gppdfd.files import write_json
from suites.plan import PlannedRun
from suites.store import Store, read_json


@dataclass(frozen=True)
class Order:
    """What the jobs of an array need to know.

    Attributes:
        path: the file that it is in.
        runs: by id, the runs of the array and their teachers.
        interpreter: command line of the workers' Python.
        cpus: how many the job has, for workers where it has no GPUs.
        minutes: time limit of a job.
        grace: seconds before it at which the job is told.
        time_limits: how many of them a run may meet.
        checkpoint_every, stale_after: seconds, as for a local launch.
    """

    path: Path
    store: Path
    stale_after: float
    data_dir: Path | None
    execute: str
    interpreter: tuple[str, ...]
    cpus: int
    minutes: int
    grace: int
    time_limits: int
    checkpoint_every: float
    runs: Mapping[str, PlannedRun]

    @property
    def runs_store(self) -> Store:
        return Store(self.store, self.stale_after)

    def write(self) -> None:
        content = {name: value for name, value in vars(self).items() if name not in ("path", "runs")}
        content |= {"store": str(self.store), "data_dir": self.data_dir and str(self.data_dir)}
        write_json(self.path, content | {"runs": {name: asdict(run) for name, run in self.runs.items()}})

    @classmethod
    def read(cls, path: Path) -> "Order":
        """Read an order; `DataError` if there is none."""
        content = read_json(path)
        if content is None:
            raise DataError(f"{path} is missing or damaged: submit the runs again")
        return cls(path=path, **_typed(content))

    def count_time_limit(self, run_id: str) -> int:
        """Note that a run met a time limit; returns how many it has met in this launch."""
        path = self.path.parent / "time-limits" / run_id
        met = (read_json(path) or {}).get("met", 0) + 1
        write_json(path, {"met": met})
        return int(met)


def _typed(content: dict[str, Any]) -> dict[str, Any]:
    return content | {
        "store": Path(content["store"]),
        "data_dir": Path(content["data_dir"]) if content["data_dir"] else None,
        "interpreter": tuple(content["interpreter"]),
        "runs": {name: PlannedRun(**run) for name, run in content["runs"].items()},
    }
