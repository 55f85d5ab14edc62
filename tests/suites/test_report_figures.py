"""Figures: that they show the stored numbers, and that nothing is clipped or hidden."""

import json
import re
from itertools import combinations, product
from math import isnan
from operator import attrgetter
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy import stats

from gppdfd.drawing import save_figure, style
from gppdfd.errors import UsageError
from suites.comparison_tables import ablation_table, matrix_table
from suites.figures import DRAWINGS, MOST_METHODS, Drawing
from suites.figures.ablation import ablation_figure, differences
from suites.figures.binarisation import binarisation_figure, passages
from suites.figures.curves import snapshot_figure
from suites.figures.fusion import fusion_figure, noted_matrices
from suites.figures.indicators import indicator_figure, scheduled_sparsity, traced_runs
from suites.figures.look import fill_lines, looks_of
from suites.figures.matrix import matrix_figure, pair_scores
from suites.figures.places import NOTHING, check_wanted, first_of_each, shown_runs
from suites.figures.ranks import cliques, rank_figure, ranking
from suites.figures.schedules import schedule_figure
from suites.figures.scores import score_figure, score_panels
from suites.figures.structures import shares, structure_grid
from suites.figures.tradeoffs import Point, front, pareto_figure, speedup, told_sparsities, trade_offs
from suites.records import Results, read_indicators, read_results
from tests.suites.fake_store import METHODS, STEPS, FakeStore, fake_notes, full_store

PAIR = ("gpp+dfd", "gpp(mask=hard_gradual)+dfd")


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path / "runs")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = full_store(tmp_path_factory.mktemp("runs"), sparsities=(0.5, 0.8, 0.95), seeds=(1, 2))
    return read_results(store.plan_file, store.root)


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


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
    hollow = [line for line in drawn(score_figure(results)).axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata().tolist() for line in hollow] == [[50.5]]


def test_the_legend_has_methods_with_finished_runs_alone(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    store.add("rte", "gpp+none", 0.8)
    names = [text.get_text() for text in drawn(score_figure(results_of(store))).legends[0].get_texts()]
    assert names == ["gpp+dfd", "teacher", "majority class"]


def test_the_figure_draws_the_panels(grid: Results) -> None:
    figure = drawn(score_figure(grid))
    for axis, panel in zip(figure.axes, score_panels(grid), strict=True):
        shown = {tuple(round(float(y), 6) for y in line.get_ydata()) for line in axis.lines}
        assert {tuple(round(point.score, 6) for point in curve) for curve in panel.curves.values()} <= shown


def test_bands_are_one_standard_deviation_wide(grid: Results) -> None:
    panel = score_panels(grid)[0]
    axis = drawn(score_figure(grid)).axes[0]
    for band, curve in zip(axis.collections, panel.curves.values(), strict=True):
        heights = {round(float(y), 6) for y in band.get_paths()[0].vertices[:, 1]}
        assert {round(point.score + sign * point.sd, 6) for point in curve for sign in (-1, 1)} <= heights


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
    figure = drawn(score_figure(read_results(store.plan_file, store.root)))
    assert sum(axis.axison for axis in figure.axes) == len(tasks) + (len(tasks) > 1)
    assert_tidy(figure)


def test_nothing_is_clipped_or_hidden(grid: Results) -> None:
    assert_tidy(drawn(score_figure(grid)))


def assert_tidy(figure: Figure) -> None:
    """All texts lie inside the figure, tick labels do not touch, the legend covers no panel."""
    with style():
        figure.draw_without_rendering()
        whole = figure.bbox
        for axis in filter(lambda axis: axis.axison, figure.axes):
            tight = axis.get_tightbbox()
            assert whole.x0 <= tight.x0
            assert tight.x1 <= whole.x1
            assert whole.y0 <= tight.y0
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


def test_figures_of_single_runs_show_the_place_with_most_methods(store: FakeStore) -> None:
    for method in PAIR:
        store.finish(store.add("mrpc", method, 0.8))
    for task, method, sparsity in (("rte", PAIR[0], 0.8), ("mrpc", PAIR[0], 0.95), ("cola", PAIR[0], 0.5)):
        store.finish(store.add(task, method, sparsity))
    store.add("rte", PAIR[1], 0.8)
    results = results_of(store)
    assert [(run.task, run.sparsity, run.method) for run in shown_runs(results)] == [
        ("mrpc", 0.8, each) for each in PAIR
    ]
    assert [run.task for run in shown_runs(results, {"task": "rte"})] == ["rte"]
    assert [run.sparsity for run in shown_runs(results, {"task": "mrpc", "sparsity": 0.95})] == [0.95]
    assert shown_runs(results, shows=lambda run: run.task == "qnli") == []
    check_wanted(results, {"task": "cola"})
    with pytest.raises(
        UsageError, match=r"task=qnli. There is: task=mrpc sparsity=0\.8 seed=1; task=rte sparsity=0\.8"
    ):
        check_wanted(results, {"task": "qnli"})


def test_one_run_per_pruner_in_the_order_of_the_plan(grid: Results) -> None:
    pruners = [run.pruner for run in first_of_each(shown_runs(grid), attrgetter("pruner"))]
    assert pruners == ["gpp", "gpp(mask=hard_gradual)", "magnitude", "random"]
    assert [run.method for run in traced_runs(grid)] == list(PAIR)


def test_variants_with_the_same_masks_are_shown_once(store: FakeStore) -> None:
    methods = (
        "gpp+dfd",
        "gpp(l1=0)+dfd",
        "gpp(l1=0,mask=hard_once)+dfd",
        "gpp(mask=hard_once)+dfd",
        "l0+dfd",
        "upop+dfd",
    )
    for method in methods:
        folder = store.finish(store.add("rte", method, 0.8))
        (folder / "indicators.parquet").touch()
    assert [run.method for run in traced_runs(results_of(store))] == [methods[0], methods[2], "l0+dfd", "upop+dfd"]


# --- binarisation ---


def test_scores_around_binarisation_are_means_sorted_by_their_loss(store: FakeStore) -> None:
    for method, before, after in ((PAIR[0], 0.8, 0.75), (PAIR[1], 0.7, 0.4)):
        for task in ("rte", "mrpc"):
            scores = {
                moment: {"validation": {"accuracy": value, "f1": value}}
                for moment, value in (
                    ("before", before),
                    ("after", after),
                )
            }
            store.finish(
                store.add(task, method, 0.8), {"validation": [0.9, 0.9][: 1 + (task == "mrpc")]}, binarisation=scores
            )
    store.add("cola", PAIR[0], 0.8)
    found = passages(results_of(store))
    np.testing.assert_allclose([row[1:] for row in found[0.8]], [(70, 40, 90), (80, 75, 90)])
    assert [row.label for row in found[0.8]] == [PAIR[1], f"{PAIR[0]} (2 of 3 runs)"]


def test_the_figure_of_binarisation_is_tidy(grid: Results) -> None:
    assert_tidy(drawn(binarisation_figure(grid)))


def test_runs_without_scores_around_binarisation_are_left_out(store: FakeStore) -> None:
    store.finish(store.add("rte", "none+logits", 0.8), binarisation=None)
    assert binarisation_figure(results_of(store)) is None


# --- single runs ---


def test_without_traces_there_is_no_figure_of_indicators(store: FakeStore) -> None:
    store.finish(store.add("mrpc", "gpp+none", 0.8))
    assert indicator_figure(results_of(store)) is None


def test_each_unit_is_a_line_and_kept_ones_end_at_one(grid: Results) -> None:
    wanted = {"task": "mrpc", "sparsity": 0.8, "seed": 2}
    figure = drawn(indicator_figure(grid, wanted))
    trace = read_indicators(grid.store / traced_runs(grid, wanted)[0].run_id)
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
    smooth, hard = drawn(indicator_figure(grid)).axes[:2]
    slopes = [
        any(np.any((np.diff(line[:, 0]) != 0) & (np.diff(line[:, 1]) != 0)) for line in found.get_segments())
        for axis in (smooth, hard)
        for found in axis.collections
    ]
    assert slopes == [True, True, False, False]


def test_kinds_that_a_pruner_leaves_alone_are_said_to_be(store: FakeStore) -> None:
    for method in PAIR:
        store.finish(store.add("mrpc", method, 0.8))
    trace = store.root / store.plan[1]["run_id"] / "indicators.parquet"
    units = pd.read_parquet(trace)
    last = units[(units["kind"] == "head") & (units["step"] == STEPS)].assign(kind="qk")
    pd.concat([units[units["kind"] == "ffn"], last]).to_parquet(trace)
    figure = drawn(indicator_figure(results_of(store)))
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [[], ["not pruned"], ["not pruned"], ["follows from the others"], [], []]


def test_the_schedule_counts_the_steps_of_the_search(store: FakeStore) -> None:
    run = store.add("mrpc", "gpp+dfd", 0.8)
    folder = store.finish(run, steps={"before": 5})
    results = results_of(store)
    schedule = scheduled_sparsity(results, results.planned[0])
    assert schedule[0][0] == 0
    assert schedule[-1] == (STEPS - 5, 0.8)
    (folder / "history.jsonl").write_text('{"phase": "search", "step": 1}\n')
    assert scheduled_sparsity(results, results.planned[0]) == []


# --- the others ---


def test_differences_are_paired_and_have_t_intervals(store: FakeStore) -> None:
    values = {"gpp+dfd": (0.8, 0.7, 0.9), "gpp+none": (0.7, 0.65, 0.7), "random+dfd": (0.9,), "none": (0.7, 0.8)}
    for method, scores in values.items():
        for seed, score in enumerate(scores, start=1):
            store.finish(store.add("rte", method, 0.8, seed), {"validation": [score]})
    found = differences(results_of(store))
    expected = np.array([-10.0, -5.0, -20.0])
    low, high = stats.ttest_1samp(expected, 0).confidence_interval(0.95)
    assert found[0.8]["gpp+none"] == pytest.approx((expected.mean(), (high - low) / 2, 3))
    assert found[0.8]["random+dfd"].mean == pytest.approx(10)
    assert isnan(found[0.8]["random+dfd"].margin)
    assert isnan(found[0.8]["none"].margin), "an interval of two pairs says nothing"
    figure = drawn(ablation_figure(results_of(store)))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["random+dfd", "none", "gpp+none"]
    assert_tidy(figure)


def test_the_front_holds_what_no_other_point_beats() -> None:
    points = [Point(0.5, x, score, 0) for x, score in ((1, 90), (2, 80), (3, 85), (3, 70), (4, 85), (5, 10))]
    assert [(point.x, point.score) for point in front(points)] == [(1, 90), (4, 85), (5, 10)]


def test_labels_of_the_front_keep_apart() -> None:
    best = [Point(sparsity, x, 80, 0) for sparsity, x in ((0.5, 1), (0.8, 1.2), (0.8, 3), (0.95, 3.3), (0.95, 5))]
    assert [(point.sparsity, point.x) for point in told_sparsities(best, 5, 9)] == [(0.5, 1), (0.8, 3), (0.95, 5)]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_a_search_over_all_pairs_finds(pairs: list[tuple[int, int]]) -> None:
    found = {(point.x, point.score) for point in front(Point(0.5, x, score, 0) for x, score in pairs)}
    beaten = {one for one in pairs for other in pairs if other != one and other[0] >= one[0] and other[1] >= one[1]}
    assert found == set(pairs) - beaten


def test_trade_offs_are_means_over_runs(store: FakeStore) -> None:
    for seed, speed in ((1, 2.0), (2, 4.0)):
        run = store.add("rte", "gpp+dfd", 0.8, seed)
        store.finish(run, {"validation": [0.6 + 0.1 * seed]}, latency={"speedup": speed})
    (point,) = trade_offs(results_of(store), speedup)["gpp+dfd"]
    assert point == pytest.approx((0.8, 3.0, 75.0, 100 * np.std([0.7, 0.8], ddof=1), False))


def test_without_latency_there_is_no_pareto_front(store: FakeStore) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8), latency=None)
    assert pareto_figure(results_of(store)) is None


def test_the_matrix_holds_pairs_that_cross(grid: Results) -> None:
    (scores,) = {frozenset(panel) for panel in pair_scores(grid).values()}
    # Only gpp meets several distillers, and dfd several pruners: nothing crosses.
    assert scores == frozenset()
    assert matrix_figure(grid) is None


def test_the_matrix_holds_the_pairs_of_its_table(store: FakeStore) -> None:
    """Partners count over the whole plan: `gpp+fcd` has its second pruner at another sparsity."""
    pairs = [("gpp+dfd", 0.8), ("gpp+none", 0.8), ("gpp+fcd", 0.8), ("random+dfd", 0.8), ("random+none", 0.8)]
    for method, sparsity in [*pairs, ("random+fcd", 0.5)]:
        store.finish(store.add("rte", method, sparsity))
    results = results_of(store)
    table = matrix_table(results, "caption")
    assert table is not None
    shown = {block.title: sum(bool(cell.numbers) for row in block.rows for cell in row.cells) for block in table.blocks}
    assert {f"{sparsity:g}": len(scores) for sparsity, scores in pair_scores(results).items()} == shown
    assert ("gpp", "fcd") in pair_scores(results)[0.8]


def test_the_matrix_shows_means_best_first(store: FakeStore) -> None:
    values = {"gpp+dfd": 0.9, "gpp+none": 0.8, "random+dfd": 0.7, "random+none": 0.6, "magnitude+dfd": 0.99}
    for method, value in values.items():
        store.finish(store.add("rte", method, 0.8), {"validation": [value]})
    axis = drawn(matrix_figure(results_of(store))).axes[0]
    assert [text.get_text() for text in axis.texts] == ["90.0", "80.0", "70.0", "60.0"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["gpp", "random"]


def test_the_matrix_of_all_tasks_is_tidy(tmp_path: Path) -> None:
    pairs = [f"{pruner}+{distiller}" for pruner in ("soft-movement", "l0") for distiller in ("dfd", "contrastive")]
    store = full_store(tmp_path, methods=pairs)
    assert_tidy(drawn(matrix_figure(read_results(store.plan_file, store.root))))


def test_the_matrix_leaves_options_out_where_names_are_clear_without(store: FakeStore) -> None:
    for pruner, distiller in product(("gpp", "gpp(mask=hard_once)"), ("dfd(teacher_fusion=off,weight=0.125)", "none")):
        run = store.add("rte", f"{pruner}+{distiller}", 0.8, label=f"{pruner} and {distiller}")
        store.finish(run)
    axis = drawn(matrix_figure(results_of(store))).axes[0]
    assert {text.get_text() for text in axis.get_xticklabels()} == {"dfd", "none"}
    assert {text.get_text() for text in axis.get_yticklabels()} == {"gpp", "gpp(mask=hard_once)"}


@pytest.mark.parametrize(
    ("ranks", "joined"),
    [([1, 2, 3, 4], [(0, 1), (1, 2), (2, 3)]), ([1, 1.5, 2, 4], [(0, 2)]), ([1, 3, 5], [])],
)
def test_cliques_are_the_longest_runs_within_the_difference(ranks: list[float], joined: list[tuple]) -> None:
    assert cliques(ranks, 1.0) == joined


def test_too_few_tasks_have_no_ranking(store: FakeStore) -> None:
    for task in ("rte", "mrpc"):
        for method in METHODS[:4]:
            store.finish(store.add(task, method, 0.8))
    assert rank_figure(results_of(store)) is None


@pytest.fixture
def unlike(store: FakeStore) -> Results:
    """Pairs of which one missed its target and another ran on other data in one of three tasks."""
    strange = {"gpp+none": {"size": {"sparsity": 0.7}}, "random+none": {"data": {"content": "other"}}}
    for task in ("rte", "mrpc", "cola"):
        for method in ("gpp+dfd", "gpp+none", "random+dfd", "random+none", "depth+dfd"):
            store.finish(store.add(task, method, 0.8), **(strange.get(method, {}) if task == "rte" else {}))
    return results_of(store)


def test_runs_unlike_others_have_no_rank_and_are_named(unlike: Results) -> None:
    found = ranking(unlike, 0.8)
    assert found is not None
    assert set(found.mean) == {"gpp+dfd", "random+dfd", "depth+dfd"}
    told = "gpp+none (missed its sparsity target); random+none (other data on RTE)"
    title = drawn(rank_figure(unlike)).axes[0].get_title()
    assert title.replace("\n", " ").endswith(f"without a rank: {told}")
    table = ablation_table(unlike, "caption")
    assert table is not None
    assert f"Without a rank at 0.8: {told}." in table.notes


def test_points_of_runs_unlike_others_are_hollow(unlike: Results) -> None:
    for axis in (drawn(score_figure(unlike)).axes[3], drawn(pareto_figure(unlike)).axes[0]):
        hollow = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
        assert len(hollow) == 2
    legend = drawn(pareto_figure(unlike)).legends[0]
    assert "hollow: missed target or other data" in [text.get_text() for text in legend.get_texts()]


def test_pairs_of_runs_unlike_others_are_starred(unlike: Results) -> None:
    axis = drawn(matrix_figure(unlike)).axes[0]
    assert ["*" in text.get_text() for text in axis.texts].count(True) == 2
    assert axis.get_title().endswith("*: missed target or other data")


def test_structure_cells_show_counts_and_hatch_removed_sublayers(store: FakeStore) -> None:
    kept = {"head": [2, 0], "ffn": [5, 10], "mha_layer": [1, 0], "ffn_layer": [1, 1], "hidden": [100]}
    density = {"head": 0.25, "ffn": 0.75, "mha_layer": 0.5, "ffn_layer": 1.0, "hidden": 0.5}
    run = store.add("rte", "gpp+dfd", 0.8)
    folder = store.finish(run, size={"density": density})
    record = json.loads((folder / "record.json").read_text()) | {"kept": kept}
    (folder / "record.json").write_text(json.dumps(record))
    results = results_of(store)
    assert shares(results.records[run], "head") == [0.5, 0.0]
    assert shares(results.records[run], "ffn") == [0.5, 1.0]
    with style():
        axis = drawn(structure_grid(results)).axes[0]
    assert [text.get_text() for text in axis.texts] == ["2", "5", "10"]
    assert sum(patch.get_hatch() is not None for patch in axis.patches) == 1
    assert "hidden: 100 of 200" in axis.get_title(loc="left")


def test_the_ablation_says_why_a_bar_is_missing(store: FakeStore) -> None:
    others = ("gpp+none", "random+dfd", "random+none", "depth+dfd")
    for method in ("gpp+dfd", *others):
        store.finish(store.add("rte", method, 0.5))
    store.finish(store.add("rte", "gpp+dfd", 0.8))
    store.finish(store.add("rte", "cap-f", 0.8))
    store.add("rte", "gpp+none", 0.8, reachable=False, reason="too few layers")
    store.add("rte", "random+dfd", 0.8)
    store.finish(store.add("rte", "random+none", 0.8), size={"sparsity": 0.7})
    texts = [text.get_text().strip() for text in drawn(ablation_figure(results_of(store))).axes[1].texts]
    assert sorted(texts) == ["no pair", "not finished", "not planned", "not reachable"]


@pytest.mark.parametrize("methods", [1, 4, 5])
def test_the_structure_figure_is_tidy_with_any_number_of_rows(store: FakeStore, methods: int) -> None:
    for number in range(methods):
        store.finish(store.add("rte", f"method {number}", 0.8))
    assert_tidy(drawn(structure_grid(results_of(store))))


def test_fusion_weights_come_from_the_notes(grid: Results) -> None:
    (matrix,) = noted_matrices(fake_notes()).values()
    assert matrix.tolist() == [[0.25, 0.75], [0.0, 1.0]]
    axis = drawn(fusion_figure(grid)).axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.25", "0.75", "1.00"]
    assert noted_matrices({"fusion_guard_fired": 3.0}) == {}


def test_snapshots_are_drawn_where_the_history_has_them(store: FakeStore) -> None:
    folder = store.finish(store.add("rte", "cap-f", 0.8))
    assert snapshot_figure(results_of(store)) is None
    with (folder / "history.jsonl").open("a") as history:
        history.write('{"phase": "search", "step": 30, "event": "snapshot"}\n')
        history.write('{"phase": "recovery", "step": 70, "losses": {"task": 0.5, "features": 3.0}}\n')
    figure = drawn(snapshot_figure(results_of(store)))
    marks = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert [30, 30] in [list(mark) for mark in marks]
    assert "contrastive loss" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_pruners_with_one_schedule_share_a_line(grid: Results) -> None:
    axis = drawn(schedule_figure(grid, {"sparsity": 0.8})).axes[0]
    curves = [line for line in axis.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 1
    assert curves[0].get_ydata()[-1] == pytest.approx(0.8)
    names = [text.get_text() for text in drawn(schedule_figure(grid, {"sparsity": 0.8})).legends[0].get_texts()]
    assert "; ".join(PAIR) in names[0], "labels may have commas"


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_every_figure_of_a_grid_is_tidy(grid: Results, drawing: Drawing) -> None:
    figure = drawing.figure(grid, {})
    assert (figure is None) == (drawing.name in {"pruner_distiller_matrix", "snapshots"})
    if figure:
        assert_tidy(figure)


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_without_finished_runs_there_is_no_figure(store: FakeStore, drawing: Drawing) -> None:
    store.add("rte", "gpp+dfd", 0.8)
    assert drawing.figure(results_of(store), {}) is None


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_dollars_in_a_label_are_no_formula(tmp_path: Path, drawing: Drawing) -> None:
    store = FakeStore(tmp_path / "runs")
    for task, pair in product(("rte", "mrpc", "cola"), ("gpp+dfd", "gpp+none", "random+dfd", "random+none")):
        folder = store.finish(store.add(task, pair, 0.8, label=rf"{pair} $\foo$ {pair}"))
        with (folder / "history.jsonl").open("a") as history:
            history.write('{"phase": "search", "step": 30, "event": "snapshot", "losses": {"task": 0.5}}\n')
    figure = drawing.figure(results_of(store), {})
    assert figure is not None
    save_figure(figure, "figure", tmp_path)
    ticks = [text.get_text() for axis in figure.axes for text in (*axis.get_xticklabels(), *axis.get_yticklabels())]
    assert not any("mathdefault" in tick for tick in ticks)


def test_labels_fall_back_to_the_fonts_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gppdfd.drawing._installed", lambda: frozenset({"DejaVu Sans", "WenQuanYi Zen Hei"}))
    with style():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "WenQuanYi Zen Hei"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_letter_that_no_font_has_is_no_failure(store: FakeStore, tmp_path: Path) -> None:
    store.finish(store.add("rte", "gpp+dfd", 0.8, label="模型 λ→β"))
    with style():
        paths = save_figure(drawn(score_figure(results_of(store))), "figure", tmp_path)
    assert all(path.stat().st_size for path in paths)


@given(st.text(alphabet="ab +,()", max_size=40), st.integers(1, 12))
def test_wrapping_loses_nothing_but_blanks(text: str, width: int) -> None:
    lines = fill_lines(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    words = re.findall(r"[^\s+,]+[\s+,]*|[\s+,]+", text)
    assert all(len(line) <= max(width, *map(len, words), 0) for line in lines)


# --- files ---


def test_files_are_vector_pdf_and_200_dpi_png_and_always_the_same(grid: Results, tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        figure = drawn(indicator_figure(grid))
        pdf, png = save_figure(figure, "indicators", folder)
        contents.append((pdf.read_bytes(), png.read_bytes()))
    assert contents[0] == contents[1]
    assert b"/Type3" not in contents[0][0]
    assert b"/FontFile2" in contents[0][0]
    width, height = (int.from_bytes(contents[0][1][start : start + 4]) for start in (16, 20))
    np.testing.assert_allclose((width, height), 200 * figure.get_size_inches(), atol=1)


def test_figures_by_method_are_left_out_where_there_are_too_many(tmp_path: Path) -> None:
    methods = [f"gpp(option={number})+dfd" for number in range(MOST_METHODS + 1)]
    results = results_of(full_store(tmp_path, tasks=["mrpc"], methods=methods))
    drawn = {drawing.name for drawing in DRAWINGS if drawing.by_method and drawing.figure(results, NOTHING)}
    assert not drawn
