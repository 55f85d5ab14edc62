"""UPop beyond its golden cases: its relation to GPP, its schedule's end, and its options."""

import pytest
import torch

from baselines.upop import UPop, UPopConfig, set_after, standardised
from gppdfd.budget import Target, parameters
from gppdfd.gpp import GPP
from gppdfd.interface import Setting
from gppdfd.structure import Masks, structure_of
from tests.tiny import tiny_model

STEPS = 40
SHAPES = {"head": (3, 4), "ffn": (3, 40)}


def begun(pruner: GPP | UPop, target: Target) -> GPP | UPop:
    model = tiny_model()
    pruner.begin(Setting(model, structure_of(model), target, STEPS, torch.Generator().manual_seed(0)))
    return pruner


def gradients(seed: int = 0, steps: int = STEPS) -> list[Masks]:
    stream = torch.Generator().manual_seed(seed)
    return [{kind: torch.randn(shape, generator=stream) for kind, shape in SHAPES.items()} for _ in range(steps)]


def walked(pruner: GPP | UPop, recorded: list[Masks]) -> list[Masks]:
    """Masks of every step, and those at the end of the search."""
    masks = []
    for step, found in enumerate(recorded):
        masks.append(pruner.masks(step))
        pruner.observe(step, masks[-1], found)
    return [*masks, pruner.masks(STEPS)]


@pytest.mark.parametrize("count", ["to_target", "published"])
def test_per_type_with_gpp_s_schedule_is_gpp_bit_for_bit(count: str) -> None:
    target = Target(0.6, count)  # type: ignore[arg-type]
    ours, theirs = begun(UPop(UPopConfig(allocation="per_type", schedule="cos2")), target), begun(GPP(), target)
    recorded = gradients()
    for found, expected in zip(walked(ours, recorded), walked(theirs, recorded), strict=True):
        assert all(torch.equal(found[kind], expected[kind]) for kind in SHAPES)
    assert all(torch.equal(ours.keep()[kind], theirs.keep()[kind]) for kind in SHAPES)


@pytest.mark.parametrize("allocation", ["joint", "per_type", "per_layer"])
def test_the_last_masks_are_binary_and_the_keep(allocation: str) -> None:
    pruner = begun(UPop(UPopConfig(allocation=allocation)), Target(0.6, "published"))
    walk = walked(pruner, gradients())
    assert pruner.sparsity(STEPS) == 0.6
    assert len(walk[STEPS // 2]["ffn"].unique()) == 2
    for kind, units in pruner.keep().items():
        assert set(walk[-1][kind].unique().tolist()) == {0.0, 1.0}
        assert torch.equal(walk[-1][kind] > 0, units)


def test_standardising_keeps_the_order_and_forgets_a_constant() -> None:
    values = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    assert torch.equal(standardised(values).flatten().argsort(), values.flatten().argsort())
    torch.testing.assert_close(standardised(values + 5), standardised(values))
    assert not standardised(torch.zeros(3, 4)).any()


def test_a_constant_on_all_gradients_of_a_kind_changes_nothing() -> None:
    """This is why UPop's L1 term, constant while all masks are positive, does not move its ranking."""
    recorded = gradients()
    moved = [{"head": found["head"] + 3, "ffn": found["ffn"] - 1} for found in recorded]
    plain, shifted = (begun(UPop(), Target(0.5, "published")) for _ in range(2))
    walked(plain, recorded)
    walked(shifted, moved)
    assert all(torch.equal(plain.keep()[kind], shifted.keep()[kind]) for kind in SHAPES)


def test_the_statistic_may_forget_earlier_steps() -> None:
    recorded = gradients()
    whole, last = (begun(UPop(UPopConfig(statistic="current_step")), Target(0.5)) for _ in range(2))
    walked(whole, recorded)
    last.observe(STEPS - 1, {}, recorded[-1])
    assert all(torch.equal(whole.keep()[kind], last.keep()[kind]) for kind in SHAPES)
    accumulated = begun(UPop(), Target(0.5))
    walked(accumulated, recorded)
    assert not torch.equal(accumulated.keep()["ffn"], whole.keep()["ffn"])


def test_published_intervals_set_masks_after_the_first_and_the_last_step() -> None:
    assert [step for step in range(25) if set_after(step, 25, 10)] == [0, 10, 20, 24]
    pruner = begun(UPop(UPopConfig(interval=10)), Target(0.5))
    walk = walked(pruner, gradients())
    changed = [step for step in range(1, STEPS + 1) if not torch.equal(walk[step]["ffn"], walk[step - 1]["ffn"])]
    assert changed == [1, 11, 21, 31, 40]


@pytest.mark.parametrize("count", ["to_target", "published"])
@pytest.mark.parametrize("allocation", ["joint", "per_type"])
def test_the_floor_leaves_the_best_unit_of_each_layer(allocation: str, count: str) -> None:
    target = Target(0.8, count)  # type: ignore[arg-type]
    recorded = [{kind: values + 9 * (torch.arange(3)[:, None] == 1) for kind, values in found.items()}
                for found in gradients()]  # fmt: skip
    keeps = []
    for floor in (False, True):
        pruner = begun(UPop(UPopConfig(floor=floor, allocation=allocation)), target)
        walked(pruner, recorded)
        keeps.append(pruner.keep())
    best = sum(found["ffn"][1] for found in recorded).argmin()
    assert not keeps[0]["ffn"][1].any()
    assert keeps[1]["ffn"][1].nonzero().flatten().tolist() == [best]
    assert keeps[1]["head"].any(1).all()
    if count == "to_target":
        structure = structure_of(tiny_model())
        assert 0 <= target.budget(structure) - parameters(structure, keeps[1]) < 65


def test_a_target_below_the_floor_is_not_reachable() -> None:
    structure = structure_of(tiny_model())
    assert UPop().unreachable(structure, Target(0.9)) is None
    reason = UPop(UPopConfig(floor=True)).unreachable(structure, Target(0.9))
    assert reason is not None
    assert "one head and one FFN dim per layer" in reason
