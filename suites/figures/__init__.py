"""The report's figures, from stored records alone: each a function from results to a matplotlib figure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gppdfd.drawing import style
from suites.figures.ablation import ablation_figure
from suites.figures.binarisation import binarisation_figure
from suites.figures.curves import snapshot_figure
from suites.figures.fusion import fusion_figure
from suites.figures.indicators import indicator_figure
from suites.figures.matrix import matrix_figure
from suites.figures.places import Wanted
from suites.figures.ranks import rank_figure
from suites.figures.schedules import schedule_figure
from suites.figures.scores import score_figure
from suites.figures.structures import structure_grid
from suites.figures.tradeoffs import cost_figure, pareto_figure
from suites.records import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_METHODS = 30
"""A figure with a line or a bar per method tells no more of them apart."""

FEW = f", and no more than {MOST_METHODS} methods"


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        name: of its files.
        caption: what it shows and by which rules.
        needs: what it is drawn from, for the reader of a report that lacks it.
        draw: the figure, or None where no finished run has what it shows.
        by_method: whether it has a line or a bar per method, so that many of them are too many.
    """

    name: str
    caption: str
    needs: str
    draw: Callable[[Results, Wanted], "Figure | None"]
    by_method: bool = False

    def figure(self, results: Results, wanted: Wanted) -> "Figure | None":
        """The figure in the common style, showing single runs of the task, sparsity and seed in `wanted`."""
        if self.by_method and len({record.method for record in results.records.values()}) > MOST_METHODS:
            return None
        with style():
            return self.draw(results, wanted)


DRAWINGS = (
    Drawing(
        "score_against_sparsity",
        "Score against sparsity: primary metric of each task, and the average over the tasks. Points stand "
        "at the sparsity reached; bands are standard deviations over seeds; hollow points are no evidence, "
        "missed their target or are on other data than most runs. "
        "Letters are published values (dev, whole units removed), beside runs on real GLUE data alone.",
        "a finished student" + FEW,
        score_figure,
        by_method=True,
    ),
    Drawing(
        "score_against_speedup",
        "Average score against measured speedup, sparsity rising along each line; error bars are standard deviations "
        "over seeds; hollow points missed their target or are on other data than most runs. The dashed front joins "
        "the points that no other beats in both. Timed beside other work: a first impression.",
        "students with measured latency that finished all tasks" + FEW,
        pareto_figure,
        by_method=True,
    ),
    Drawing(
        "ablation",
        "Differences to the reference method, paired over tasks and seeds, in points of the primary metric; bars are "
        "means, whiskers their 95 % t intervals from three pairs (n) on, worse ones hatched.",
        "the reference method and another on the same task, sparsity and seed" + FEW,
        ablation_figure,
        by_method=True,
    ),
    Drawing(
        "pruner_distiller_matrix",
        "Average score of every pruner with every distiller (± standard deviation over seeds), both sorted by their "
        "means; dotted where not all tasks are finished, starred where runs missed their target or are on other data "
        "than most. Names without their options where these tell nothing apart.",
        "two pruners with two distillers each",
        matrix_figure,
    ),
    Drawing(
        "critical_difference",
        "Average ranks of the methods over tasks (mean over seeds, ties shared). Methods under one bar do not differ "
        "significantly (Nemenyi test at 5 %). Rows with runs that missed their target or are on other data than most "
        "have no rank and are named.",
        "three methods that finished three tasks",
        rank_figure,
    ),
    Drawing(
        "score_against_cost",
        "Average score against the wall time of search, extraction and recovery, teacher not included; error bars are "
        "standard deviations over seeds; hollow points missed their target or are on other data than most runs.",
        "students that finished all tasks" + FEW,
        cost_figure,
        by_method=True,
    ),
    Drawing(
        "indicators",
        "Indicator values of sampled units over the search, one column per pruner: kept units solid, pruned units "
        "dashed, the scheduled sparsity dotted on the same scale. Masks are those of training: random draws under "
        "L0.",
        "a student with stored indicators",
        indicator_figure,
    ),
    Drawing(
        "binarisation",
        "Scores with the masks of the last search step (under L0, which trains with random draws, the deterministic "
        "ones) and right after these became binary, before any recovery, and of the finished model; means of the "
        "primary metric over tasks and seeds, each panel sorted by the loss.",
        "a student that searched and noted both scores" + FEW,
        binarisation_figure,
        by_method=True,
    ),
    Drawing(
        "schedules",
        "Sparsity that each pruner schedules over its search; pruners with the same schedule share a line, the dotted "
        "one is the target.",
        "a student whose pruner logs a schedule",
        schedule_figure,
    ),
    Drawing(
        "structure",
        "Units kept in each layer, by method: number in the cell, share as its shade.",
        "a student with counts of kept units",
        structure_grid,
    ),
    Drawing(
        "fusion_weights",
        "Fusion weights of dual feature distillation, mean over about the last 100 steps of training.",
        "a student whose distiller noted its fusions",
        fusion_figure,
    ),
    Drawing(
        "snapshots",
        "Loss parts (means over ten steps) and scheduled sparsity over training; dotted lines are the snapshots that "
        "the contrastive loss compares with.",
        "a student whose distiller took snapshots",
        snapshot_figure,
    ),
)
