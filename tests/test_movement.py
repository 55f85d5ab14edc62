"""Movement pruning beyond its golden cases: the paper's schedules, scores, single weights, frozen weights."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.controls import MagnitudeWeight, MagnitudeWeightConfig
from baselines.movement import (
    Movement,
    MovementConfig,
    SoftMovement,
    SoftMovementConfig,
    Top,
    above_threshold,
    cubic,
    single_weights,
    top_share,
)
from gppdfd.budget import Target, most_important, parameters
from gppdfd.errors import UsageError
from gppdfd.extraction import extract
from gppdfd.gpp import GPP
from gppdfd.interface import Setting, distillers, parse_method
from gppdfd.masks import MaskedEncoder
from gppdfd.settings import TrainingConfig
from gppdfd.structure import WEIGHT, Masks, adapter_for, structure_of
from gppdfd.training import Trainer
from gppdfd.views import Observed
from tests.tiny import tiny_data, tiny_model

STEPS = 40
SHAPES = {"head": (3, 4), "ffn": (3, 40)}
SETTINGS = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=2, recovery_epochs=1)


def begun(pruner: Any, target: Target, steps: int = STEPS, model: Any = None) -> Any:
    model = model or tiny_model()
    pruner.begin(Setting(model, structure_of(model), target, steps, torch.Generator().manual_seed(0)))
    return pruner


def random_gradients(seed: int = 0, steps: int = STEPS) -> list[Masks]:
    stream = torch.Generator().manual_seed(seed)
    return [{kind: torch.randn(shape, generator=stream) for kind, shape in SHAPES.items()} for _ in range(steps)]


def walked(pruner: Any, recorded: list[Masks]) -> list[Masks]:
    """Masks of every step, with the optimiser stepped as the loop does."""
    masks = []
    for step, found in enumerate(recorded):
        masks.append(pruner.masks(step))
        loss = pruner.loss(masks[-1])
        if loss is not None:
            loss.backward()
        pruner.observe(step, masks[-1], found)
        for optimizer in pruner.optimizers():
            optimizer.step()
            optimizer.zero_grad()
    return masks


def run(pruner: Top, config: TrainingConfig = SETTINGS, target: Target | None = None, model: Any = None) -> Trainer:
    trainer = Trainer(
        model or tiny_model(), pruner, distillers()["none"](), tiny_data(), config, target=target or Target(0.6)
    )
    trainer.keep = trainer.run().keep  # type: ignore[attr-defined]
    return trainer


@pytest.mark.parametrize(
    ("per_epoch", "warmup", "start", "hold", "sparsities"),
    [
        (11_371, 11_000, 2, 3, [0, 0.036, 0.485, 0.760, 0.905, 0.961, 0.97, 0.97, 0.97, 0.97]),
        (5_533, 5_400, 1, 2, [0.010, 0.363, 0.617, 0.788, 0.892, 0.946, 0.967, 0.97, 0.97, 0.97]),
    ],
)
def test_sparsity_at_the_ends_of_epochs(per_epoch, warmup, start, hold, sparsities) -> None:  # type: ignore[no-untyped-def]
    """QQP and SQuAD at 3 % kept."""
    ends = [per_epoch * epoch for epoch in range(1, 11)]
    found = [1 - cubic(step, 10 * per_epoch, start * warmup, hold * warmup, 1.0, 0.03) for step in ends]
    assert found == pytest.approx(sparsities, abs=5e-4)


@given(steps=st.integers(5, 300), start=st.floats(0, 0.5), hold=st.floats(0, 0.4), final=st.floats(0.01, 1))
def test_the_cubic_falls_from_1_and_holds_its_end(steps: int, start: float, hold: float, final: float) -> None:
    first, last = round(start * steps), round(hold * steps)
    values = [cubic(step, steps, first, last, 1.0, final) for step in range(steps + 1)]
    assert all(value == 1 for value in values[: first + 1])
    assert all(value == pytest.approx(final, abs=1e-12) for value in values[steps - last :])
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(
    "text",
    ["movement(start=0.6,hold=0.4)", "movement(start=0.9)", "soft-movement(hold=0.95)", "magnitude-weight(start=0.8)"],
)
def test_windows_that_fill_the_search_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no step is left for the schedule to ramp"):
        parse_method(f"{text}+none")


def test_a_search_too_short_to_ramp_is_refused() -> None:
    with pytest.raises(UsageError, match=r"raise training\.search_epochs"):
        begun(Movement(MovementConfig(start=0.4, hold=0.5)), Target(0.5), steps=2)


def test_weights_have_no_types_to_rank() -> None:
    with pytest.raises(UsageError, match="ranked per_layer, each matrix by itself, or joint"):
        parse_method("movement(granularity=weight,allocation=per_type)+none")


@given(data=st.data())
def test_each_group_keeps_its_share_of_the_top_and_ties_go_by_index(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    values = data.draw(st.lists(st.integers(-2, 2), min_size=sum(groups), max_size=sum(groups)))
    scores, share = torch.tensor(values, dtype=torch.float), data.draw(st.floats(0, 1))
    for part, kept in zip(scores.split(groups), top_share(scores, share, groups).split(groups), strict=True):
        assert int(kept.sum()) == int(share * len(part))
        assert torch.equal(kept, most_important(-part, int(share * len(part))))


@given(size=st.integers(1, 900))
def test_the_floor_of_soft_movement(size: int) -> None:
    scores = torch.randn(size, generator=torch.Generator().manual_seed(size))
    assert int(above_threshold(scores, 1.0, [size]).sum()) == int(0.005 * size) + 1
    assert above_threshold(scores, 0.0, [size]).all()


def test_scores_under_sgd_rank_as_gpp_does() -> None:
    movement = begun(Movement(MovementConfig(optimizer="sgd", decay="constant")), Target(0.6))
    gpp = begun(GPP(), Target(0.6))
    recorded = random_gradients()
    walked(movement, recorded)
    for step, found in enumerate(recorded):
        gpp.observe(step, gpp.masks(step), found)
    for kind, unimportance in gpp.unimportance().items():
        assert torch.equal((-movement.scores()[kind]).flatten().argsort(), unimportance.flatten().argsort())
        assert torch.equal(movement.keep()[kind], gpp.keep()[kind])


def test_the_scores_learning_rate_falls_to_0_or_stays() -> None:
    for kind, decay, expected in ((Movement, "linear", [0.01, 0.0075, 0.005]), (SoftMovement, "constant", [0.01] * 3)):
        pruner, rates = begun(kind(kind.Config(decay=decay)), Target(0.5)), []
        for step in (0, 10, 20):
            pruner.masks(step)
            rates.append(pruner.optimizers()[0].param_groups[0]["lr"])
        assert rates == pytest.approx(expected)


def test_scores_follow_the_gradient_of_their_gates() -> None:
    """One step of SGD with learning rate 1 leaves minus the mask gradient, for units and for single weights."""
    for granularity, kinds in (("unit", ("head", "ffn")), ("weight", (WEIGHT,))):
        model, batch = tiny_model().eval(), tiny_data().batch(torch.arange(6))
        config = MovementConfig(granularity=granularity, optimizer="sgd", learning_rate=1.0)
        pruner = begun(Movement(config), Target(0.5), model=model)
        encoder = MaskedEncoder(model)
        encoder.masks = {kind: values.requires_grad_() for kind, values in pruner.masks(0).items()}
        Observed(model)(batch).logits.square().sum().backward()
        gradients = {kind: values.grad for kind, values in encoder.masks.items()}
        pruner.observe(0, encoder.masks, gradients)
        pruner.optimizers()[0].step()
        for kind in kinds:
            assert torch.equal(pruner.scores()[kind], -gradients[kind])
        if granularity == "weight":
            # All masks are 1, so dL/dW' is dL/dW: the paper's dL/dS = dL/dW' * W.
            weights = single_weights(model)
            expected = torch.cat([(weight.grad * weight.detach()).flatten() for weight in weights])
            torch.testing.assert_close(gradients[WEIGHT], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("allocation", ["per_type", "per_layer", "joint"])
@pytest.mark.parametrize("kind", [Movement, SoftMovement])
def test_units_meet_the_target_under_every_allocation(kind: type[Movement], allocation: str) -> None:
    pruner = begun(kind(kind.Config(allocation=allocation)), Target(0.7))
    walk = walked(pruner, random_gradients())
    structure = structure_of(tiny_model())
    assert 0 <= Target(0.7).budget(structure) - parameters(structure, pruner.keep()) < 65  # one FFN dim
    assert all(masks.unique().tolist() in ([0, 1], [1]) for step in walk for masks in step.values())
    held = walk[-1]
    if allocation == "per_type":
        assert {name: int((units == 0).sum()) for name, units in held.items()} == {"head": 8, "ffn": 84}
    if allocation == "per_layer":
        assert (held["ffn"] == 0).sum(1).tolist() == [28, 28, 28]


def test_a_published_count_is_that_of_the_last_masks() -> None:
    pruner = begun(Movement(), Target(0.7, "published"))
    walk = walked(pruner, random_gradients())
    pruner.masks(STEPS - 1)
    assert {kind: int(units.sum()) for kind, units in pruner.keep().items()} == {"head": 4, "ffn": 36}
    assert pruner.sparsity(STEPS - 1) == pytest.approx(0.7)
    assert all(bool((masks == 1).all()) for masks in walk[0].values())


@pytest.mark.parametrize(
    "pruner",
    [
        Movement(MovementConfig(granularity="weight")),
        Movement(MovementConfig(granularity="weight", allocation="joint")),
        SoftMovement(SoftMovementConfig(granularity="weight")),
        MagnitudeWeight(),
        MagnitudeWeight(MagnitudeWeightConfig(allocation="joint")),
    ],
)
def test_single_weights_meet_the_target_with_dense_biases(pruner: Top) -> None:
    model = tiny_model()
    structure, sizes = structure_of(model), [weight.numel() for weight in single_weights(model)]
    trainer = run(pruner, target=Target(0.8), model=model)
    missing = Target(0.8).budget(structure) - parameters(structure, trainer.keep)
    assert 0 <= missing <= len(sizes)
    kept = [int(part.sum()) for part in trainer.keep[WEIGHT].split(sizes)]
    if pruner.allocation == "per_layer":
        assert kept == [int(pruner._share * size) for size in sizes]
    weights = torch.cat([weight.detach().flatten() for weight in single_weights(trainer.model)])
    assert not weights[~trainer.keep[WEIGHT]].any()


def test_published_weights_are_the_top_share_of_each_matrix() -> None:
    model = tiny_model()
    trainer = run(Movement(MovementConfig(granularity="weight")), target=Target(0.8, "published"), model=model)
    sizes = [weight.numel() for weight in single_weights(model)]
    assert [int(part.sum()) for part in trainer.keep[WEIGHT].split(sizes)] == [int((1 - 0.8) * n) for n in sizes]


def test_magnitude_ranks_the_weights_under_their_masks() -> None:
    """A masked weight keeps the value by which it may come back."""
    model = tiny_model()
    pruner = begun(MagnitudeWeight(), Target(0.5), model=model)
    before, encoder = pruner.scores()[WEIGHT], MaskedEncoder(model)
    encoder.masks = {WEIGHT: torch.zeros_like(before)}
    assert torch.equal(pruner.scores()[WEIGHT], before)
    sizes = [weight.numel() for weight in single_weights(model)]
    kept = pruner.keep()[WEIGHT]
    for values, part in zip(before.split(sizes), kept.split(sizes), strict=True):
        assert values[part].min() >= values[~part].max()


def test_zeros_save_neither_flops_nor_time_and_biases_stay() -> None:
    structure = structure_of(tiny_model())
    pruner = MagnitudeWeight()
    assert pruner.unreachable(structure, Target(0.9)) is None
    assert "biases" in (pruner.unreachable(structure, Target(0.995)) or "")
    assert "FLOPs" in (pruner.unreachable(structure, Target(flops=1000.0)) or "")
    assert pruner.unreachable(structure, Target(flops=1e12)) is None


def test_the_regulariser_grows_with_the_threshold_and_pushes_scores_down() -> None:
    pruner = begun(SoftMovement(SoftMovementConfig(regularisation=4.0)), Target(0.5))
    losses = []
    for step in (0, 4, 20, 32, 39):
        masks = pruner.masks(step)
        losses.append(float(pruner.loss(masks).detach()))
    assert losses[:2] == [0, 0]
    assert 0 < losses[2] < losses[3]
    assert losses[4] == pytest.approx(4.0 * 0.5)  # all scores are 0
    assert pruner.loss(None) is None
    pruner.loss(masks).backward()
    assert all(bool((scores.grad > 0).all()) for scores in pruner._scores.values())


def test_soft_movement_may_leave_its_size_open() -> None:
    config = SoftMovementConfig(learning_rate=0.2, regularisation=100.0, finish="free")
    free, met = (
        begun(SoftMovement(config.model_copy(update={"finish": how})), Target(0.5)) for how in ("free", "topk")
    )
    recorded = [{kind: 0.01 * values for kind, values in found.items()} for found in random_gradients()]
    walk, other = walked(free, recorded), walked(met, recorded)
    assert torch.equal(walk[30]["ffn"], other[30]["ffn"])  # both by the threshold
    for kind, scores in free.scores().items():
        assert torch.equal(free.keep()[kind], above_threshold(scores, 0.1, [scores.numel()]))
    structure = structure_of(tiny_model())
    assert parameters(structure, free.keep()) < 0.2 * parameters(structure, {})
    assert free.sparsity(39) is None
    assert met.sparsity(20) is None
    assert met.sparsity(39) == pytest.approx(0.5)
    assert int((other[39]["ffn"] == 0).sum()) == 60  # the top-k has taken over


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_frozen_weights_stay_while_scores_and_classifier_learn(granularity: str) -> None:
    """After search and recovery, the small model is the one that could have been cut from the student at once."""
    pruner = Movement(MovementConfig(freeze_weights=True, granularity=granularity))
    trainer = run(pruner)
    found, expected = trainer.model.state_dict(), extract(tiny_model(), trainer.keep).state_dict()
    changed = {name for name, weight in expected.items() if not torch.equal(found[name], weight)}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert all(scores.any() for scores in pruner.scores().values())


def test_weights_that_went_get_gradients_again_after_the_run() -> None:
    trainer = run(Movement(MovementConfig(granularity="weight")))
    trainer.model.zero_grad()
    Observed(trainer.model)(tiny_data().batch(torch.arange(8))).logits.square().sum().backward()
    maps = [place.module.weight for place in adapter_for(trainer.model).maps(trainer.model)]
    gradients = torch.cat([weight.grad.flatten() for weight in maps])
    assert gradients[~trainer.keep[WEIGHT]].any()


@pytest.mark.parametrize("pruner", [Movement, SoftMovement])
def test_a_stopped_search_goes_on_to_the_same_scores(pruner: type[Movement]) -> None:
    recorded = random_gradients()
    whole, first, second = (begun(pruner(), Target(0.6)) for _ in range(3))
    walked(whole, recorded)
    walked(first, recorded[:20])
    second.load_state_dict(first.state_dict())
    for step, found in enumerate(recorded[20:], start=20):
        masks = second.masks(step)
        loss = second.loss(masks)
        if loss is not None:
            loss.backward()
        second.observe(step, masks, found)
        second.optimizers()[0].step()
        second.optimizers()[0].zero_grad()
    for kind, scores in whole.scores().items():
        assert torch.equal(scores, second.scores()[kind])
