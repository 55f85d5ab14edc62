"""The report page: one HTML file for people who would rather look than read tables.

Style, script and data are inside it; it asks nothing of any network. Every number is a text that was rounded here,
by the code that rounds those of the tables: the script picks, sorts and draws, and computes nothing that it prints.
"""

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from suites.cells import NAN, Cells, RowKey, ScoreColumn, metric_label
from suites.formats import NO_EVIDENCE, Cell, Row, Table
from suites.provenance import progress, provenance
from suites.records import PlannedRun, Record, Results
from suites.statistics import Summary
from suites.tables import NOT_PLANNED, OTHER_DATA, average_cell, percent, run_marks, seed_marks, state_marks, with_best

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_suffix("")
SCRIPTS = ("helpers.js", "choice.js", "tables.js", "charts.js", "card.js", "page.js")
ALL_SEEDS = "all"
OTHER_SOURCES = "made by other sources than the newest run"
# The first four stand beside the settings; a model is a path of the machine that ran it; a teacher is a run of its own;
# hashes say nothing to a reader.
_NOT_SHOWN = ("task", "method", "sparsity", "seed", "model", "teacher", "model_content", "data_content")
_NO_FOLDER = ("missing", "unreachable")
Json = dict[str, Any]
Settings = tuple[tuple[str, str], ...]


def report_page(title: str, command: str, results: Results, tables: Sequence[Table], out: Path) -> str:
    """HTML of the page.

    Args:
        command: what makes this report again.
        tables: tables whose files lie beside the page.
        out: folder of the page, from which its links start.
    """
    look, script = _asset("page.css"), "\n".join(map(_asset, SCRIPTS))
    return (
        _environment()
        .from_string(_asset("template.html"))
        .render(
            title=title,
            command=command,
            progress=progress(results),
            notes=provenance(results),
            tables=tables,
            look=look,
            look_hash=_content_hash(look),
            script=script,
            script_hash=_content_hash(script),
            data=PageData(results, out).content(),
        )
    )


def _environment() -> "Environment":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # The filter `tojson` writes <, > and & as escapes, so that no text of a record can end the script element.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _content_hash(text: str) -> str:
    """By which the page's security policy names the only style and the only script that it lets in."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- the data of the page ---


@dataclass(frozen=True)
class PageData:
    """What the script of the page gets, in JSON values; absent numbers are empty texts.

    Attributes:
        results: the runs to show.
        out: folder of the page.
    """

    results: Results
    out: Path

    def content(self) -> Json:
        """The values of every filter, the runs with their settings, and the means for each choice of seeds."""
        runs = sorted(self.results.planned, key=lambda run: (run.role == "student", run.sparsity, run.order))
        return {
            "tasks": [self._task(column) for column in self._cells.tasks],
            "methods": self._methods(),
            "sparsities": sorted({run.sparsity for run in runs}),
            "seeds": self._seeds,
            "settings": [dict(settings) for settings in self._settings],
            "runs": [self._run(run) for run in runs],
            "columns": [_column(self._cells, column) for column in self._cells.columns],
            "means": {
                ALL_SEEDS: self._means(self._cells),
                **{str(seed): self._means(Cells(_of_seed(self.results, seed))) for seed in self._seeds},
            },
        }

    @cached_property
    def _cells(self) -> Cells:
        return Cells(self.results)

    @cached_property
    def _seeds(self) -> list[int]:
        return sorted({run.seed for run in self.results.planned})

    @cached_property
    def _settings(self) -> dict[Settings, int]:
        """Place of each distinct set of settings: a thousand runs share a few."""
        distinct = dict.fromkeys(map(settings_of, self.results.records.values()))
        return {settings: place for place, settings in enumerate(distinct)}

    @cached_property
    def _sources(self) -> str | None:
        """Sources of the newest run."""
        newest = max(self.results.records.values(), key=lambda record: record.finished, default=None)
        return newest.sources if newest else None

    def _task(self, column: ScoreColumn) -> Json:
        metric = metric_label(self._cells.primary(column.task))
        return {"name": column.task, "title": column.title, "metric": metric}

    def _methods(self) -> list[Json]:
        """Method labels in the order of the suite; a label that only teachers have gets no place in the charts."""
        papers = {run.label: run.paper for run in self.results.planned}
        students = {run.label for run in self.results.planned if run.role == "student"}
        order = dict.fromkeys(run.label for run in self.results.planned)
        return [{"label": label, "paper": papers[label], "student": label in students} for label in order]

    def _run(self, run: PlannedRun) -> Json:
        shown = {
            "id": run.run_id,
            "task": run.task,
            "method": run.method,
            "label": run.label,
            "sparsity": run.sparsity,
            "seed": run.seed,
            "role": run.role,
            "state": run.state,
            "note": run.note,
            "folder": "" if run.state in _NO_FOLDER else self._folder(run.run_id),
        }
        record = self.results.records.get(run.run_id)
        return shown | self._measured(record) if record else shown

    def _folder(self, run_id: str) -> str:
        """Relative address of a run's folder."""
        return quote(Path(os.path.relpath(self.results.store / run_id, self.out)).as_posix())

    def _measured(self, record: Record) -> Json:
        """What only a finished run has."""
        split, metric, value = record.primary.split, record.primary.metric, record.primary.value
        return {
            "score": _percent(value),
            "majority": _percent(record.majority.get(split, {}).get(metric, NAN)),
            "retention": _percent(retention(record)),
            "scores": [
                [f"{metric_label(name)}, {part}", _percent(score)]
                for part, scores in record.scores.items()
                for name, score in scores.items()
            ],
            "reached": _number("{:.1f}", 100 * record.size.sparsity),
            "parameters": _number("{:.3f}", record.size.encoder_kept / 1e6),
            "flops": _number("{:.2f}", record.size.flops_ratio),
            "speedup": _number("{:.2f}", record.latency.speedup if record.latency else NAN),
            "seconds": _number("{:.1f}", record.seconds),
            "finished": record.finished[:10],
            "marks": list(self._marks(record)),
            "kept": kept_units(record),
            "settings": self._settings[settings_of(record)],
        }

    def _marks(self, record: Record) -> Iterator[str]:
        yield from run_marks(record)
        if record.sources != self._sources:
            yield OTHER_SOURCES

    # --- means over seeds ---

    def _means(self, cells: Cells) -> list[Json]:
        """Rows of the table of means, teachers first; `cells` are those of all seeds or of one."""
        teachers = [self._mean_row(cells, row) for row in cells.rows("teacher")]
        blocks = [list(rows) for _, rows in groupby(cells.rows("student"), key=lambda row: row[1])]
        students = [with_best([self._mean_row(cells, row) for row in block]) for block in blocks]
        keys = [*cells.rows("teacher"), *cells.rows("student")]
        shown = [*teachers, *(row for block in students for row in block)]
        return [self._mean_json(cells, key, row) for key, row in zip(keys, shown, strict=True)]

    def _mean_row(self, cells: Cells, row: RowKey) -> Row:
        average = average_cell(cells, row)
        marked = replace(average, marks=(*cells.row_marks(row), *average.marks))
        return Row(row[0], (*(self._mean(cells, row, column) for column in self._cells.columns), marked))

    def _mean(self, cells: Cells, row: RowKey, column: ScoreColumn) -> Cell:
        """Mean of a column's primary metric, with the marks of the runs behind it."""
        runs = cells.by_cell.get((*row, column.task), [])
        if not runs:
            return Cell(marks=(NOT_PLANNED,))
        summary = _summary(cells, row, column)
        records = cells.done(runs)
        other = [OTHER_DATA] * bool(cells.other_data(records))
        weak = cells.weak(row, column)  # of the mean, whatever its runs are marked with
        about = ((mark for mark in self._marks(record) if mark != NO_EVIDENCE) for record in records)
        marks = (*[NO_EVIDENCE] * weak, *state_marks(runs), *other, *seed_marks(about, len(runs)))
        apart = other or weak or any(record.missed_target for record in records)
        return Cell((percent(summary),) if summary else (), marks, ranked=not apart)

    def _mean_json(self, cells: Cells, key: RowKey, row: Row) -> Json:
        summaries = [*(_summary(cells, key, column) for column in self._cells.columns), cells.averages.get(key)]
        shown = [_cell_json(cell, summary) for cell, summary in zip(row.cells, summaries, strict=True)]
        return {"label": key[0], "sparsity": key[1], "cells": shown}


def settings_of(record: Record) -> Settings:
    """Names and values of a run's settings, `training.epochs` for nested ones; what is not set is left out."""
    return tuple(_flat({name: value for name, value in record.config.items() if name not in _NOT_SHOWN}))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", str(value)


def retention(record: Record) -> float:
    """Share of its own teacher's primary score that a run keeps, NaN where there is none or it is not positive."""
    split, metric = record.primary.split, record.primary.metric
    teacher = record.teacher.scores.get(split, {}).get(metric, NAN) if record.teacher else NAN
    return record.primary.value / teacher if teacher > 0 else NAN


def kept_units(record: Record) -> Json:
    """By kind of unit: how many are kept in each layer (`kept`), and how many a whole layer has (`of`)."""
    return {
        kind: {"kept": list(kept), "of": _whole(kept, record.size.density.get(kind, NAN))}
        for kind, kept in record.kept.items()
    }


def _whole(kept: Sequence[int], density: float) -> int:
    """Units of a whole layer, from those kept and their share of all; 0 where that cannot be told."""
    return round(sum(kept) / (density * len(kept))) if density > 0 else 0


def _column(cells: Cells, column: ScoreColumn) -> Json:
    return {"task": column.task, "title": column.title, "metric": metric_label(cells.primary(column.task))}


def _of_seed(results: Results, seed: int) -> Results:
    return replace(results, runs=results.runs[results.runs["seed"] == seed])


def _summary(cells: Cells, row: RowKey, column: ScoreColumn) -> Summary | None:
    return cells.summaries(row, column).get(cells.primary(column.task))


def _cell_json(cell: Cell, summary: Summary | None) -> Json:
    if not cell.numbers or summary is None:
        return {"marks": cell.marks}
    number = cell.numbers[0]
    return {"text": number.text, "sd": number.spread, "n": summary.n, "best": number.best, "marks": cell.marks}


def _percent(fraction: float) -> str:
    return "" if isnan(fraction) else percent(Summary(fraction, NAN, 1)).text


def _number(form: str, value: float) -> str:
    return "" if isnan(value) else form.format(value)
