"""Sizes and FLOPs against counts by name and by hand; the report of a comparison."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from gppdfd.budget import forward_flops, prunable
from gppdfd.budget import parameters as budgeted
from gppdfd.errors import UsageError
from gppdfd.extraction import extract
from gppdfd.measure import Report, Row, Timed, flops, launch_bound, measure, parameters, unsteady
from gppdfd.measure_report import as_json, as_markdown, grids
from gppdfd.passes import Shape
from gppdfd.seeds import generator
from gppdfd.structure import KINDS, structure_of
from gppdfd.timing import Spread, TimingConfig
from tests.tiny import random_keep, tiny_model

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra")
BRIEF = TimingConfig(seconds=0.002, rounds=2)


def named(model: PreTrainedModel, *words: str, without: str = "-") -> int:
    """Parameters whose name has one of the words."""
    chosen = (
        size for name, size in sizes(model).items() if any(word in name for word in words) and without not in name
    )
    return sum(chosen)


def sizes(model: PreTrainedModel) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_parts_are_those_that_the_names_tell_and_sum_to_all(model_type: str, share: float) -> None:
    dense = tiny_model(model_type)
    keep = random_keep(dense, share)
    model = extract(dense, keep)
    found = parameters(model)
    assert found.total == sum(sizes(model).values())
    assert found.embeddings == named(model, ".embeddings.")
    assert found.layer_norms == named(model, "LayerNorm", without=".embeddings.") == 3 * 2 * 2 * 32
    assert found.other == named(model, "pooler", "classifier", "embeddings_project")
    assert found.encoder == budgeted(structure_of(dense), keep)
    assert found.attention == named(model, ".self.", "attention.output.dense")
    assert found.sparsity == pytest.approx(1 - found.encoder / prunable(structure_of(dense)))


def test_flops_equal_a_count_by_hand() -> None:
    """3 layers, hidden 32, 4 heads of 8, FFN 40; pooler and 3 classes see one token."""
    model, tokens = tiny_model(), 9
    projections, attention, feed_forward = 4 * 32 * 32, 2 * tokens * 32, 2 * 32 * 40
    encoder = 3 * 2 * tokens * (projections + attention + feed_forward)
    (found,) = flops(model, [tokens])
    assert (found.length, found.encoder, found.model) == (tokens, encoder, encoder + 2 * 32 * 32 + 2 * 32 * 3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "distilbert", "gpt2", "modernbert"])
def test_counts_of_an_extracted_model_equal_the_budgets(model_type: str, attention: str) -> None:
    """Keeps of all kinds at once."""
    model = tiny_model(model_type, attention=attention)
    shapes = {kind: structure_of(model).shape(kind) for kind in KINDS}
    keep = {kind: torch.rand(shape, generator=generator(0, kind)) < 0.6 for kind, shape in shapes.items()}
    small = extract(model, keep)
    assert parameters(small).encoder == budgeted(structure_of(model), keep)
    assert parameters(small).total == sum(sizes(small).values())
    for found in flops(small, [5, 12]):
        assert found.encoder == forward_flops(structure_of(model), keep, found.length)
    assert small.config._attn_implementation == attention


def compared(part: str = "model") -> Report:
    dense = tiny_model().eval()
    small = extract(dense, random_keep(dense))
    shapes = [Shape(batch, length) for length in (30, 50) for batch in (1, 2)]
    return measure(small, shapes, BRIEF, against=dense, part=part)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["model", "encoder"])
def test_comparison(part: str) -> None:
    report = compared(part)
    assert report.against is not None
    assert [row.shape for row in report.rows] == [Shape(1, 30), Shape(2, 30)]
    assert any("50" in note and "40 tokens" in note for note in report.notes)
    theirs, ours = (getattr(cost.flops[0], part) for cost in (report.against, report.model))
    for row in report.rows:
        assert row.against is not None
        assert row.speedup is not None
        assert 0 < row.speedup.low <= row.speedup.median <= row.speedup.high
        assert row.speedup.count == BRIEF.rounds
        assert row.flops_ratio == theirs / ours
        assert 0 < row.model.memory <= row.against.memory


def test_measuring_leaves_training_mode_and_attention_alone() -> None:
    model = tiny_model().train()
    measure(model, [Shape(1, 4)], BRIEF)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_no_length_fits() -> None:
    with pytest.raises(UsageError, match=r"--length.*40 tokens"):
        measure(tiny_model(), [Shape(1, 41)], BRIEF)


@pytest.mark.parametrize(("first", "noted"), [(4.9, True), (5.0, False)])
def test_launch_bound_under_half_of_the_largest_batch(first: float, noted: bool) -> None:
    rows = [row(1, first), row(8, 20.0), row(32, 10.0)]
    assert bool(launch_bound(rows)) == noted
    assert all("one sequence" in note and "4.9x" in note and "10.0x" in note for note in launch_bound(rows))


def test_launch_bound_needs_batch_one_and_a_comparison() -> None:
    assert launch_bound([row(8, 1.0), row(32, 10.0)]) == []
    assert launch_bound([replace(row(1, 1.0), speedup=None)]) == []


def test_launch_bound_is_not_said_of_noise() -> None:
    """A model against itself, and times that other processes disturbed."""
    assert launch_bound([row(1, 0.5), row(32, 1.1)]) == []
    assert len(launch_bound([row(1, 1.0), row(32, 10.0)])) == 1
    assert launch_bound([shaky(row(1, 1.0)), row(32, 10.0)]) == []
    assert launch_bound([row(1, 1.0), shaky(row(32, 10.0))]) == []
    unsteady_ratio = replace(row(1, 1.0), speedup=Spread(1.0, 0.5, 4.0, 5))
    assert launch_bound([unsteady_ratio, row(32, 10.0)]) == []


@pytest.mark.parametrize(("high", "noted"), [(1.2, False), (1.3, True)])
def test_unsteady_times_are_named(high: float, noted: bool) -> None:
    notes = unsteady([row(1, 2.0), shaky(row(4, 2.0), high)])
    assert bool(notes) == noted
    assert all("4 x 16" in note and "1 x 16" not in note for note in notes)


def row(batch: int, speedup: float) -> Row:
    timed = Timed(Spread(1.0, 1.0, 1.0, 1), memory=0)
    return Row(Shape(batch, 16), timed, timed, Spread(speedup, speedup, speedup, 1), 20.0)


def test_json_and_markdown_hold_the_numbers() -> None:
    report = compared()
    values, page = as_json(report), as_markdown(report)
    assert values["model"]["parameters"]["total"] == report.model.parameters.total
    assert values["against"]["parameters"]["sparsity"] == 0
    assert values["rows"][1]["shape"] == {"batch": 2, "length": 30}
    assert f"{report.model.parameters.total:,}" in page
    assert f"{report.rows[0].flops_ratio:.1f}" in page
    assert report.machine.device in page


@pytest.mark.parametrize("against", [False, True])
def test_tables_are_rectangular(against: bool) -> None:
    report = compared() if against else measure(tiny_model(), [Shape(1, 4)], BRIEF)
    for grid in grids(report):
        assert {len(row) for row in grid.rows} == {len(grid.columns)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_measures_on_a_gpu() -> None:
    report = measure(tiny_model().cuda(), [Shape(2, 8)], BRIEF)
    assert report.machine.device == torch.cuda.get_device_name()
    assert report.rows[0].model.memory > 0


def shaky(steady: Row, high: float = 2.0) -> Row:
    """`steady` with times whose upper quartile lies at `high`."""
    return replace(steady, model=Timed(Spread(1.0, 1.0, high, 5), memory=0))
