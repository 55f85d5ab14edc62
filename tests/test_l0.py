"""L0 pruning beyond its golden cases: the distribution, the size, the decision, and every subset of units."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.l0 import (
    BOUND,
    KINDS,
    L0,
    L0Config,
    _fit,
    adam_settings,
    decision,
    decision_at_target,
    deterministic_keep,
    deterministic_masks,
    expected_sparsity,
    lagrangian,
    presence,
    ramp_share,
    ramped,
    sampled_masks,
    zero_probability,
)
from gppdfd.budget import Target, forward_flops, parameters, prunable, sparsity
from gppdfd.errors import UsageError
from gppdfd.evaluation import predict
from gppdfd.extraction import disagreement, extract
from gppdfd.interface import distillers, parse_method
from gppdfd.masks import current_masks
from gppdfd.settings import TrainingConfig
from gppdfd.structure import Masks, Structure, structure_of
from gppdfd.training import Hooks, Trainer
from gppdfd.views import View
from tests.tiny import tiny_data, tiny_model

ALL = L0Config().kinds
BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)
TINY = structure_of(tiny_model())
SUBSETS = ["+".join(units) for size in range(1, 5) for units in itertools.combinations(KINDS, size)]
SHORT = TrainingConfig(batch_size=8, learning_rate=1e-3, before_epochs=0.2, search_epochs=1, recovery_epochs=0.2)


def random_logits(seed: int, structure: Structure = TINY, kinds: tuple[str, ...] = ALL) -> Masks:
    """Log-alphas all over their range, in float64."""
    stream = torch.Generator().manual_seed(seed)
    draw = {kind: torch.rand(structure.shape(kind), generator=stream, dtype=torch.double) for kind in kinds}
    return {kind: (2 * values - 1) * BOUND for kind, values in draw.items()}


def same_logits(value: float, structure: Structure = BERT_BASE) -> Masks:
    return {kind: torch.full(structure.shape(kind), value, dtype=torch.double) for kind in ALL}


def trainer(
    pruner: L0, target: Target | None = None, labels: int = 3, config: TrainingConfig = SHORT, distiller: str = "none"
) -> Trainer:
    target = target or Target(0.5)
    data, teacher = tiny_data(labels=labels), tiny_model(labels=labels, seed=9)
    built = distillers()[distiller]()
    return Trainer(tiny_model(labels=labels), pruner, built, data, config, teacher=teacher, target=target, seed=1)


def begun(pruner: L0 | None = None) -> L0:
    """A pruner before the first of its 5 search steps."""
    ready = pruner or L0()
    trainer(ready).begin()
    return ready


@pytest.mark.parametrize(
    ("logit", "probability"), [(-4.60517, 0.047130), (0, 0.831822), (4.60517, 0.997982), (10, 0.999991)]
)
def test_presence_is_that_of_the_paper_and_of_the_samples(logit: float, probability: float) -> None:
    logits = torch.full((40_000,), logit, dtype=torch.double)
    assert float(1 - zero_probability(logits[:1])) == pytest.approx(probability, abs=1e-6)
    uniform = torch.rand(len(logits), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    assert float((sampled_masks(logits, uniform) > 0).double().mean()) == pytest.approx(probability, abs=0.01)


def test_zeros_and_ones_are_as_likely_at_the_middle() -> None:
    uniform = torch.arange(0.5, 100_000).double() / 100_000
    sampled = sampled_masks(torch.zeros_like(uniform), uniform)
    for value in (0, 1):
        assert float((sampled == value).double().mean()) == pytest.approx(0.168178, abs=1e-4)


def test_released_size_of_bert_base() -> None:
    for logits, expected in ((same_logits(BOUND), 0.00658), (same_logits(100), 0.000542)):
        found = expected_sparsity(BERT_BASE, presence(logits), Target(0.5), "released")
        assert float(found) == pytest.approx(expected, abs=2e-5)
    assert prunable(BERT_BASE) == 85_017_600


def test_exact_size_of_the_dense_model_is_that_of_the_dense_model() -> None:
    full = {kind: torch.ones(TINY.shape(kind), dtype=torch.double) for kind in ALL}
    for target in (Target(0.5), Target(flops=1e6)):
        assert float(expected_sparsity(TINY, full, target)) == pytest.approx(0, abs=1e-7)
    nothing = {kind: torch.zeros_like(values) for kind, values in full.items()}
    assert float(expected_sparsity(TINY, nothing, Target(0.5))) == 1


@given(step=st.integers(0, 200))
def test_target_rises_linearly_and_then_stays(step: int) -> None:
    assert ramped(step, 100) == min(100, step) / 100
    assert ramped(step, 0) == 1


def test_a_short_search_ramps_for_longer() -> None:
    assert [ramp_share(steps) for steps in (100, 1950, 3120, 7800, 100_000)] == [0.8, 0.8, 0.5, 0.2, 0.2]


def test_half_of_the_units_go_at_the_start_of_the_released_ffn() -> None:
    """The released start of FFN dims makes 11 % expected sparsity of the first step."""
    logits = same_logits(10) | {"ffn": torch.zeros(BERT_BASE.shape("ffn"), dtype=torch.double)}
    found = expected_sparsity(BERT_BASE, presence(logits), Target(0.5), "released")
    assert float(found) == pytest.approx(0.113, abs=0.001)
    pruner = begun(L0(L0Config(ffn_init_mean=0)))
    assert float(pruner.state_dict()["logits"]["ffn"].abs().max()) < 0.1
    assert all(float(values.min()) > 4.6 for values in begun().state_dict()["logits"].values())


def test_multipliers_climb_towards_the_sign_of_the_gap_and_are_bounded() -> None:
    multipliers = torch.zeros(2, requires_grad=True)
    lagrangian(torch.tensor(0.2), multipliers).backward()
    assert (multipliers.grad > 0).all()  # too sparse: both rise, which pulls the sparsity down
    multipliers = torch.zeros(2, requires_grad=True)
    lagrangian(torch.tensor(-0.2), multipliers).backward()
    assert multipliers.grad[0] < 0 < multipliers.grad[1]
    for bound in (0.3, None):
        pruner = L0(L0Config(multiplier_bound=bound, mask_learning_rate=1.0, ramp=0))
        trainer(pruner).run()
        assert (float(pruner.state_dict()["multipliers"].abs().max()) < 0.301) == (bound is not None)


def test_too_little_sparsity_lowers_every_probability() -> None:
    pruner = begun(L0(L0Config(ramp=0)))
    for step in range(3):  # later the sparsity swings around the target
        pruner.loss(pruner.masks(step)).backward()
        for optimizer in pruner.optimizers():
            optimizer.step()
            optimizer.zero_grad()
    state = pruner.state_dict()
    assert all(float(values.max()) < BOUND for values in state["logits"].values())
    assert state["multipliers"][0] < 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), units=st.integers(1, 60))
def test_decision_removes_the_expected_number_whatever_the_order(seed: int, units: int) -> None:
    logits = random_logits(seed, replace(TINY, intermediate=units))["ffn"]
    keep = deterministic_keep(logits)
    for row, expected in zip(keep, zero_probability(logits).sum(-1).tolist(), strict=True):
        assert int((~row).sum()) == round(expected)
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(deterministic_keep(logits[:, order]), keep[:, order])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shifts=st.tuples(st.floats(-20, 20), st.floats(-20, 20)))
def test_a_larger_shift_keeps_a_superset(seed: int, shifts: tuple[float, float]) -> None:
    low, high = (decision(random_logits(seed), shift) for shift in sorted(shifts))
    assert all(bool((high[kind] | ~low[kind]).all()) for kind in low)
    assert low["hidden"].any()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.02, 0.97), offset=st.floats(-9, 9))
def test_decision_meets_the_target_within_one_ffn_dim(seed: int, share: float, offset: float) -> None:
    logits = {kind: (values + offset).clamp(-BOUND, BOUND) for kind, values in random_logits(seed).items()}
    target = Target(share)
    keep = decision_at_target(TINY, logits, target)
    assert 0 <= target.budget(TINY) - parameters(TINY, keep) < 2 * TINY.hidden + 1


@pytest.mark.parametrize("kinds", [("ffn",), ("head", "ffn")])
@pytest.mark.parametrize("change", [-5, 5])
def test_a_target_is_filled_on_top_of_the_decision_and_cut_back_from_it(kinds: tuple[str, ...], change: int) -> None:
    """Whatever log-alphas another layer has: which share of its units a layer keeps is its own."""
    logits = random_logits(7, kinds=kinds)
    logits["ffn"][0] /= 10
    decided = decision(logits)
    target = Target(params=parameters(TINY, decided) + change * (2 * TINY.hidden + 1))
    before, after = decided["ffn"], _fit(TINY, decided, logits, target)["ffn"]
    eligible, moved = (~before, after & ~before) if change > 0 else (before, before & ~after)
    assert int((before ^ after).sum()) == abs(change) == int(moved.sum())
    best = logits["ffn"][eligible].topk(abs(change), largest=change > 0).values
    assert torch.equal(logits["ffn"][moved].sort().values, best.sort().values)


@pytest.mark.parametrize("seed", range(3))
def test_a_target_is_filled_up_with_dims_of_an_ffn_that_the_decision_removes(seed: int) -> None:
    logits = same_logits(BOUND, TINY) | {"head": random_logits(seed)["head"]}
    logits["ffn_layer"] = -BOUND + torch.arange(TINY.layers).double() / 10
    target = Target(0.6)
    keep = decision_at_target(TINY, logits, target)
    assert keep["ffn_layer"].tolist() == [False, False, True]
    assert 0 <= target.budget(TINY) - parameters(TINY, keep) < 2 * TINY.hidden + 1


def test_decision_meets_a_flops_target() -> None:
    target = Target(flops=0.4 * forward_flops(TINY, {}, 16), tokens=16)
    keep = decision_at_target(TINY, random_logits(3), target)
    assert 0.36 < forward_flops(TINY, keep, 16) / forward_flops(TINY, {}, 16) <= 0.4


def test_moving_the_boundary_leaves_the_rankings_alone() -> None:
    """Hidden dims and whole layers that stay are those of largest log-alpha; in a layer, so are its heads."""
    logits = random_logits(5)
    keep = decision_at_target(TINY, logits, Target(0.6))
    for kind in ("hidden", "mha_layer"):
        kept, gone = logits[kind][keep[kind]], logits[kind][~keep[kind]]
        assert not len(kept) or not len(gone) or kept.min() > gone.max()


def test_published_counts_are_those_of_the_deterministic_masks() -> None:
    pruner = L0()
    trainer(pruner, Target(0.5, count="published")).begin()
    pruner.load_state_dict(pruner.state_dict() | {"logits": random_logits(2)})
    logits = {kind: values.float().double() for kind, values in random_logits(2).items()}
    masks, keep = deterministic_masks(logits), pruner.keep()
    assert torch.equal(keep["hidden"], masks["hidden"] > 0)
    living = masks["ffn"] * masks["ffn_layer"][:, None]
    assert torch.equal(keep["ffn"], living > 0)


@pytest.mark.parametrize("units", SUBSETS)
def test_every_subset_of_units_trains_and_folds(units: str) -> None:
    """A step of each phase; soft masks in the forward pass and folded into the weights give the same logits."""
    method = parse_method(f"l0(units={units},mask_learning_rate=1)+layerwise")
    assert set(method.pruner_config.kinds) == {kind for unit in units.split("+") for kind in KINDS[unit]}
    pruner = L0(method.pruner_config)
    target = Target(0.0 if pruner.unreachable(TINY, Target(0.5)) else 0.5)
    training = trainer(pruner, target, distiller="layerwise")
    before = {kind: values.clone() for kind, values in begun(L0(method.pruner_config)).state_dict()["logits"].items()}
    trained = training.run()
    after = pruner.state_dict()["logits"]
    assert all(not torch.equal(before[kind], after[kind]) for kind in after)
    assert trained.agreement < 1e-5
    assert set(trained.keep) == set(pruner.config.kinds)
    assert parameters(TINY, trained.keep) <= target.budget(TINY)


@settings(max_examples=12, deadline=None)
@given(units=st.sampled_from(SUBSETS), seed=st.integers(0, 100))
def test_soft_masks_fold_exactly(units: str, seed: int) -> None:
    model = tiny_model().double()
    masks = deterministic_masks(random_logits(seed, kinds=L0Config(units=units).kinds))
    keep = {kind: values > 0 for kind, values in masks.items()}
    batches = [tiny_data().batch(torch.arange(6))]
    assert disagreement(model, extract(model, keep, masks), keep, batches, masks) < 1e-10


def test_the_score_before_binarisation_is_that_of_the_deterministic_masks() -> None:
    """With the published counts nothing but the form of the masks changes then, so both scores are one."""
    history: list[dict] = []
    hooks = Hooks(log=history.append, evaluate=lambda model: predict(model, tiny_data(), torch.device("cpu")))
    training = trainer(L0(), Target(0.5, count="published"))
    training.hooks = hooks
    training.run()
    (noted,) = (entry["binarisation"] for entry in history if "binarisation" in entry)
    assert noted["before"] == pytest.approx(noted["after"], abs=1e-4)


def test_encodings_of_the_student_are_those_of_the_deterministic_masks() -> None:
    """In training mode those of the last draw, and where no masks are in force, as before the search, none."""
    training = trainer(L0())
    training.begin()
    drawn, seen = training.pruner.masks(0), []

    def read(view: View) -> torch.Tensor:
        seen.append(current_masks(training.model))
        return view.logits

    for masks, mode, expected in (
        (drawn, False, training.pruner.evaluation_masks()),
        (drawn, True, drawn),
        (None, False, {}),
    ):
        training.encoder.masks = masks
        training.services.encodings(read, "student", training_mode=mode)
        assert set(seen[-1]) == set(expected)
        assert all(torch.equal(seen[-1][kind], values) for kind, values in expected.items())
        assert training.encoder.masks is masks


def test_dense_target_keeps_everything_there_is() -> None:
    pruner = L0()
    trained = trainer(pruner, Target(0.0)).run()
    assert sparsity(TINY, trained.keep) == 0
    assert trained.agreement < 1e-5


def test_a_stopped_search_goes_on_to_the_same_masks() -> None:
    """Log-alphas, multipliers, both optimisers and the random stream are in the state."""

    def steps(pruner: L0, first: int, last: int) -> None:
        for step in range(first, last):
            masks = pruner.masks(step)
            (pruner.loss(masks) + sum(values.square().sum() for values in masks.values())).backward()
            for optimizer in pruner.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    whole, stopped, resumed = begun(), begun(), begun()
    steps(whole, 0, 4)
    steps(stopped, 0, 2)
    resumed.load_state_dict(stopped.state_dict())
    steps(stopped, 2, 5)  # what goes on here does not reach the state that was taken
    steps(resumed, 2, 4)
    expected, found = whole.masks(4), resumed.masks(4)
    assert all(torch.equal(found[kind], expected[kind]) for kind in expected)
    assert torch.equal(whole.state_dict()["multipliers"], resumed.state_dict()["multipliers"])


def test_unreachable_names_what_there_is_to_remove() -> None:
    message = L0(L0Config(units="heads")).unreachable(TINY, Target(0.9))
    assert message is not None
    assert "heads" in message
    assert L0().unreachable(TINY, Target(0.99)) is None


def test_search_has_its_own_schedule() -> None:
    pruner = begun()
    assert [pruner.restart(step) for step in range(3)] == [5, None, None]


def test_masks_learn_as_published_in_a_long_search_and_faster_in_a_short_one() -> None:
    assert adam_settings(20_000) == {"lr": 0.01, "betas": (0.9, 0.999)}
    short, shorter = adam_settings(1000), adam_settings(500)
    assert 2 * short["lr"] == pytest.approx(shorter["lr"])
    assert all(fast < slow for fast, slow in zip(shorter["betas"], short["betas"], strict=True))
    fixed = begun(L0(L0Config(mask_learning_rate=0.02))).optimizers()
    assert all(group["lr"] == 0.02 for optimizer in fixed for group in optimizer.param_groups)


@pytest.mark.parametrize("steps", [100, 400])
def test_sparsity_settles_at_its_target(steps: int) -> None:
    """Without any other loss, in a search of a few steps and in a longer one."""
    pruner = L0()
    config = SHORT.model_copy(update={"search_epochs": steps / 5})
    trainer(pruner, Target(0.8), config=config).begin()
    weights = random_logits(0)
    for step in range(steps):
        masks = pruner.masks(step)
        useful = sum((weights[kind].exp() * (1 - values)).sum() / values.numel() for kind, values in masks.items())
        (pruner.loss(masks) + 0.05 * useful).backward()
        for optimizer in pruner.optimizers():
            optimizer.step()
            optimizer.zero_grad()
    logits = pruner.state_dict()["logits"]
    assert float(expected_sparsity(TINY, presence(logits), Target(0.8))) == pytest.approx(0.8, abs=0.06)


def test_units_are_a_set_of_known_names() -> None:
    assert parse_method("l0(units=ffn+heads)+none").identity() == parse_method("l0(units=heads+ffn)+none").identity()
    assert parse_method("l0+none").identity() == parse_method("l0(units=layers+hidden+ffn+heads)+none").identity()
    for text in ("l0(units=heads+tails)+none", "l0(units=)+none"):
        with pytest.raises(UsageError):
            parse_method(text)
