"""GLUE's scores as a Hugging Face `evaluate` metric that needs no network."""

# `evaluate` copies this file and reads its imports line by line: one import per line, none of them relative.
import datasets
import evaluate
import numpy as np

from gppdfd.tasks.base import TaskSpec
from gppdfd.tasks.glue import task_spec
from gppdfd.tasks.metrics import score

_DESCRIPTION = "Official scores of the GLUE task given as configuration name."
_INPUTS = """
Args:
    predictions: class numbers, or values for stsb.
    references: the right answers.
Returns:
    accuracy, f1, matthews, pearson, spearman: those that are official for the task.
"""
_CITATION = "Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform, ICLR 2019, arXiv:1804.07461"


class GlueScore(evaluate.Metric):
    """`evaluate.load(folder, "mrpc").compute(predictions=..., references=...)`."""

    @property
    def _spec(self) -> TaskSpec:
        return task_spec(self.config_name)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float32" if self._spec.regression else "int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": value, "references": value}),
            reference_urls=["https://gluebenchmark.com/"],
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return score(self._spec, np.asarray(predictions), np.asarray(references))
