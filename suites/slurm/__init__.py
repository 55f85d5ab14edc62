"""The SLURM launcher: runs as job arrays through submitit, followed in the store and in Slurm's queue.

profile.py     what a job asks for, from a YAML file
arrays.py      which runs share a job, which jobs an array, what waits for what
snapshot.py    a copy of the sources, so that queued runs do not change with the repository
order.py       what a job needs to know, written into the store
submitted.py   which job has which run
queue.py       what Slurm says of it
job.py         what happens inside a job
launcher.py    submits and follows
"""

from importlib import import_module
from typing import Any

_PLACES = dict.fromkeys(("SlurmLauncher", "SlurmSettings", "runs_at_once", "sbatch_preview"), "launcher")
_PLACES |= {"load_profile": "profile", "Profile": "profile"}


def __getattr__(name: str) -> Any:
    """What other modules use, loaded when it is: status pages need the queue alone."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
