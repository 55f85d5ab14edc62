"""CoFi's layerwise distillation beyond its golden cases: matching, the map, random layers, regression, state."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.cofi import (
    Layerwise,
    LayerwiseConfig,
    closest_layers,
    distance_table,
    distances,
    matchable_layers,
    ordered_layers,
    same_distance,
    taught_layers,
)
from gppdfd.budget import Target
from gppdfd.interface import parse_method, pruners
from gppdfd.settings import TrainingConfig
from gppdfd.training import Trainer
from gppdfd.views import View
from tests.tiny import tiny_data, tiny_model

RULES = (closest_layers, ordered_layers)
SHAPE = (2, 5, 32)
BATCH = tiny_data().batch(torch.arange(2))


def begun(config: LayerwiseConfig | None = None, labels: int = 3) -> Layerwise:
    distiller = Layerwise(config)
    student, teacher = tiny_model(labels=labels), tiny_model(labels=labels, seed=9)
    data, training = tiny_data(labels=labels), TrainingConfig(batch_size=8, search_epochs=1, recovery_epochs=0)
    pruner, regression = pruners()["random"](), labels == 1
    Trainer(
        student, pruner, distiller, data, training, teacher=teacher, target=Target(0.5), regression=regression
    ).begin()
    return distiller


def view(seed: int, layers: int = 3, ffn: tuple[bool, ...] = (True, True, True), logits: int = 3) -> View:
    stream = torch.Generator().manual_seed(seed)
    states = tuple(torch.randn(SHAPE, generator=stream) for _ in range(layers + 1))
    there = {"ffn_layer": torch.tensor(ffn), "mha_layer": torch.ones(layers, dtype=torch.bool)}
    scores = torch.randn(2, logits, generator=stream, requires_grad=True)
    return View(scores, states, torch.ones(SHAPE[:2], dtype=torch.long), there=there)


@st.composite
def tables(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A table of distances and which of the student layers exist, at least one."""
    layers = draw(st.integers(1, 12))
    exists = torch.tensor(draw(st.lists(st.booleans(), min_size=layers, max_size=layers).filter(any)))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return torch.rand(draw(st.integers(1, 4)), layers, generator=stream), exists


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(case=tables())
def test_matching_never_returns_a_removed_layer(rule, case: tuple[torch.Tensor, torch.Tensor]) -> None:
    table, exists = case
    assert bool(exists[rule(table, exists)].all())


@settings(max_examples=60, deadline=None)
@given(case=tables())
def test_ordered_matches_rise_strictly_until_the_last_one_left_repeats(case) -> None:
    table, exists = case
    matches = ordered_layers(table, exists).tolist()
    first = int(exists.nonzero()[0])
    for shallow, deep in pairwise(matches):
        assert shallow < deep or shallow == deep == first


@pytest.mark.parametrize("rule", RULES)
def test_one_layer_left_takes_all_and_none_left_means_all(rule) -> None:
    table = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    assert rule(table, torch.arange(6) == 2).tolist() == [2, 2, 2, 2]
    none = torch.zeros(6, dtype=torch.bool)
    assert torch.equal(rule(table, none), rule(table, ~none))


def test_equal_layer_costs_nothing_and_the_map_begins_as_the_identity() -> None:
    teacher = view(0)
    distiller = begun(LayerwiseConfig(teacher_layers="all"))
    student = View(teacher.logits, teacher.hidden_states, teacher.attention_mask, there=view(0).there)
    assert float(distiller.losses(student, teacher, BATCH, None)["features"].detach()) == 0
    for parameter in distiller.parameters():
        expected = torch.eye(32) if parameter.ndim == 2 else torch.zeros(32)
        assert torch.equal(parameter, expected)


def test_map_is_trained() -> None:
    distiller = begun()
    distiller.losses(view(0), view(1), BATCH, None)["features"].backward()
    assert all(bool(parameter.grad.any()) for parameter in distiller.parameters())


def test_padding_leaves_the_mean() -> None:
    stream = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, *SHAPE, generator=stream) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = distances(student, teacher, mask)
    error = (student - teacher).square().mean(-1)[:, mask.bool()]
    torch.testing.assert_close(found, error.mean(-1))
    torch.testing.assert_close(distances(student, teacher), (student - teacher).square().flatten(1).mean(1))


def test_table_has_the_distances_of_all_pairs() -> None:
    stream = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, *SHAPE, generator=stream), torch.randn(2, *SHAPE, generator=stream)
    table = distance_table(student, teacher)
    assert table.shape == (2, 3)
    torch.testing.assert_close(table[1, 2], (student[2] - teacher[1]).square().mean())


def test_same_layers_leave_removed_ones_out() -> None:
    stream = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, *SHAPE, generator=stream) for _ in range(2))
    exists = torch.tensor([True, False, True])
    found = same_distance(student, teacher, None, exists, [0, 1, 2])
    expected = sum((student[layer] - teacher[layer]).square().mean() for layer in (0, 2))
    torch.testing.assert_close(found, expected)
    shallow = same_distance(student[:2], torch.randn(4, *SHAPE), None, exists[:2], [3])
    assert float(shallow) == 0  # the last of four is the second of two, which is gone


@pytest.mark.parametrize("count", [1, 3, 4, 6, 12])
def test_taught_layers(count: int) -> None:
    stream = torch.Generator().manual_seed(0)
    quarters = taught_layers(count, "quarters", stream)
    assert taught_layers(count, "all", stream) == list(range(count))
    seen = set()
    for _ in range(20):
        for which in ("random", "random_quarters"):
            layers = taught_layers(count, which, stream)
            assert layers == sorted(set(layers))
            assert len(layers) == len(quarters)
        assert all(layer <= end for layer, end in zip(layers, quarters, strict=True))
        seen.add(tuple(layers))
    assert (len(seen) > 1) == (count > 4)


def test_taught_layers_of_bert_base_are_the_papers() -> None:
    assert taught_layers(12, "quarters", torch.Generator()) == [2, 5, 8, 11]


def test_what_makes_a_layer_exist() -> None:
    there = {"ffn_layer": torch.tensor([True, False, False]), "mha_layer": torch.tensor([False, True, False])}
    found = {rule: matchable_layers(there, rule).tolist() for rule in ("ffn", "mha", "either", "always")}
    assert found == {
        "ffn": [True, False, False],
        "mha": [False, True, False],
        "either": [True, True, False],
        "always": [True, True, True],
    }


def test_existence_reaches_the_loss_and_may_end_at_extraction() -> None:
    student, teacher, masks = view(0, ffn=(True, False, False)), view(1), {"ffn_layer": torch.tensor([1.0, 0, 0])}

    def loss(masks, **options) -> float:
        distiller = begun(LayerwiseConfig(**options))
        return float(distiller.losses(student, teacher, BATCH, masks)["features"].detach())

    assert loss(None) == loss(masks) > loss(None, exists="always")
    assert loss(masks, exists_extracted="always") == loss(masks)
    assert loss(None, exists_extracted="always") == loss(None, exists="always")


@pytest.mark.parametrize("options", ["matching=same,teacher_layers=all", "matching=ordered,teacher_layers=random"])
def test_every_version_trains(options: str) -> None:
    method = parse_method(f"l0+layerwise({options},mask_padding=off)")
    pruner, distiller = method.build()
    settings = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=1, recovery_epochs=1)
    trainer = Trainer(
        tiny_model(), pruner, distiller, tiny_data(), settings, teacher=tiny_model(seed=9), target=Target(0.5)
    )
    assert trainer.run().agreement < 1e-5


def test_hard_labels_are_unused_and_a_regression_learns_from_the_outputs() -> None:
    distiller = begun(labels=1)
    assert [distiller.weight(part) for part in ("task", "soft", "features")] == [0, 0.1, 0.9]
    student, teacher = view(0, logits=1), view(1, logits=1)
    soft = distiller.losses(student, teacher, BATCH, None)["soft"]
    torch.testing.assert_close(soft, (student.logits - teacher.logits).square().mean())
    (gradient,) = torch.autograd.grad(soft, student.logits)
    assert bool((gradient != 0).all())


def test_state_holds_the_map_and_the_stream() -> None:
    config = LayerwiseConfig(teacher_layers="random")
    first, second = begun(config), begun(config)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.rand(parameter.shape))
    for _ in range(3):
        first.losses(view(0), view(1), BATCH, None)
    second.load_state_dict(first.state_dict())
    for seed in range(5):
        expected, found = (each.losses(view(seed), view(9), BATCH, None) for each in (first, second))
        assert torch.equal(expected["features"], found["features"])


def test_cofi_is_l0_and_layerwise_with_a_phase_before() -> None:
    method, pair = parse_method("cofi"), parse_method("l0+layerwise")
    assert method.identity() == pair.identity()
    assert method.training == {"before_share": 0.05}
