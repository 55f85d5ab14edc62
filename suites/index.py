"""The index page of a report: a README that shows the tables, the figures and what is missing."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from suites.figures import DRAWINGS, Drawing
from suites.formats import MARKDOWN, Table, to_markdown
from suites.provenance import commits, last_date, progress, protocol
from suites.records import Results

PAGE = "report.html"


def index_page(
    title: str,
    command: str,
    results: Results,
    tables: Sequence[Table],
    figures: Collection[str],
    appendix: Sequence[Table] = (),
) -> str:
    """Markdown that shows everything of one report.

    Args:
        command: what makes this report again.
        figures: names of the figures that were written beside the page.
        appendix: tables that were written beside the page and are only linked.
    """
    made = f"{progress(results)}; newest record {last_date(results)}, commit {commits(results)}."
    parts = [
        f"# {title}",
        f"{made} Made from the stored records alone by\n\n    {command}",
        f"To filter, sort and look at single runs: open [{PAGE}]({PAGE}) in a browser.",
        *map(_table, tables),
        *(_figure(drawing, protocol(results)) for drawing in DRAWINGS if drawing.name in figures),
        *_not_drawn(figures),
        *map(_link, appendix),
        *_unfinished(results),
        *_warnings(results),
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    return f"{to_markdown(table)}\nThis table as {_files(table)}."


def _link(table: Table) -> str:
    return f"{table.caption}: {_files(table)}."


def _files(table: Table) -> str:
    return ", ".join(f"[{kind}]({table.name}.{kind})" for kind in ("csv", "md", "tex"))


def _figure(drawing: Drawing, how: str) -> str:
    caption = f"{drawing.caption} {how}"
    return f"![{drawing.caption}]({drawing.name}.png)\n\n{caption} As [pdf]({drawing.name}.pdf)."


def _not_drawn(figures: Collection[str]) -> Iterator[str]:
    """Which figures the records do not allow, and what they would be drawn from."""
    lines = [f"- `{drawing.name}`: {drawing.needs}" for drawing in DRAWINGS if drawing.name not in figures]
    if lines:
        yield "\n".join(["## Figures that lack a finished run to show", "", *lines])


def _unfinished(results: Results) -> Iterator[str]:
    escape = MARKDOWN.escape
    rows = [
        f"| {escape(run.run_id)} | {run.state} | {escape(run.note)} |" for run in results.planned if run.state != "done"
    ]
    if rows:
        head = ["## Runs without a result", "", "| run | state | reason |", "| :-- | :-- | :-- |"]
        yield "\n".join([*head, *rows])


def _warnings(results: Results) -> Iterator[str]:
    """Each warning of the records once, with the runs that gave it."""
    runs = defaultdict(list)
    for run_id, record in results.records.items():
        for warning in record.warnings:
            runs[warning].append(run_id)
    lines = [MARKDOWN.escape(f"{warning}: {_some(names)}") for warning, names in runs.items()]
    if lines:
        yield "\n".join(["## Warnings in the records", "", *(f"- {line}" for line in lines)])


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
