"""GPP: checks from section 12 of its specification that the golden cases do not cover."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gppdfd.budget import Target, parameters, prunable, sparsity
from gppdfd.errors import UsageError
from gppdfd.gpp import GPP, GPPConfig, indicators, l1_term, scheduled_share, update_due, update_interval
from gppdfd.interface import Setting, parse_method
from gppdfd.structure import Structure, structure_of
from tests.tiny import tiny_model

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)


def begun(config: GPPConfig, target: Target, steps: int = 40, structure: Structure | None = None) -> GPP:
    model = tiny_model()
    pruner = GPP(config)
    pruner.begin(Setting(model, structure or structure_of(model), target, steps, torch.Generator().manual_seed(0)))
    return pruner


def feed(pruner: GPP, steps: range, gradients: dict[str, torch.Tensor]) -> None:
    for step in steps:
        masks = pruner.masks(step)
        pruner.observe(step, masks, gradients)


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0, 0), (0.1, 0.000599), (0.25, 0.021447), (0.5, 0.25), (0.75, 0.728553), (0.9, 0.951655), (1, 1)],
)
def test_schedule_of_the_specification(time: float, expected: float) -> None:
    assert scheduled_share(round(time * 1000), 1000) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("time", "expected"), [(0.1, 0.156434), (0.25, 0.382683), (0.5, 0.707107), (0.75, 0.923880), (0.9, 0.987688)]
)
def test_upop_schedule_of_the_specification(time: float, expected: float) -> None:
    assert scheduled_share(round(time * 1000), 1000, "cos_half") == pytest.approx(expected, abs=1e-6)


def test_cola_example_of_the_specification() -> None:
    assert update_interval(5360, 0.5) == 107
    shares = {step: scheduled_share(step, 5360) for step in (0, 1340, 2680, 4020, 5350, 5360)}
    counts = {step: [int(0.5 * share * n) for n in (144, 36864)] for step, share in shares.items()}
    assert counts == {
        0: [0, 0], 1340: [1, 395], 2680: [17, 4607], 4020: [52, 13428], 5350: [71, 18431], 5360: [72, 18432],
    }  # fmt: skip


@given(
    steps=st.integers(1, 400),
    percent=st.integers(1, 99),
    schedule=st.sampled_from(["cos2", "cos_half", "linear", "cubic"]),
)
def test_schedules_rise_from_0_to_1_and_end_with_an_update(steps: int, percent: int, schedule: str) -> None:
    shares = [scheduled_share(step, steps, schedule) for step in range(steps + 1)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(shares))
    assert update_due(steps, steps, percent / 100)
    assert math.isclose(
        sum(update_due(t, steps, percent / 100) for t in range(steps)),
        steps / update_interval(steps, percent / 100),
        abs_tol=1,
    )


@given(data=st.data())
def test_masks_take_two_values_with_exactly_k_low_ones(data: st.DataObject) -> None:
    layers, units = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    scores = torch.tensor(data.draw(st.lists(st.integers(-3, 3), min_size=layers * units, max_size=layers * units)))
    scores = scores.float().view(layers, units)
    target, share = data.draw(st.floats(0.01, 0.99)), data.draw(st.floats(0, 1))
    masks = indicators(scores, target, share)
    low = masks < 1
    assert int(low.sum()) in (int(target * share * layers * units), 0)  # 0 where the low value itself is 1
    assert bool((masks[low] == torch.tensor(1 - share)).all())
    if low.any():
        assert float(scores[low].min()) >= float(scores[~low].max()) if (~low).any() else True


@pytest.mark.parametrize(
    ("target", "heads", "dims", "encoder"),
    [(0.5, 72, 18432, 42.55), (0.6, 58, 14746, 34.13), (0.7, 44, 11060, 25.71), (0.8, 29, 7373, 17.09),
     (0.85, 22, 5530, 12.88), (0.9, 15, 3687, 8.67), (0.95, 8, 1844, 4.46), (0.97, 5, 1106, 2.74)],
)  # fmt: skip
def test_published_counts_on_bert_base(target: float, heads: int, dims: int, encoder: float) -> None:
    pruner = begun(GPPConfig(), Target(target, "published"), structure=BERT_BASE)
    stream = torch.Generator().manual_seed(1)
    gradients = {kind: torch.randn(BERT_BASE.shape(kind), generator=stream) for kind in ("head", "ffn")}
    pruner.observe(0, gradients, gradients)
    keep = pruner.keep()
    assert (int(keep["head"].sum()), int(keep["ffn"].sum())) == (heads, dims)
    with_layer_norms = parameters(BERT_BASE, keep) + 2 * 2 * 768 * 12
    assert with_layer_norms / 1e6 == pytest.approx(encoder, abs=0.005)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95, 0.97, 0.99])
def test_to_target_meets_the_sparsity_within_one_ffn_dim(target: float) -> None:
    for structure in (BERT_BASE, Structure(4, 128, 8, 16, 512), Structure(3, 32, 4, 8, 40)):
        pruner = begun(GPPConfig(), Target(target), structure=structure)
        gradients = {kind: torch.randn(structure.shape(kind)) for kind in ("head", "ffn")}
        pruner.observe(0, gradients, gradients)
        missing = (1 - target) * prunable(structure) - parameters(structure, pruner.keep())
        assert -1 <= missing < 2 * structure.hidden + 2  # one FFN dim
        assert sparsity(structure, pruner.keep()) >= target - 1e-6


def test_regrowth_when_gradients_turn() -> None:
    pruner = begun(GPPConfig(), Target(0.5), steps=100)
    up = {kind: torch.zeros(values) for kind, values in (("head", (3, 4)), ("ffn", (3, 40)))}
    up["head"][0, 0] = 1.0
    feed(pruner, range(60), up)
    assert pruner.masks(60)["head"][0, 0] < 1
    feed(pruner, range(60, 100), {kind: -3 * values for kind, values in up.items()})
    assert pruner.masks(100)["head"][0, 0] == 1
    assert pruner.keep()["head"][0, 0]


def test_final_masks_are_binary_and_equal_the_keep() -> None:
    pruner = begun(GPPConfig(), Target(0.6, "published"), steps=30)
    stream = torch.Generator().manual_seed(2)
    shapes = {"head": (3, 4), "ffn": (3, 40)}
    for step in range(30):
        pruner.observe(step, pruner.masks(step), {k: torch.randn(s, generator=stream) for k, s in shapes.items()})
    final = pruner.masks(30)
    for kind, keep in pruner.keep().items():
        assert set(final[kind].unique().tolist()) == {0.0, 1.0}
        assert torch.equal(final[kind] > 0, keep)


def test_abs_with_l1_and_signed_mean_agree_for_small_gradients() -> None:
    gradients = {kind: torch.randn(shape) * 0.1 for kind, shape in (("head", (3, 4)), ("ffn", (3, 40)))}
    signed = begun(GPPConfig(), Target(0.5))
    released = begun(GPPConfig(importance="abs_mean_with_l1"), Target(0.5))
    feed(signed, range(40), gradients)
    feed(released, range(40), {kind: values + 0.5 for kind, values in gradients.items()})
    for kind, keep in signed.keep().items():
        assert torch.equal(keep, released.keep()[kind])


def test_the_l1_term_reaches_masks_that_are_zero() -> None:
    masks = {"ffn": torch.tensor([[0.0, 0.3, 1.0]], requires_grad=True)}
    l1_term(masks, 0.5).backward()
    assert masks["ffn"].grad.tolist() == [[0.5, 0.5, 0.5]]


def test_the_l1_criterion_needs_the_total_gradient() -> None:
    with pytest.raises(UsageError, match="needs gradient total"):
        parse_method("gpp(importance=abs_mean_with_l1,gradient=task)+none")


@pytest.mark.parametrize("importance", GPPConfig.model_fields["importance"].annotation.__args__)
@pytest.mark.parametrize("mask", ["progressive", "hard_gradual", "hard_once"])
def test_every_importance_and_mask_path_ends_at_the_target(importance: str, mask: str) -> None:
    pruner = begun(GPPConfig(importance=importance, mask=mask), Target(0.7))
    stream = torch.Generator().manual_seed(3)
    for step in range(40):
        masks = pruner.masks(step)
        allowed = {"progressive": None, "hard_gradual": {0.0, 1.0}, "hard_once": {1.0}}[mask]
        if allowed:
            assert set(masks["ffn"].unique().tolist()) <= allowed
        pruner.observe(step, masks, {kind: torch.randn(v.shape, generator=stream) for kind, v in masks.items()})
    structure = structure_of(tiny_model())
    assert sparsity(structure, pruner.keep()) == pytest.approx(0.7, abs=0.005)


def test_taylor_keeps_the_units_with_the_largest_products() -> None:
    pruner = begun(GPPConfig(importance="taylor"), Target(0.5, "published"))
    gradients = {"head": torch.arange(12.0).view(3, 4) - 6, "ffn": torch.arange(120.0).view(3, 40) - 60}
    feed(pruner, range(40), gradients)
    kept = pruner.keep()["head"]
    assert gradients["head"].abs()[kept].min() >= gradients["head"].abs()[~kept].max()


def test_taylor_ranks_by_the_product_of_mask_and_gradient() -> None:
    pruner = begun(GPPConfig(importance="taylor"), Target(0.5))
    masks = {kind: values.clone() for kind, values in pruner.masks(0).items()}
    masks["head"][0] = torch.tensor([0.0, 0.25, 0.5, 1.0])
    for step, sign in enumerate((1, -1)):
        pruner.observe(step, masks, {kind: torch.full_like(values, sign * 4.0) for kind, values in masks.items()})
    assert pruner.unimportance()["head"][0].tolist() == [0.0, -1.0, -2.0, -4.0]
