"""`python -m suites.report paper`: for each of five papers, the counterpart of its tables and figures from our runs.

Published values stand in tables of their own, those of SQuAD and CoNLL too, which this suite does not run; in figures
they are drawn where our runs are on real GLUE data. What a paper's own tables are is known of CoFi and GRAIN; for the
others the lists of their ablations are followed.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from gppdfd.cli import parse
from gppdfd.drawing import save_figure
from gppdfd.errors import UsageError
from gppdfd.files import write_text
from suites.cells import GLUE, metric_label
from suites.comparison_tables import ablation_table, distiller_table, matrix_table, pruner_table, unit_table
from suites.cost_tables import size_table, structure_table, training_table
from suites.figures import DRAWINGS
from suites.figures.places import NOTHING
from suites.formats import Block, Cell, Column, Number, Row, Table, to_markdown, write_table
from suites.provenance import protocol
from suites.published import PublishedRow, PublishedScore, shipped
from suites.published_rows import as_printed, info_cells
from suites.records import Results, read_results
from suites.store import Store
from suites.tables import main_table

OUT = Path("results/paper")
Make = Callable[[Results, str], Table | None]
TABLES: dict[str, Make] = {
    "main": main_table,
    "ablation_table": ablation_table,
    "units": unit_table,
    "distillers": distiller_table,
    "pruners": pruner_table,
    "matrix": matrix_table,
    "size": size_table,
    "structure_table": structure_table,
    "training": training_table,
}
FIGURES = {drawing.name: drawing for drawing in DRAWINGS}
_OTHERS = {"mnli-mm": "MNLI-mm", "squad": "SQuAD", "squad_v2": "SQuAD 2.0", "conll2003": "CoNLL 2003"}
_TITLES = {"mnli": "MNLI-m"} | {task: title for title, task, split in GLUE if split is None} | _OTHERS
_ORDER = [task for _, task, split in GLUE if split != "mismatched"]
ABSENT = frozenset({"squad", "squad_v2", "conll2003"})


@dataclass(frozen=True)
class Item:
    """A table or figure of a paper (`of`), and what stands for it: `shows` of the runs of `suite`.

    `sources` are the keys of published numbers that belong to it.
    """

    of: str
    suite: str
    shows: str
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.suite}_{self.shows}"


@dataclass(frozen=True)
class Paper:
    """A paper, what is known of its numbers, and its items in the order of the page."""

    title: str
    known: str
    items: tuple[Item, ...]


PAPERS = {
    "gpp_dfd": Paper(
        "GPP+DFD (Zhang et al. 2024, Neural Networks, 106533)",
        "None of its numbers could be obtained, so none stands here; the list follows its modules.",
        (
            Item("main results", "glue_main", "main"),
            Item("score against sparsity", "glue_main", "score_against_sparsity"),
            Item("score against speedup", "glue_main", "score_against_speedup"),
            Item("methods ranked over tasks", "glue_main", "critical_difference"),
            Item("ablation of pruning", "gpp_ablation", "ablation_table"),
            Item("differences to GPP", "gpp_ablation", "ablation"),
            Item("the path of the indicators", "gpp_ablation", "indicators"),
            Item("what binarisation costs", "gpp_ablation", "binarisation"),
            Item("sparsity schedules", "gpp_ablation", "schedules"),
            Item("kept structure", "gpp_ablation", "structure"),
            Item("ablation of distillation", "dfd_ablation", "ablation_table"),
            Item("differences to DFD", "dfd_ablation", "ablation"),
            Item("fusion weights", "dfd_ablation", "fusion_weights"),
            Item("every pruner with every distiller", "cross", "pruner_distiller_matrix"),
        ),
    ),
    "cofi": Paper(
        "CoFi (Xia et al. 2022, ACL, arXiv 2204.00408)",
        "Tables 1 to 5 and 9 are known, figures 2 and 7 read off. Seeds are not stated.",
        (
            Item("Tables 1 and 2: main results", "glue_main", "main", ("cofi_t1", "cofi_t2")),
            Item("Figure 2: score against sparsity", "cofi_ablation", "score_against_sparsity", ("cofi_fig2",)),
            Item("Table 1: score against speedup", "glue_main", "score_against_speedup"),
            Item("Table 4: kinds of units", "cofi_ablation", "units", ("cofi_t4",)),
            Item("Table 5: distillation", "cofi_ablation", "ablation_table", ("cofi_t5",)),
            Item("differences to CoFi", "cofi_ablation", "ablation"),
            Item("structures of pruned models", "cofi_ablation", "structure"),
            Item("indicators of L0", "cofi_ablation", "indicators"),
        ),
    ),
    "grain": Paper(
        "GRAIN (Yang et al. 2023, ACL, arXiv 2212.07634)",
        "Tables 1 to 8 are known: means of three seeds on dev, CoNLL on test. Densities are turned into sparsities.",
        (
            Item("Tables 1 and 7: main results", "glue_main", "main", ("grain_t1", "grain_t7")),
            Item("score against sparsity", "grain_ablation", "score_against_sparsity"),
            Item("Table 2: ablation", "grain_ablation", "ablation_table", ("grain_t2",)),
            Item("differences to GRAIN", "grain_ablation", "ablation"),
            Item("Table 3: kinds of units", "grain_ablation", "units", ("grain_t3",)),
            Item("Table 6: structures", "grain_ablation", "structure_table"),
            Item("structures, layer by layer", "grain_ablation", "structure"),
            Item("sizes and speed", "glue_main", "size"),
        ),
    ),
    "cap": Paper(
        "CAP (Xu et al. 2022, AAAI, arXiv 2112.07198)",
        "Its own tables could not be obtained; others quote unstructured CAP-m and CAP-soft.",
        (
            Item("main results", "glue_main", "main", ("smp_t1", "cap_issue1")),
            Item("score against sparsity", "cap_ablation", "score_against_sparsity"),
            Item("ablation of the modules", "cap_ablation", "ablation_table"),
            Item("differences to CAP-f", "cap_ablation", "ablation"),
            Item("snapshots and losses", "cap_ablation", "snapshots"),
            Item("cost of training", "cap_ablation", "training"),
        ),
    ),
    "fcd": Paper(
        "FCD (Huang et al. 2023, NeurIPS 36)",
        "None of its numbers could be obtained. Our runs use its loss in a task-specific setting.",
        (
            Item("main results", "glue_main", "main"),
            Item("distillers on one pruner", "dfd_ablation", "distillers"),
            Item("differences to DFD", "dfd_ablation", "ablation"),
            Item("every pruner with every distiller", "cross", "matrix"),
            Item("score against cost of training", "dfd_ablation", "score_against_cost"),
        ),
    ),
}


def write_papers(store: Path, preset: str, out: Path) -> list[Path]:
    """Write a folder per paper and an index; returns the files, the index first.

    Raises:
        UsageError: none of the suites was launched with this preset.
        DataError: a stored file is broken.
    """
    launched = lru_cache(maxsize=None)(lambda suite: _results(store, suite, preset))
    suites = dict.fromkeys(item.suite for paper in PAPERS.values() for item in paper.items)
    if not any(map(launched, suites)):
        first = _launch(next(iter(suites)), preset)
        raise UsageError(
            f"{store}: none of {', '.join(suites)} was launched with preset {preset}: {first} is the first"
        )
    written = [path for name, paper in PAPERS.items() for path in _write_paper(paper, launched, preset, out / name)]
    index = out / "README.md"
    lines = [f"- [{paper.title}]({name}/README.md)" for name, paper in PAPERS.items()]
    write_text(index, "\n".join([f"# Counterparts of five papers, preset {preset}", "", *lines, ""]))
    return [index, *written]


def _results(store: Path, suite: str, preset: str) -> Results | None:
    plan = Store(store).plan_path(suite, preset)
    return read_results(plan, store) if plan.is_file() else None


def _launch(suite: str, preset: str) -> str:
    return f"`python -m suites.run {suite} --preset {preset}`"


def _write_paper(paper: Paper, launched: Callable[[str], Results | None], preset: str, folder: Path) -> Iterator[Path]:
    parts = [f"# {paper.title}", paper.known]
    for item in paper.items:
        text, paths = _write_item(item, launched(item.suite), preset, folder)
        parts += [f"## {item.of[0].upper()}{item.of[1:]}", text]
        yield from paths
    page = folder / "README.md"
    write_text(page, "\n\n".join(parts) + "\n")
    yield page


def _write_item(item: Item, results: Results | None, preset: str, folder: Path) -> tuple[str, list[Path]]:
    """Markdown and files of one item."""
    ours, paths = _ours(item, results, preset, folder)
    rows = [row for row in shipped() if row.key.source.key in item.sources]
    if not rows:
        return ours, paths
    table = as_published(f"{item.name}_published", f"{item.of}: as published", rows)
    return f"{ours}\n\n{to_markdown(table)}", [*paths, *write_table(table, folder)]


def _ours(item: Item, results: Results | None, preset: str, folder: Path) -> tuple[str, list[Path]]:
    if results is None:
        return f"*Not launched: {_launch(item.suite, preset)}.*", []
    if item.shows in FIGURES:
        return _our_figure(item, results, folder)
    table = TABLES[item.shows](results, f"{item.of}: {item.suite}, preset {preset}")
    if table is None:
        return f"*`{item.suite}` has no finished runs for this table.*", []
    table = replace(table, name=item.name)
    return to_markdown(table), write_table(table, folder)


def _our_figure(item: Item, results: Results, folder: Path) -> tuple[str, list[Path]]:
    drawing = FIGURES[item.shows]
    figure = drawing.figure(results, NOTHING)
    if figure is None:
        return f"*Not drawn; it needs {drawing.needs} in `{item.suite}`.*", []
    caption = f"{drawing.caption} Suite {item.suite}, {protocol(results)}"
    return f"![{item.of}]({item.name}.png)\n\n{caption}", save_figure(figure, item.name, folder)


# --- published values ---


def as_published(name: str, caption: str, rows: Sequence[PublishedRow]) -> Table:
    """All numbers of some published rows, a block for each way of taking scores, tasks in the order of GLUE."""
    keys = sorted({_place(score) for row in rows for score in row.scores}, key=_rank)
    blocks = defaultdict(list)
    for row in rows:
        title = f"published, {row.key.protocol.words}"
        cells = (*_size(row), *info_cells(row), *_values(row, keys))
        blocks[title].append(Row(row.label, cells, (row.reference,)))
    infos = map(Column, ("removed (%)", "backbone", "split", "augmented", "seeds"))
    absent = sorted({_TITLES[task] for task, _ in keys if task in ABSENT})
    missing = [f"{' and '.join(absent)}: not in this suite, so published values are all there is."] if absent else []
    notes = ("Published values only, in percent as their sources print them; none was measured here.", *missing)
    return Table(
        name,
        caption,
        ("protocol", "model"),
        (*infos, *(Column(f"{_TITLES.get(task, task)} {metric_label(metric) or 'unnamed'}") for task, metric in keys)),
        tuple(Block(title, tuple(found)) for title, found in blocks.items()),
        notes,
    )


def _place(score: PublishedScore) -> tuple[str, str]:
    return score.task, score.metric


def _rank(place: tuple[str, str]) -> tuple[int, str, str]:
    """GLUE's order, mismatched behind matched, others behind."""
    task = place[0].removesuffix("-mm")
    return (_ORDER.index(task) if task in _ORDER else len(_ORDER), *place)


def _size(row: PublishedRow) -> Iterator[Cell]:
    yield Cell((Number(f"{100 * row.key.sparsity:g}"),) if row.key.sparsity is not None else ())


def _values(row: PublishedRow, keys: Iterable[tuple[str, str]]) -> Iterator[Cell]:
    values = {_place(score): as_printed(score) for score in row.scores}
    for key in keys:
        yield Cell((values[key],) if key in values else (), ranked=False)


# --- the command ---


def paper_command(arguments: Sequence[str]) -> int:
    """`python -m suites.report paper`."""
    options = parse(_parser(), arguments)
    written = write_papers(options.store, options.preset, options.out or OUT / options.preset)
    print("\n".join(map(str, written)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.report paper", description=__doc__)
    where = "folder of the runs (default: results/runs)"
    parser.add_argument("--from", dest="store", type=Path, default=Path("results/runs"), metavar="STORE", help=where)
    parser.add_argument("--preset", default="micro", help="preset that the suites were launched with (default: micro)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where to (default: {OUT}/PRESET)")
    return parser
