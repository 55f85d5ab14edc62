"""The report's figures, from stored records alone: each a function from results to a matplotlib figure."""

from suites.figures.indicators import indicator_figure, indicator_pair
from suites.figures.look import save_figure
from suites.figures.scores import score_figure

__all__ = ["indicator_figure", "indicator_pair", "save_figure", "score_figure"]
