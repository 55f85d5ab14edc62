"""Figures: that they show the stored numbers, and that nothing is clipped or hidden."""

from itertools import combinations
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from gppdfd.errors import UsageError
from suites.figures import indicator_figure, indicator_pair, save_figure, score_figure
from suites.figures.indicators import scheduled_sparsity, soft_twin
from suites.figures.look import looks_of, style
from suites.figures.scores import score_panels
from suites.records import Results, read_indicators, read_results
from tests.suites.fake_store import METHODS, STEPS, FakeStore, full_store

PAIR = ("gpp+dfd", "gpp(mask=hard_gradual)+dfd")


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = full_store(tmp_path_factory.mktemp("runs"), sparsities=(0.5, 0.8, 0.95), seeds=(1, 2))
    return read_results(store.plan_file, store.root)


def results_of(store: FakeStore) -> Results:
    return read_results(store.save_plan(), store.root)


# --- score against sparsity ---


def test_a_panel_per_task_in_the_order_of_the_table_and_the_average_last(grid: Results) -> None:
    titles = [panel.title.split()[0] for panel in score_panels(grid)]
    assert titles == ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI-m", "QNLI", "RTE", "average"]


def test_panels_hold_means_spreads_and_levels(store: FakeStore) -> None:
    for seed, value in ((1, 0.7), (2, 0.8)):
        store.finish(store.add("rte", seed=seed), {"validation": [0.9]})
        store.finish(store.add("rte", "gpp+dfd", 0.8, seed), {"validation": [value]}, size={"sparsity": 0.81})
    (panel,) = score_panels(results_of(store))
    assert (panel.title, panel.teacher, panel.majority) == ("RTE (acc)", 90.0, 50.0)
    (point,) = panel.curves["gpp+dfd"]
    np.testing.assert_allclose((point.sparsity, point.score, point.sd), (0.81, 75.0, 100 * np.std([0.7, 0.8], ddof=1)))


def test_missing_scores_break_the_line_and_weak_ones_are_hollow(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.5), {"validation": [0.8]})
    store.add("rte", "gpp+dfd", 0.8)
    store.finish(store.add("rte", "gpp+dfd", 0.95), {"validation": [0.505]})
    results = results_of(store)
    first, lost, weak = score_panels(results)[0].curves["gpp+dfd"]
    assert (first.weak, weak.weak) == (False, True)
    assert lost.sparsity == 0.8
    assert isnan(lost.score)
    hollow = [line for line in score_figure(results).axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata().tolist() for line in hollow] == [[50.5]]


def test_the_figure_draws_the_panels(grid: Results) -> None:
    figure = score_figure(grid)
    for axis, panel in zip(figure.axes, score_panels(grid), strict=True):
        drawn = {tuple(round(float(y), 6) for y in line.get_ydata()) for line in axis.lines}
        assert {tuple(round(point.score, 6) for point in curve) for curve in panel.curves.values()} <= drawn


def test_error_bars_of_neighbours_stay_apart(grid: Results) -> None:
    axis = score_figure(grid).axes[0]
    starts = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 3]
    assert len({round(start, 9) for start in starts}) == len(METHODS)
    assert max(starts) - min(starts) < 0.05


def test_every_method_looks_different_also_without_colour() -> None:
    labels = [f"method {number}" for number in range(40)]
    with style():
        looks = list(looks_of(labels).values())
    assert len({str(look) for look in looks}) == 40
    grey = {(look["marker"], str(look["linestyle"])) for look in looks[:20]}
    assert len(grey) == 20


@pytest.mark.parametrize("tasks", [["rte"], ["rte", "mrpc"], ["rte", "mrpc", "cola", "stsb"]])
def test_small_suites_have_a_figure_too(tmp_path: Path, tasks: list[str]) -> None:
    store = full_store(tmp_path, tasks=tasks, methods=["gpp+dfd"], sparsities=[0.8])
    figure = score_figure(read_results(store.plan_file, store.root))
    assert sum(axis.axison for axis in figure.axes) == len(tasks) + (len(tasks) > 1)
    assert_tidy(figure)


def test_nothing_is_clipped_or_hidden(grid: Results) -> None:
    assert_tidy(score_figure(grid))


def assert_tidy(figure: Figure) -> None:
    """All texts lie inside the figure, tick labels do not touch, the legend covers no panel."""
    with style():
        figure.draw_without_rendering()
        whole = figure.bbox
        for axis in filter(lambda axis: axis.axison, figure.axes):
            tight = axis.get_tightbbox()
            assert whole.x0 <= tight.x0
            assert tight.x1 <= whole.x1
            assert tight.y1 <= whole.y1
            assert not any(legend.get_window_extent().overlaps(tight) for legend in figure.legends)
            low, high = sorted(axis.get_xlim())
            ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=False)
            labels = [text.get_window_extent() for tick, text in ticks if low <= tick <= high]
            assert not any(one.overlaps(other) for one, other in combinations(labels, 2))
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert box.x0 >= whole.x0
            assert box.x1 <= whole.x1
            assert box.y0 >= whole.y0


# --- indicators ---


@pytest.mark.parametrize(
    ("method", "twin"),
    [
        ("gpp(mask=hard_gradual)+dfd", "gpp+dfd"),
        ("gpp(floor=2,mask=hard_gradual)+dfd(window=3)", "gpp(floor=2)+dfd(window=3)"),
        ("gpp(mask=hard_gradual,floor=2)+none", "gpp(floor=2)+none"),
        ("gpp(mask=hard_once)+dfd", None),
        ("gpp+dfd", None),
    ],
)
def test_the_smooth_twin_of_a_hard_method(method: str, twin: str | None) -> None:
    assert soft_twin(method) == twin


def test_the_first_finished_pair_is_shown_or_the_one_asked_for(store: FakeStore) -> None:
    lonely = store.add("rte", PAIR[1], 0.8)
    store.finish(lonely)
    store.add("rte", PAIR[0], 0.8)
    for task, sparsity in (("mrpc", 0.8), ("mrpc", 0.95), ("cola", 0.8)):
        for method in PAIR:
            store.finish(store.add(task, method, sparsity))
    results = results_of(store)
    first = indicator_pair(results)
    assert first is not None
    assert [(run.task, run.sparsity, run.method) for run in first] == [("mrpc", 0.8, method) for method in PAIR]
    asked = indicator_pair(results, {"task": "mrpc", "sparsity": 0.95})
    assert asked is not None
    assert asked[0].sparsity == 0.95
    with pytest.raises(
        UsageError, match=r"task=rte. There is: task=mrpc sparsity=0\.8 seed=1; task=mrpc sparsity=0\.95"
    ):
        indicator_pair(results, {"task": "rte"})


def test_without_a_pair_there_is_none(store: FakeStore) -> None:
    store.finish(store.add("mrpc", "gpp+dfd", 0.8))
    assert indicator_pair(results_of(store)) is None


def test_each_unit_is_a_line_and_kept_ones_end_at_one(grid: Results) -> None:
    pair = indicator_pair(grid, {"task": "mrpc", "sparsity": 0.8, "seed": 2})
    assert pair is not None
    figure = indicator_figure(grid, pair)
    trace = read_indicators(grid.store / pair[0].run_id)
    for axis, kind in ((figure.axes[0], "head"), (figure.axes[2], "ffn")):
        pruned, kept = (found for found in axis.collections if isinstance(found, LineCollection))
        last = trace[(trace["kind"] == kind) & (trace["step"] == STEPS)]["z"]
        ends = [{line[-1][1] for line in lines.get_segments()} for lines in (pruned, kept)]
        assert ends == [{0.0}, {1.0}]
        assert [len(lines.get_segments()) for lines in (pruned, kept)] == [
            (last == 0).sum(),
            (last == 1).sum(),
        ]
    assert_tidy(figure)


def test_hard_masks_jump_and_smooth_ones_slope(grid: Results) -> None:
    pair = indicator_pair(grid)
    assert pair is not None
    smooth, hard = indicator_figure(grid, pair).axes[:2]
    slopes = [
        any(np.any((np.diff(line[:, 0]) != 0) & (np.diff(line[:, 1]) != 0)) for line in found.get_segments())
        for axis in (smooth, hard)
        for found in axis.collections
    ]
    assert slopes == [True, True, False, False]


def test_the_schedule_counts_the_steps_of_the_search(store: FakeStore) -> None:
    run = store.add("mrpc", "gpp+dfd", 0.8)
    folder = store.finish(run, steps={"before": 5})
    results = results_of(store)
    schedule = scheduled_sparsity(results, results.planned[0])
    assert schedule[0][0] == 0
    assert schedule[-1] == (STEPS - 5, 0.8)
    (folder / "history.jsonl").write_text('{"phase": "search", "step": 1}\n')
    assert scheduled_sparsity(results, results.planned[0]) == []


# --- files ---


def test_files_are_vector_pdf_and_200_dpi_png_and_always_the_same(grid: Results, tmp_path: Path) -> None:
    pair = indicator_pair(grid)
    assert pair is not None
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        figure = indicator_figure(grid, pair)
        pdf, png = save_figure(figure, "indicators", folder)
        contents.append((pdf.read_bytes(), png.read_bytes()))
    assert contents[0] == contents[1]
    assert b"/Type3" not in contents[0][0]
    assert b"/FontFile2" in contents[0][0]
    width, height = (int.from_bytes(contents[0][1][start : start + 4]) for start in (16, 20))
    np.testing.assert_allclose((width, height), 200 * figure.get_size_inches(), atol=1)
