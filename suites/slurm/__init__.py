"""The SLURM launcher: runs as job arrays through submitit, followed in the store and in Slurm's queue.

profile.py   what a job asks for, from a YAML file
arrays.py    which runs share a job, which jobs an array, what waits for what
snapshot.py  a copy of the sources, so that queued runs do not change with the repository
order.py     what was submitted, written into the store
queue.py     what Slurm says of it
job.py       what happens inside a job
launcher.py  submits and follows
"""

from suites.slurm.launcher import SlurmLauncher, SlurmSettings, sbatch_preview
from suites.slurm.profile import Profile, load_profile

__all__ = ["Profile", "SlurmLauncher", "SlurmSettings", "load_profile", "sbatch_preview"]
