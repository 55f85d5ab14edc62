"""CAP-f beyond its golden cases: counts, the floor per layer, phases, what a run asks of the loop."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.cap import (
    CAPF,
    CAPFConfig,
    Cut,
    FirstOrder,
    FirstOrderConfig,
    FirstOrderPruner,
    normalised,
    phase_shares,
    planned_cuts,
    protected,
    pruned_to,
    summed_sizes,
    unit_count,
)
from gppdfd.budget import Target, parameters, sparsity
from gppdfd.interface import Setting, parse_method
from gppdfd.settings import TrainingConfig
from gppdfd.structure import Keep, Masks, Structure
from gppdfd.training import Trainer
from tests.tiny import tiny_data, tiny_model

BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)
SMALL = Structure(layers=3, hidden=32, heads=4, head_size=8, intermediate=40)
CONFIG = TrainingConfig(batch_size=8, learning_rate=1e-3, warmup=0.1, search_epochs=4, recovery_epochs=1)


class RandomLoop:
    """Mask gradients drawn anew for each pass; remembers what it was asked for."""

    batches = 4

    def __init__(self, seed: int) -> None:
        self.stream = torch.Generator().manual_seed(seed)
        self.asked: list[Masks] = []
        self.passes: list[int] = []

    def mask_gradients(self, masks: Masks, parts: frozenset[str], batches: int) -> Iterator[Masks]:
        assert parts == {"task", "soft", "features", "pruner"}
        self.asked.append(masks)
        self.passes.append(batches)
        for _ in range(batches):
            yield {kind: torch.randn(values.shape, generator=self.stream) for kind, values in masks.items()}


def begun(pruner: FirstOrderPruner, structure: Structure, target: Target, steps: int = 18, seed: int = 0) -> RandomLoop:
    loop = RandomLoop(seed)
    dummy = torch.nn.Linear(1, 1)
    pruner.begin(Setting(dummy, structure, target, steps, torch.Generator(), loop=loop))  # type: ignore[arg-type]
    return loop


def searched(pruner: FirstOrderPruner, steps: int) -> list[Masks]:
    return [pruner.masks(step) for step in range(steps)]


def test_counts_of_the_papers_table() -> None:
    """Heads and FFN dims gone at 10, 20, ... 90 percent of BERT-base."""
    shares = phase_shares(0.9, 0.1, most=100)
    assert [unit_count(share, 144) for share in shares] == [14, 28, 43, 57, 72, 86, 100, 115, 129]
    assert [unit_count(share, 12 * 3072) for share in shares] == [
        *(3686, 7372, 11059, 14745, 18432, 22118, 25804, 29491, 33177),
    ]
    assert unit_count(0.29, 100) == 29


def test_shares_end_at_the_target() -> None:
    assert phase_shares(0.35, 0.1, 9) == pytest.approx([0.1, 0.2, 0.3, 0.35])
    assert phase_shares(0.3, 0.1, 9) == pytest.approx([0.1, 0.2, 0.3])
    assert phase_shares(0.8, 0.1, 2) == pytest.approx([0.4, 0.8])
    assert phase_shares(0.05, 0.1, 9) == [0.05]
    assert phase_shares(0.0, 0.1, 9) == [0.0]


@settings(deadline=None)
@given(target=st.floats(0, 0.99), size=st.floats(0.01, 1), steps=st.integers(1, 40), dense=st.sampled_from([0.0, 0.5]))
def test_cuts_are_ordered_and_apart(target: float, size: float, steps: int, dense: float) -> None:
    shares = phase_shares(target, size, steps if dense else steps + 1)
    cuts = planned_cuts(shares, steps, dense)
    times = [cut.step for cut in cuts]
    assert times == sorted(set(times))
    assert times[0] >= 0
    assert times[-1] == (steps if len(cuts) > 1 or dense else 0)
    assert [cut.share for cut in cuts] == sorted(shares)
    assert cuts[-1].share == pytest.approx(target)


def test_the_first_cut_comes_before_training_or_after_half_a_phase() -> None:
    assert [cut.step for cut in CAPF().cuts(0.3, 20)] == [0, 10, 20]
    assert [cut.step for cut in CAPF(CAPFConfig(first_step="finetuned")).cuts(0.3, 20)] == [4, 12, 20]
    assert FirstOrder().cuts(0.3, 20) == [Cut(20, 0.3)]
    assert FirstOrder(FirstOrderConfig(first_step="pretrained")).cuts(0.3, 20) == [Cut(0, 0.3)]


@settings(deadline=None)
@given(seed=st.integers(0, 999), gone=st.integers(0, 12), before=st.integers(0, 9))
def test_a_live_head_stays_in_each_layer_and_nothing_comes_back(seed: int, gone: int, before: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, 3, 4, generator=stream).unbind(0)
    alive = pruned_to(first, torch.ones(3, 4, dtype=torch.bool), before, "live")
    left = pruned_to(second, alive, gone, "live")
    assert bool(left.any(-1).all())
    assert not bool((left & ~alive).any())
    assert int((~left).sum()) == min(9, max(before, gone))
    assert bool((protected(second, alive, "live") & left).any(-1).all())


def test_the_released_floor_may_hold_a_head_that_is_gone() -> None:
    scores, alive = torch.tensor([[5.0, 1.0], [3.0, 4.0]]), torch.tensor([[False, True], [True, True]])
    assert pruned_to(scores, alive, 2, "released").tolist() == [[False, False], [True, True]]
    assert pruned_to(scores, alive, 2, "live").tolist() == [[False, True], [False, True]]
    assert pruned_to(scores, alive, 3, "none").tolist() == [[False, False], [False, True]]


def test_scores_are_sums_of_sizes_per_batch_over_the_layers_norm() -> None:
    scores = summed_sizes([{"head": torch.tensor([[3.0, -4.0]])}, {"head": torch.tensor([[-3.0, 4.0]])}])["head"]
    assert scores.tolist() == [[6.0, 8.0]]
    assert normalised(scores).tolist() == [pytest.approx([0.6, 0.8])]
    assert normalised(scores, torch.tensor([[True, False]])).tolist() == [pytest.approx([1.0, 8 / 6])]
    assert normalised(torch.zeros(2, 3)).tolist() == torch.zeros(2, 3).tolist()


@pytest.mark.parametrize("count", ["published", "to_target"])
@pytest.mark.parametrize("seed", range(3))
def test_ninety_percent_of_bert_base(seed: int, count: str) -> None:
    pruner = CAPF()
    target = Target(0.9, count=count)  # type: ignore[arg-type]
    loop = begun(pruner, BASE, target, seed=seed)
    masks = searched(pruner, 18)
    keep = pruner.keep()
    assert len(loop.asked) == 9
    assert bool(keep["head"].any(-1).all())
    for before, after in zip(masks, [*masks[1:], {kind: units.float() for kind, units in keep.items()}], strict=True):
        assert all(bool((after[kind] <= before[kind]).all()) for kind in before)
    assert int((~keep["head"]).sum()) == 129
    if count == "published":
        assert int((~keep["ffn"]).sum()) == 33177
        assert 0.89 < sparsity(BASE, keep) < 0.9
    else:
        assert 0 <= target.budget(BASE) - parameters(BASE, keep) < 2 * 768 + 1


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.02, 0.83), seed=st.integers(0, 99), steps=st.integers(1, 12), early=st.booleans())
def test_every_reachable_target_is_met_without_regrowth(share: float, seed: int, steps: int, early: bool) -> None:
    first = "pretrained" if early else "finetuned"
    for pruner in (CAPF(CAPFConfig(first_step=first)), FirstOrder(FirstOrderConfig(first_step=first))):
        target = Target(share)
        assert pruner.unreachable(SMALL, target) is None
        begun(pruner, SMALL, target, steps, seed)
        last = searched(pruner, steps)[-1]
        keep = pruner.keep()
        assert 0 <= target.budget(SMALL) - parameters(SMALL, keep) < 2 * 32 + 1
        assert bool(keep["head"].any(-1).all())
        assert all(bool((units <= last[kind].bool()).all()) for kind, units in keep.items())


@pytest.mark.parametrize("method", [CAPF, FirstOrder])
def test_heads_that_alone_exceed_the_target_go_but_the_protected_ones(method: type[FirstOrderPruner]) -> None:
    """Five of 24 heads are too many where the FFN is so narrow; in each layer the best one stays, however low."""
    narrow = Structure(layers=4, hidden=24, heads=6, head_size=4, intermediate=2)
    for seed in range(30):
        pruner = method()
        begun(pruner, narrow, Target(0.8), 6, seed)
        searched(pruner, 6)
        assert pruner.keep()["head"].sum(-1).tolist() == [1, 1, 1, 1]


def test_one_head_per_layer_may_be_too_much() -> None:
    assert "at most 0.9720 sparsity" in (CAPF().unreachable(BASE, Target(0.98)) or "")
    assert CAPF().unreachable(BASE, Target(0.97)) is None
    assert CAPF(CAPFConfig(head_floor="none")).unreachable(BASE, Target(0.98)) is None
    assert "biases" in (CAPF().unreachable(BASE, Target(0.9999)) or "")


def test_masks_of_the_scoring_pass_are_those_so_far() -> None:
    pruner = CAPF(CAPFConfig(step_size=0.25))
    loop = begun(pruner, SMALL, Target(0.5, count="published"), 8)
    masks = searched(pruner, 8)
    pruner.keep()
    assert all(bool(values.all()) for values in loop.asked[0].values())
    assert all(torch.equal(values, masks[7][kind]) for kind, values in loop.asked[1].items())


@pytest.mark.parametrize(("share", "steps", "batches"), [(1.0, 100, 4), (0.3, 100, 2), (1.0, 6, 3), (0.3, 1, 1)])
def test_a_pass_takes_its_share_but_no_more_than_a_phase(share: float, steps: int, batches: int) -> None:
    pruner = CAPF(CAPFConfig(scoring_share=share, step_size=0.25))
    loop = begun(pruner, SMALL, Target(0.5), steps)
    searched(pruner, steps)
    pruner.keep()
    assert loop.passes == [batches, batches]


def test_scoring_takes_at_most_half_of_the_search() -> None:
    assert CAPF().scoring_epochs(SMALL, Target(0.5), 20) == pytest.approx(5)
    assert CAPF().scoring_epochs(SMALL, Target(0.5), 2) == pytest.approx(1)
    assert CAPF(CAPFConfig(scoring_share=0.1)).scoring_epochs(SMALL, Target(0.5), 20) == pytest.approx(0.5)
    assert FirstOrder().scoring_epochs(SMALL, Target(0.5), 20) == pytest.approx(1)


def test_each_phase_has_a_schedule_and_a_snapshot_of_its_own() -> None:
    pruner = CAPF()
    begun(pruner, SMALL, Target(0.3), 20)
    assert {step: pruner.restart(step) for step in range(20) if pruner.restart(step)} == {0: 10, 10: 10}
    assert [step for step in range(21) if pruner.snapshot_due(step)] == [10, 20]
    dense = CAPF(CAPFConfig(first_step="finetuned"))
    begun(dense, SMALL, Target(0.3), 20)
    assert {step: dense.restart(step) for step in range(20) if dense.restart(step)} == {0: 4, 4: 8, 12: 8}
    assert [step for step in range(21) if dense.snapshot_due(step)] == [12, 20]


@pytest.mark.parametrize("first", ["pretrained", "finetuned"])
def test_one_shot_scores_once(first: str) -> None:
    pruner = FirstOrder(FirstOrderConfig(first_step=first))
    loop = begun(pruner, SMALL, Target(0.5), 6)
    masks = searched(pruner, 6)
    keep = pruner.keep()
    assert len(loop.asked) == 1
    dense = all(bool(values.all()) for values in masks[-1].values())
    assert dense == (first == "finetuned")
    if first == "pretrained":
        assert all(torch.equal(units, masks[0][kind].bool()) for kind, units in keep.items())


def test_norms_over_live_units_only_change_the_ranking_later() -> None:
    keeps: dict[str, Keep] = {}
    for norm in ("live", "all"):
        pruner = CAPF(CAPFConfig(norm=norm))
        begun(pruner, SMALL, Target(0.7), 18)
        searched(pruner, 18)
        keeps[norm] = pruner.keep()
    assert not torch.equal(keeps["live"]["ffn"], keeps["all"]["ffn"])


def test_a_run_counts_its_scoring_and_warms_up_in_each_phase() -> None:
    """Five cuts of ten percent, each with a pass over as many batches as a phase trains."""
    rates: list[float] = []
    pruner, distiller = parse_method("cap-f+none").build()
    extra = CONFIG.model_copy(update={"scoring": "extra"})
    trainer = Trainer(tiny_model(), pruner, distiller, tiny_data(), extra, target=Target(0.5))
    trainer.hooks.progress = lambda phase, step, steps: rates.append(trainer.optimisation.rate)
    assert trainer.run().scoring_passes == 5 * 4
    assert [index + 1 for index, rate in enumerate(rates) if rate == 0] == [5, 10, 15, 20, 25]


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_scoring_counts_as_part_of_the_search(share: float) -> None:
    """Forward-backward passes of scoring and search together are those of a search without scoring."""
    pruner, distiller = parse_method(f"cap-f(scoring_share={share})+none").build()
    trainer = Trainer(tiny_model(), pruner, distiller, tiny_data(), CONFIG, target=Target(0.5))
    assert trainer.phases.search == (10 if share == 1 else 15)
    assert trainer.phases.search + trainer.run().scoring_passes == 20


def test_regression_scores_tell_units_apart() -> None:
    pruner, distiller = parse_method("first-order+logits").build()
    trainer = Trainer(
        tiny_model(labels=1),
        pruner,
        distiller,
        tiny_data(labels=1),
        CONFIG,
        teacher=tiny_model(labels=1, seed=9),
        target=Target(0.5),
        regression=True,
    )
    trainer.begin()
    for values in pruner._scores().values():
        assert len(values.unique()) > values.numel() // 2
