"""Tasks by name: the eight of GLUE, from real data or from the embedded generator (`micro`)."""

from pathlib import Path

from gppdfd.errors import unknown
from gppdfd.tasks import glue
from gppdfd.tasks.base import Batch, Split, TaskData, TaskSpec
from gppdfd.tasks.rows import sample_train

__all__ = ["SOURCES", "TASK_NAMES", "Batch", "Split", "TaskData", "TaskSpec", "load_task", "task_spec"]

TASK_NAMES: tuple[str, ...] = tuple(glue.GLUE)
SOURCES = ("micro", "glue")


def task_spec(name: str) -> TaskSpec:
    """Columns, labels and metrics of a task; `UsageError` for an unknown name."""
    return glue.task_spec(name)


def load_task(name: str, source: str, data_dir: Path | None = None, max_train_rows: int | None = None) -> TaskData:
    """Rows of a task.

    Args:
        name: one of `TASK_NAMES`.
        source: `micro` (generated, nothing needed) or `glue` (a folder, else the hub).
        data_dir: folder with real data, read by `glue` only; default: the environment variable GPPDFD_DATA.
        max_train_rows: train on a fixed random sample of this many rows, the same for every seed of a grid.

    Raises:
        UsageError: unknown task or source, or no positive number of rows.
        DataError: missing or broken data, with the file's name.
    """
    task_spec(name)
    if source == "glue":
        return glue.load(name, data_dir, max_train_rows)
    if source != "micro":
        raise unknown("data source", source, SOURCES)
    from gppdfd.tasks import micro  # generates its rows, which only this source needs

    return sample_train(micro.load(name), max_train_rows)
