"""The findings of `measure` as JSON, as Markdown and as tables on a terminal: the same rounded texts in both tables."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gppdfd.measure import Cost, Flops, Parameters, Report, Row, Timed

FORMAT = 1
DASH = "–"


@dataclass(frozen=True)
class Grid:
    """A titled table of texts; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def as_json(report: Report) -> dict[str, Any]:
    """Plain values: seconds, bytes, FLOPs for one sequence; sums and shares beside what they are made of."""
    costs = {name: _cost_json(cost) for name, cost in _costs(report).items()}
    return {"format": FORMAT, **asdict(report), "against": None, **costs}


def as_markdown(report: Report) -> str:
    """A page: what was measured on what, three tables, notes."""
    tables = [f"## {grid.title}\n\n{_pipe_table(grid)}" for grid in grids(report)]
    notes = [f"* {note}" for note in report.notes]
    parts = [
        f"# {heading(report)}",
        "\n".join(setting(report)),
        *tables,
        *(["\n".join(["## Notes", "", *notes])] if notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def show(report: Report) -> None:
    """Tables on standard output, cut to the terminal if there is one."""
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    console.print(heading(report), *setting(report), sep="\n")
    for grid in grids(report):
        table = Table(title=grid.title, title_justify="left")
        for place, column in enumerate(grid.columns):
            table.add_column(column, justify="right" if place else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")


def heading(report: Report) -> str:
    """What was measured."""
    return report.model.name + (f" against {report.against.name}" if report.against else "")


def setting(report: Report) -> list[str]:
    """How it was measured, in lines for the reader."""
    where, timing = report.machine, report.timing
    what = "the layers alone, embeddings computed before" if report.part == "encoder" else "the whole model"
    lines = [
        f"Machine: {where.device}; threads: {where.threads}; torch {where.torch}; {report.model.dtype}.",
        f"Times: {what}; evaluation mode, no padding, after warm-up; median and interquartile range.",
    ]
    turns = (
        f"Speed-up: both models took turns; median and quartiles, over {timing.rounds} rounds, of the ratio of medians."
    )
    return [*lines, turns] if report.against else lines


def grids(report: Report) -> list[Grid]:
    """Parameters, FLOPs, time and memory."""
    return [_parameter_grid(report), _flops_grid(report), _time_grid(report)]


# --- parameters and FLOPs ---


def _parameter_grid(report: Report) -> Grid:
    costs = list(_costs(report).values())
    columns = ("parameters", *(_names(report)), *(("left",) if report.against else ()))
    counts = [_counts(cost.parameters) for cost in costs]
    rows = [(part, *_row_of([count[part] for count in counts])) for part in counts[0]]
    shares = [f"{100 * cost.parameters.sparsity:.2f} %" for cost in costs]
    files = [_mebibytes(cost.file_bytes) for cost in costs]
    spare = ("",) if report.against else ()
    more = [("encoder sparsity", *shares, *spare), ("safetensors, MiB", *files, *spare)]
    return Grid("Parameters and file", columns, (*rows, *more))


def _counts(parameters: Parameters) -> dict[str, int]:
    return {
        "embeddings": parameters.embeddings,
        "attention maps": parameters.attention,
        "FFN maps": parameters.ffn,
        "LayerNorms of the layers": parameters.layer_norms,
        "pooler, head, other": parameters.other,
        "total": parameters.total,
        "total without embeddings": parameters.without_embeddings,
        "encoder (attention and FFN maps)": parameters.encoder,
    }


def _row_of(values: Sequence[int]) -> tuple[str, ...]:
    """Numbers, and how much of the second one the first one is."""
    texts = tuple(f"{value:,}" for value in values)
    if len(values) == 1:
        return texts
    return (*texts, f"{100 * values[0] / values[1]:.2f} %" if values[1] else DASH)


def _flops_grid(report: Report) -> Grid:
    ours, theirs = report.model.flops, report.against.flops if report.against else ()
    if not theirs:
        rows = tuple((str(each.length), _giga(each.model), _giga(each.encoder)) for each in ours)
        return Grid("GFLOPs for one sequence", ("length", "model", "encoder"), rows)
    columns = ("length", "model", "against", "ratio", "encoder", "against", "ratio")
    return Grid("GFLOPs for one sequence", columns, tuple(map(_flops_row, ours, theirs)))


def _flops_row(ours: Flops, theirs: Flops) -> tuple[str, ...]:
    pairs = ((ours.model, theirs.model), (ours.encoder, theirs.encoder))
    texts = [(_giga(a), _giga(b), f"{b / max(1, a):.1f}") for a, b in pairs]
    return (str(ours.length), *texts[0], *texts[1])


# --- time and memory ---


def _time_grid(report: Report) -> Grid:
    columns: tuple[str, ...] = ("batch x length", "ms (IQR)", "peak MiB")
    if report.against:
        columns += ("against: ms (IQR)", "peak MiB", "speed-up (quartiles)", "ratio of FLOPs")
    title = "Time and memory of a forward pass" + (" (encoder only)" if report.part == "encoder" else "")
    return Grid(title, columns, tuple(map(_time_row, report.rows)))


def _time_row(row: Row) -> tuple[str, ...]:
    own = (f"{row.shape.batch} x {row.shape.length}", *_timed(row.model))
    if row.against is None or row.speedup is None:
        return own
    speedup = f"{row.speedup.median:.2f} ({row.speedup.low:.2f} to {row.speedup.high:.2f})"
    return (*own, *_timed(row.against), speedup, f"{row.flops_ratio:.1f}")


def _timed(timed: Timed) -> tuple[str, str]:
    times = f"{_milliseconds(timed.seconds.median)} ({_milliseconds(timed.seconds.iqr)})"
    return times, _mebibytes(timed.memory)


# --- texts ---


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _mebibytes(size: int | None) -> str:
    return DASH if size is None else f"{size / 2**20:.1f}"


def _giga(flops: int) -> str:
    return f"{flops / 1e9:.4g}"


def _costs(report: Report) -> dict[str, Cost]:
    return {"model": report.model} | ({"against": report.against} if report.against else {})


def _names(report: Report) -> tuple[str, ...]:
    return tuple(_costs(report))


def _cost_json(cost: Cost) -> dict[str, Any]:
    counts = cost.parameters
    sums = {
        "encoder": counts.encoder,
        "without_embeddings": counts.without_embeddings,
        "total": counts.total,
        "sparsity": counts.sparsity,
    }
    return {**asdict(cost), "parameters": asdict(counts) | sums}


def _pipe_table(grid: Grid) -> str:
    rule = (":--", *["--:"] * (len(grid.columns) - 1))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (grid.columns, rule, *grid.rows))
