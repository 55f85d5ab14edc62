"""Where a table's numbers come from, in words taken from the records: date, commit, protocol, data, model."""

from collections.abc import Iterable, Sequence

from suites.records import Record, Results

_RULES = {"last": "the last step", "best_dev": "the best step on dev"}


def provenance(results: Results) -> list[str]:
    """Lines for the foot of a table."""
    records = list(results.records.values())
    if not records:
        return [f"No run of {len(results.planned)} is finished."]
    lines = [
        f"Records up to {last_date(results)}, commit {commits(results)}; {progress(results)}.",
        _protocol(records),
    ]
    sources = {record.sources for record in records} - {None}
    if len(sources) > 1:
        lines.append(f"Careful: these records were made by {len(sources)} different versions of the sources.")
    return lines


def protocol(results: Results) -> str:
    """Seeds, split, selection, data, model and precision, for a caption."""
    seeds = sorted({run.seed for run in results.planned})
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. {_protocol(list(results.records.values()))}"


def progress(results: Results) -> str:
    """How many runs are finished, and over how many seeds."""
    seeds = len({run.seed for run in results.planned})
    finished = f"{len(results.records)} of {len(results.planned)} runs finished"
    return f"{finished}, {seeds} seed{'s' if seeds > 1 else ''}"


def last_date(results: Results) -> str:
    """Day on which the newest record was finished, `-` without records."""
    return max((record.finished[:10] for record in results.records.values()), default="-")


def commits(results: Results) -> str:
    """Abbreviated commits of the records, `unknown` where none was recorded."""
    names = {_commit(record) for record in results.records.values()}
    return ", ".join(sorted(names)) or "unknown"


def _commit(record: Record) -> str:
    environment = record.environment
    if not environment.commit:
        return "unknown"
    return environment.commit[:10] + (" with uncommitted changes" if environment.dirty else "")


def _protocol(records: Sequence[Record]) -> str:
    rules = _listed(_RULES.get(record.selection.rule, record.selection.rule) for record in records)
    data = _listed(record.data.source for record in records)
    models = _listed(record.model for record in records)
    precision = _listed(record.environment.precision or "unknown" for record in records)
    return f"Protocol: dev split, scores of {rules}; data: {data}; model: {models}; precision: {precision}."


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
