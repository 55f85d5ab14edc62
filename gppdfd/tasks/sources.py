"""Where GLUE rows come from: a folder with parquet or the original TSV files, else the hub."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gppdfd.errors import DataError
from gppdfd.tasks import tsv

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Found:
    """One split in a source: the file to name in messages, whether it is only part, how to read it."""

    where: str
    partial: bool
    read: Callable[[], "pa.Table"]


class Source(Protocol):
    """Splits of one task under their official names (`train`, `validation`, `validation_matched`, ...)."""

    @property
    def name(self) -> str:
        """For records: the same wherever the folder lies."""

    @property
    def where(self) -> str:
        """For messages: folder or address."""

    def find(self, split: str) -> Found | None: ...

    def why_missing(self, split: str) -> str: ...


def open_source(task: str, data_dir: Path | None) -> Source:
    """The folder's files of a task if it has any, else the hub.

    Raises:
        DataError: the folder does not exist or has no usable file for this task, or the hub is out of reach.
    """
    if data_dir is None:
        return Hub.open(task, "no folder was given")
    if not data_dir.is_dir():
        raise DataError(f"data folder {data_dir} does not exist (option --data-dir or variable GPPDFD_DATA)")
    folder = find_task_folder(data_dir, task)
    if folder is None:
        logger.info("%s holds no folder glue/%s: trying the hub", data_dir, task)
        return Hub.open(task, f"{data_dir} holds no folder glue/{task}")
    name = str(Path(data_dir.resolve().name) / folder.relative_to(data_dir))
    if any(folder.glob("*.parquet")):
        return ParquetFolder(folder, name)
    if any(folder.glob("*.tsv")) or (folder / tsv.MRPC_TRAIN).exists():
        return TsvFolder(folder, name, task)
    raise DataError(f"{folder} holds neither parquet (train.parquet, ...) nor TSV files (train.tsv, ...)")


def find_task_folder(data_dir: Path, task: str) -> Path | None:
    """Folder of a task: `glue/<task>` or `<task>`, written like the task or officially (`SST-2`, `CoLA`)."""
    for base in (data_dir / "glue", data_dir / "GLUE", data_dir / "glue_data", data_dir):
        children = sorted(base.iterdir()) if base.is_dir() else []
        for child in children:
            if child.is_dir() and re.sub("[-_]", "", child.name.lower()) == task:
                return child
    return None


@dataclass(frozen=True)
class ParquetFolder:
    """`<split>.parquet`, `<split>_subset<anything>.parquet` or the hub's `<split>-00000-of-00002.parquet`."""

    folder: Path
    name: str

    @property
    def where(self) -> str:
        return str(self.folder)

    def find(self, split: str) -> Found | None:
        """The whole split if it is there, else the file that holds part of it."""
        for pattern, is_part in ((split, False), (rf"{split}_subset\w*", True)):
            files = self._files(pattern)
            if files:
                where = str(files[0]) if len(files) == 1 else f"{self.folder}/{split}-*.parquet"
                return Found(where, is_part, partial(_read_parquets, files))
        return None

    def _files(self, pattern: str) -> list[Path]:
        """The file called `pattern`, or all shards of it. One annotator's labels are never official."""
        usable = [file for file in self.folder.glob("*.parquet") if "single_annotator" not in file.stem]
        matches = {file: re.fullmatch(rf"{pattern}(?:-\d+-of-(\d+))?", file.stem) for file in sorted(usable)}
        shards = {file: int(match[1] or 1) for file, match in matches.items() if match}
        files = list(shards)
        if any(count != len(files) for count in shards.values()):
            names = ", ".join(file.name for file in files)
            raise DataError(f"{self.folder}: neither one file nor a whole set of shards: {names}")
        return files

    def why_missing(self, split: str) -> str:
        noisy = sorted(self.folder.glob(f"{split}*single_annotator*.parquet"))
        if noisy:
            return f"no official labels: {noisy[0].name} holds one annotator's labels, not the gold vote"
        return f"no {split}.parquet in {self.name}"


@dataclass(frozen=True)
class TsvFolder:
    """The original files of https://gluebenchmark.com/tasks."""

    folder: Path
    name: str
    task: str

    @property
    def where(self) -> str:
        return str(self.folder)

    def find(self, split: str) -> Found | None:
        if self.task == "mrpc" and (self.folder / tsv.MRPC_TRAIN).exists():
            where = str(self.folder / tsv.MRPC_TRAIN)
            return Found(where, False, partial(tsv.read_mrpc, self.folder, split == "train"))
        file = self.folder / tsv.file_name(split)
        return Found(str(file), False, partial(tsv.read, file, self.task)) if file.exists() else None

    def why_missing(self, split: str) -> str:
        return f"no {tsv.file_name(split)} in {self.name}"


@dataclass(frozen=True)
class Hub:
    """The data set `nyu-mll/glue`, through the cache of `datasets`."""

    task: str
    splits: Any  # datasets.DatasetDict

    @property
    def name(self) -> str:
        return f"{HUB_NAME}/{self.task}"

    @property
    def where(self) -> str:
        return f"the hub data set {HUB_NAME}"

    @classmethod
    def open(cls, task: str, why: str) -> "Hub":
        """Fetch a task; `why` says in an error what was looked at before."""
        try:
            return cls(task, _fetch(task))
        except (OSError, ValueError) as error:
            raise DataError(
                f"no data for task {task}: {why}, and the hub data set {HUB_NAME} cannot be read"
                f" ({_first_line(error)}). Give a folder that holds glue/{task} (--data-dir or GPPDFD_DATA),"
                " or fetch the data set where there is a network; HF_HUB_OFFLINE=1 then uses that copy"
            ) from error

    def find(self, split: str) -> Found | None:
        if split not in self.splits:
            return None
        return Found(f"{self.name}, split {split}", False, lambda: self.splits[split].with_format("arrow")[:])

    def why_missing(self, split: str) -> str:
        return f"no split {split} in {self.name}"


def _fetch(task: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    if not datasets.config.HF_HUB_OFFLINE:
        _check_reachable()
    try:
        return datasets.load_dataset(HUB_NAME, task)
    except DatasetsError as error:
        raise ConnectionError(str(error)) from error


def _check_reachable() -> None:
    """One short request first: the hub client alone would repeat each of its requests for 20 seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception as error:  # each version of the client has exceptions of its own
        raise ConnectionError(f"{constants.ENDPOINT} is out of reach: {_first_line(error)}") from error


def _read_parquets(files: list[Path]) -> "pa.Table":
    import pyarrow as pa

    return pa.concat_tables([_read_parquet(file) for file in files])


def _read_parquet(file: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as parquet ({_first_line(error)}): fetch it again") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
