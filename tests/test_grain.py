"""GRAIN beyond its golden cases: the cut, the schedule's end, what scores see, and the maps of the distiller."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import cosine_similarity

from baselines.grain import (
    Grain,
    GrainConfig,
    GrainDistiller,
    GrainDistillerConfig,
    density,
    global_cut,
    soft_cross_entropy,
    state_loss,
    state_pairs,
    structure_factor,
    unit_parameters,
    without_dead_queries,
)
from gppdfd.budget import Target, parameters, prunable
from gppdfd.factorise import embedding_rank
from gppdfd.interface import Setting, parse_method
from gppdfd.masks import masked
from gppdfd.optimisation import Optimisation
from gppdfd.settings import TrainingConfig
from gppdfd.structure import KINDS, Keep, Structure, structure_of
from gppdfd.training import Trainer
from gppdfd.views import Observed
from tests.tiny import tiny_data, tiny_model

BERT_BASE = Structure(layers=12, hidden=768, heads=12, head_size=64, intermediate=3072)
SMALL = structure_of(tiny_model())
UNITS = ("qk", "vo", "ffn")
SETTINGS = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=2, recovery_epochs=1, flooding=0.0)


def pruner(target: Target, steps: int = 40, structure: Structure = SMALL, **options) -> Grain:
    """A pruner at the start of its search."""
    made = Grain(GrainConfig(**options))
    made.begin(Setting(torch.nn.Linear(1, 1), structure, target, steps, torch.Generator().manual_seed(0)))
    return made


def searched(made: Grain, seed: int = 0) -> list[Keep]:
    """Units left before every step and at the end, under random gradients."""
    stream = torch.Generator().manual_seed(seed)
    found = []
    for step in range(made.setting.search_steps):
        masks = made.masks(step)
        found.append({kind: values.bool() for kind, values in masks.items()})
        made.observe(step, masks, {kind: torch.randn(v.shape, generator=stream) for kind, v in masks.items()})
    return [*found, made.keep()]


def share(structure: Structure, left: Keep) -> float:
    """Density over the units' own parameters."""
    sizes = {kind: unit_parameters(structure, kind) for kind in UNITS}
    total = sum(sizes[kind] * left[kind].numel() for kind in UNITS)
    return sum(sizes[kind] * int(left[kind].sum()) for kind in UNITS) / total


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        (0.05, [1, 0.45078, 0.16875, 0.06484, 0.05]),
        (0.03, [1, 0.43922, 0.15125, 0.04516, 0.03]),
        (0.20, [1, 0.5375, 0.3, 0.2125, 0.2]),
    ],
)
def test_density_follows_the_cubic_of_the_paper(final: float, expected: list[float]) -> None:
    found = [density(step, 8_416, 16_832, final) for step in range(8_416, 16_833, 2_104)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert density(0, 8_416, 16_832, final) == 1
    assert density(42_080, 8_416, 16_832, final) == final


@settings(max_examples=20, deadline=None)
@given(due=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_cut_leaves_the_density_and_less_than_one_unit_more(due: float, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    scores = {kind: torch.rand(SMALL.shape(kind), generator=stream) for kind in UNITS}
    gone = global_cut(scores, {kind: unit_parameters(SMALL, kind) for kind in UNITS}, due)
    least = sum(unit_parameters(SMALL, kind) * scores[kind].numel() for kind in UNITS)
    assert due <= share(SMALL, {kind: ~units for kind, units in gone.items()}) + 1e-12
    assert share(SMALL, {kind: ~units for kind, units in gone.items()}) < due + unit_parameters(SMALL, "qk") / least
    lowest = min(scores[kind][~gone[kind]].min() for kind in UNITS if not gone[kind].all())
    assert all(bool((scores[kind][gone[kind]] <= lowest).all()) for kind in UNITS)


def test_unit_parameters_are_those_that_extraction_removes() -> None:
    assert {kind: unit_parameters(BERT_BASE, kind) for kind in UNITS} == {"qk": 1538, "vo": 1537, "ffn": 1537}
    gated = Structure(2, 10, 2, 6, 9, pair=2, gated=True, qkv_bias=False, up_bias=False)
    assert {kind: unit_parameters(gated, kind) for kind in UNITS} == {"qk": 40, "vo": 20, "ffn": 30}


@pytest.mark.parametrize("steps", [20, 40, 100])
def test_the_search_really_ends_at_its_density(steps: int) -> None:
    """The released loop stops one step early."""
    made = pruner(Target(0.95, count="published"), steps, drop_dead_queries=False)
    one = 1.01 * unit_parameters(SMALL, "qk") / (prunable(SMALL) - 3 * 2 * 32)
    assert 0 <= share(SMALL, searched(made)[-1]) - 0.05 < one
    early = pruner(Target(0.95, count="published"), steps, drop_dead_queries=False, end=0.8, last_cut="released")
    late = pruner(Target(0.95, count="published"), steps, drop_dead_queries=False, end=0.8)
    assert share(SMALL, searched(early)[-1]) >= share(SMALL, searched(late)[-1])


@pytest.mark.parametrize("options", [{}, {"units": "heads"}, {"ranking": "per_kind"}, {"drop_dead_queries": False}])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.97])
def test_the_keep_meets_the_target_in_less_than_one_ffn_dim(sparsity: float, options: dict) -> None:
    keep = searched(pruner(Target(sparsity), **options))[-1]
    assert 0 <= Target(sparsity).budget(SMALL) - parameters(SMALL, keep) < 2 * SMALL.hidden + 1


@pytest.mark.parametrize("target", [Target(params=4_000), Target(flops=1e5, tokens=16)])
def test_other_targets_are_met_too(target: Target) -> None:
    keep = searched(pruner(target))[-1]
    assert 0.9 * target.budget(SMALL) < target.cost(SMALL, keep) <= target.budget(SMALL)


def test_small_scores_rank_to_the_end() -> None:
    """Scores of long runs are around 1e-8; one power of two for all of them changes no place."""
    made, small = pruner(Target(0.5)), pruner(Target(0.5))
    stream = torch.Generator().manual_seed(0)
    for step in range(40):
        gradients = {kind: torch.randn(v.shape, generator=stream) for kind, v in made.masks(step).items()}
        made.observe(step, made.masks(step), gradients)
        small.observe(step, small.masks(step), {kind: values * 2.0**-27 for kind, values in gradients.items()})
    kept, kept_small = made.keep(), small.keep()
    assert all(torch.equal(kept[kind], kept_small[kind]) for kind in kept)


def test_scores_that_are_a_billionth_of_the_largest_rank_to_the_end() -> None:
    """Whole heads go, so that the keep that they leave is filled up or cut back by more than one FFN dim."""
    stream = torch.Generator().manual_seed(0)
    for sparsity in (0.3, 0.4, 0.5, 0.6):
        made = pruner(Target(sparsity), units="heads")
        left = made.state_dict()["left"]
        scores = {kind: 1e-9 * torch.rand(units.shape, generator=stream) for kind, units in left.items()}
        scores["ffn"][2, 0] = 1.0
        made.load_state_dict({"left": left, "scores": scores})
        kept = made.keep()["ffn"]
        assert scores["ffn"][kept].min() > scores["ffn"][~kept].max()


def test_heads_rank_by_the_value_dims_that_they_still_have() -> None:
    """One has a single dim and seven that went with large scores, one has two small ones, the others have all."""
    left = {kind: torch.ones(SMALL.shape(kind), dtype=torch.bool) for kind in UNITS}
    scores = {kind: torch.full(SMALL.shape(kind), 0.1) for kind in UNITS}
    left["vo"][0, 1, 1:] = left["vo"][0, 2, 2:] = False
    scores["vo"][0, 1] = 1.0
    expected = {**left, "ffn": torch.zeros_like(left["ffn"]), "head": torch.ones(SMALL.shape("head"), dtype=torch.bool)}
    expected["head"][0, 1] = False
    made = pruner(Target(params=parameters(SMALL, expected)), last_cut="released")
    made.load_state_dict({"left": left, "scores": scores})
    assert torch.equal(made.keep()["head"], expected["head"])


def test_scores_of_units_that_went_stay_as_they_were() -> None:
    made = pruner(Target(0.5), structreg=0)
    searched(made)
    before = {kind: values.clone() for kind, values in made.state_dict()["scores"].items()}
    masks = made.masks(39)
    made.observe(39, masks, {kind: torch.full_like(values, 9.0) for kind, values in masks.items()})
    for kind, values in made.state_dict()["scores"].items():
        assert torch.equal(values == before[kind], masks[kind] == 0)


def test_random_scores_are_one_draw_that_stays() -> None:
    made = pruner(Target(0.5), structreg=0, scores="random")
    assert not made.gradient_parts
    drawn = {kind: values.clone() for kind, values in made.state_dict()["scores"].items()}
    path = [made.masks(step) for step in range(40)]
    for kind, gone in {kind: ~path[-1][kind].bool() for kind in UNITS}.items():
        assert gone.any()
        assert drawn[kind][gone].max() < drawn[kind][~gone].min()
        assert torch.equal(made.state_dict()["scores"][kind], drawn[kind])
    assert torch.equal(drawn["ffn"], pruner(Target(0.5), scores="random").state_dict()["scores"]["ffn"])


def test_units_do_not_come_back_and_rank_behind_all_others() -> None:
    made = pruner(Target(0.9), end=0.8)
    *path, _ = searched(made)
    for before, after in pairwise(path):
        assert all(bool((before[kind] | ~after[kind]).all()) for kind in UNITS)
    for kind, values in made.importance().items():
        assert torch.equal(values.isinf(), ~path[-1][kind])
    assert all(torch.equal(path[33][kind], path[-1][kind]) for kind in UNITS)
    assert all(bool(units.all()) for units in path[20].values())


def test_a_head_without_values_loses_its_queries_but_not_the_other_way_round() -> None:
    left = {"qk": torch.ones(1, 2, 3, dtype=torch.bool), "vo": torch.ones(1, 2, 3, dtype=torch.bool)}
    left["vo"][0, 0] = left["qk"][0, 1] = False
    assert without_dead_queries(left)["qk"].any(-1).tolist() == [[False, False]]
    assert left["vo"].any(-1).tolist() == [[False, True]]
    for ranking in ("global", "per_kind"):
        for units in searched(pruner(Target(0.97, count="published"), ranking=ranking)):
            assert not (units["qk"].any(-1) & ~units["vo"].any(-1)).any()
    assert any(
        bool((units["qk"].any(-1) & ~units["vo"].any(-1)).any())
        for units in searched(pruner(Target(0.97, count="published"), drop_dead_queries=False))
    )


def test_structure_factor_has_the_values_of_the_paper() -> None:
    shares = {1.0: 0.9975, 0.75: 0.9866, 0.5: 0.9311, 0.25: 0.6823, 0.125: 0.3941, 0.0625: 0.2054}
    for left, expected in shares.items():
        assert float(structure_factor(torch.arange(16) < 16 * left, 0.3)) == pytest.approx(expected, abs=1e-4)
    assert structure_factor(torch.zeros(2, 5), 0.0).tolist() == [[1.0], [1.0]]


def test_structure_regularisation_empties_heads() -> None:
    """With equal chances for all dims, fewer heads are left than without it."""

    def heads(**options) -> int:
        return int(searched(pruner(Target(0.9), 200, **options))[-1]["vo"].any(-1).sum())

    assert heads(beta=0.9) < heads(beta=0.9, structreg=0)


def test_scores_are_smoothed_and_batches_without_a_number_only_decay() -> None:
    made = pruner(Target(0.0), beta=0.5, structreg=0)
    masks = made.masks(0)
    made.observe(0, masks, {kind: torch.full_like(values, -4.0) for kind, values in masks.items()})
    broken = {kind: torch.full_like(values, 9.0) for kind, values in masks.items()}
    broken["vo"][0, 0, 0] = torch.nan
    made.observe(1, masks, broken)
    assert all(bool((values == 1.0).all()) for values in made.importance().values())


def test_a_scaled_loss_gives_the_same_masks() -> None:
    paths = []
    for scale in (1.0, 1024.0):
        made, stream = pruner(Target(0.9)), torch.Generator().manual_seed(4)
        for step in range(40):
            masks = made.masks(step)
            made.observe(step, masks, {k: scale * torch.randn(v.shape, generator=stream) for k, v in masks.items()})
        paths.append(made.keep())
    assert all(torch.equal(paths[0][kind], paths[1][kind]) for kind in paths[0])


def test_gate_gradients_are_the_sums_of_weight_times_gradient() -> None:
    """Over queries or keys with bias, over values with bias or the output map's columns, over the down projection's."""
    model = tiny_model().double().eval()
    gates = {kind: values.double().requires_grad_() for kind, values in SMALL.ones(UNITS).items()}
    with masked(model, gates):
        Observed(model)(tiny_data().batch(torch.arange(8))).logits.square().mean().backward()

    def rows(linear: torch.nn.Linear) -> torch.Tensor:
        return (linear.weight * linear.weight.grad).sum(1) + linear.bias * linear.bias.grad

    for index, block in enumerate(model.base_model.encoder.layer):
        own, out = block.attention.self, block.attention.output.dense
        queries, values = gates["qk"].grad[index].flatten(), gates["vo"].grad[index].flatten()
        for found, expected in (
            (queries, rows(own.query)),
            (queries, rows(own.key)),
            (values, rows(own.value)),
            (values, (out.weight * out.weight.grad).sum(0)),
            (gates["ffn"].grad[index], (block.output.dense.weight * block.output.dense.weight.grad).sum(0)),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def trained(spec: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Keep], Trainer]:
    """First mask gradients that the pruner sees in a short run, and the run."""
    seen: list[Keep] = []
    monkeypatch.setattr(Grain, "observe", lambda self, step, masks, gradients: seen.append(gradients))
    made, distiller = parse_method(spec).build()
    trainer = Trainer(
        tiny_model(), made, distiller, tiny_data(), SETTINGS, teacher=tiny_model(seed=9), target=Target(0.8)
    )
    trainer.run()
    return seen, trainer


def test_scores_do_not_see_the_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    without, with_it = (
        trained(f"grain+grain(feature_weight={weight})", monkeypatch)[0][0]["ffn"] for weight in (0, 10)
    )
    torch.testing.assert_close(without, with_it)
    together = trained("grain(separation=false)+grain(feature_weight=10)", monkeypatch)[0][0]["ffn"]
    assert float(cosine_similarity(together.flatten(), with_it.flatten(), dim=0)) < 0.9


def test_hidden_states_train_the_weights_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser sees the gradient of the whole loss, with and without separation."""
    found = []
    for separation in ("true", "false"):
        gradients: list[torch.Tensor] = []
        with monkeypatch.context() as patch:
            patch.setattr(Optimisation, "update", gradients_into(gradients))
            trained(f"grain(separation={separation})+grain", patch)
        found.append(gradients[0])
    torch.testing.assert_close(*found)


def gradients_into(found: list[torch.Tensor]) -> Callable[[Optimisation], None]:
    """In the place of an optimiser step: takes down the gradient of the first query map."""

    def take(optimisation: Optimisation) -> None:
        if found:
            return
        names = {name: parameter for parameter, name in optimisation._names.items()}
        found.append(names["bert.encoder.layer.0.attention.self.query.weight"].grad.clone())

    return take


def test_a_student_that_is_the_teacher_loses_only_the_teachers_entropy() -> None:
    model = tiny_model().eval()
    distiller = GrainDistiller()
    distiller.begin(Setting(model, SMALL, Target(0.0), 1, torch.Generator()))
    batch = tiny_data().batch(torch.arange(6))
    with torch.no_grad():
        view = Observed(model, distiller.needs)(batch)
        losses = distiller.losses(view, view, batch, None)
    shares = (view.logits / 8).softmax(-1)
    assert float(losses["features"]) == pytest.approx(0, abs=1e-10)
    torch.testing.assert_close(losses["soft"], -(shares * shares.log()).sum(-1).mean())


def test_maps_are_one_per_pair_and_learn_with_the_student() -> None:
    made, distiller = parse_method("grain+grain").build()
    trainer = Trainer(
        tiny_model(), made, distiller, tiny_data(), SETTINGS, teacher=tiny_model(seed=9), target=Target(0.8)
    )
    trainer.run()
    maps = distiller.parameters()
    assert len(maps) == 2 * len(state_pairs(3, 3))
    assert not any(torch.equal(weight, torch.eye(32)) for weight in maps if weight.ndim == 2)
    # Their moments went on at extraction, with the student's.
    assert {int(trainer.optimisation.optimizer.state[weight]["step"]) for weight in maps} == {trainer.step}


def test_distiller_without_maps_or_with_other_states() -> None:
    distiller = GrainDistiller(GrainDistillerConfig(maps=False, states="last"))
    distiller.begin(Setting(tiny_model(), SMALL, Target(0.0), 1, torch.Generator()))
    assert distiller.parameters() == []
    student, teacher = (tuple(torch.randn(2, 3, 32) for _ in range(4)) for _ in range(2))
    torch.testing.assert_close(distiller.features(student, teacher, None), (student[3] - teacher[3]).square().mean())


def test_pairs_are_fractions_of_the_depth() -> None:
    assert state_pairs(12, 12) == [(state, state) for state in range(0, 13, 2)]
    assert state_pairs(6, 6) == [(state, state) for state in range(7)]
    assert state_pairs(4, 12) == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]
    assert state_pairs(3, 3, "all") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert state_pairs(3, 6, "last") == [(3, 6)]


@settings(max_examples=20, deadline=None)
@given(extra=st.integers(1, 4), seed=st.integers(0, 99))
def test_padding_changes_nothing(extra: int, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 5, 3, generator=stream) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    expected = state_loss(student * mask[..., None], teacher * mask[..., None], mask)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, extra), value=7.0) for part in (student, teacher)]
    padded[0][1, 2:] = 5.0
    torch.testing.assert_close(state_loss(*padded, torch.nn.functional.pad(mask, (0, extra))), expected)


def test_soft_labels_without_the_squared_temperature() -> None:
    """At a high temperature the gradient fades with 1/T^2, which the usual factor would make up for."""
    student, teacher = (torch.randn(4, 3, dtype=torch.double) for _ in range(2))
    student.requires_grad_()
    norms = [
        float(torch.autograd.grad(soft_cross_entropy(student, teacher, heat), student)[0].norm()) for heat in (50, 100)
    ]
    assert norms[0] / norms[1] == pytest.approx(4, rel=0.05)


def test_sizes_are_those_of_the_paper() -> None:
    """Encoder and total in millions, at densities of the units: biases behind sublayers and LayerNorms always stay."""
    units, rest = 84_999_168, 55_296
    for kept, encoder, total in (
        (0.2, 17.055, 23.459),
        (0.1, 8.555, 14.959),
        (0.05, 4.305, 10.709),
        (0.03, 2.605, 9.009),
    ):
        assert (kept * units + rest) / 1e6 == pytest.approx(encoder, abs=6e-4)
        assert (kept * units + rest + 6_403_968) / 1e6 == pytest.approx(total, abs=6e-4)
    nothing = {kind: torch.zeros(BERT_BASE.shape(kind), dtype=torch.bool) for kind in KINDS[:4]}
    assert prunable(BERT_BASE) - parameters(BERT_BASE, nothing) == units
    assert parameters(BERT_BASE, nothing) + 12 * 4 * 768 == rest


@pytest.mark.parametrize("model_type", ["bert", "electra", "gpt2"])
def test_factorised_embeddings_go_through_a_whole_run(model_type: str) -> None:
    method = parse_method("grain(embedding_rank=quarter)+grain")
    for sparsity in (0.0, 0.7):  # at 0, too, the saved model must be of the class that knows the factors
        trainer = Trainer(
            tiny_model(model_type),
            *method.build(),
            tiny_data(),
            SETTINGS.model_copy(update={"search_epochs": 1}),
            teacher=tiny_model(model_type, seed=9),
            target=Target(sparsity),
        )
        small = trainer.run().model
        assert embedding_rank(small) == (6 if model_type == "electra" else 8)
        assert type(small).__name__.startswith("Pruned")


def test_ranks_too_high_are_refused_before_any_training() -> None:
    reason = Grain(GrainConfig(embedding_rank=192)).unreachable(SMALL, Target(0.5))
    assert reason == "embedding_rank must be from 1 to 32 on this model, or quarter"
    assert Grain(GrainConfig(embedding_rank=32)).unreachable(SMALL, Target(0.5)) is None


@pytest.mark.parametrize("options", [{"start": 0.8, "end": 0.5}, {"beta": 1.0}, {"beta": -0.1}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        GrainConfig(**options)
