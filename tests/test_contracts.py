"""What every registered pruner and distiller must keep, without naming any of them.

One short run per combination serves all its contracts.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from gppdfd.budget import Target, parameters, prunable, sparsity
from gppdfd.checkpoint import State, load_checkpoint, save_checkpoint
from gppdfd.errors import UsageError
from gppdfd.extraction import extract
from gppdfd.interface import distillers, parse_method, pruners
from gppdfd.masks import masked
from gppdfd.pruned import load_pruned, save
from gppdfd.settings import TrainingConfig
from gppdfd.structure import structure_of
from gppdfd.training import Hooks, Trained, Trainer
from gppdfd.views import Observed
from tests.tiny import MODEL_TYPES, linear_parameters, tiny_config, tiny_data, tiny_model

PAIRS = [f"{pruner}+{distiller}" for pruner in sorted(pruners()) for distiller in sorted(distillers())]
ELSEWHERE = [f"{name}+logits" for name in sorted(pruners())] + [f"magnitude+{name}" for name in sorted(distillers())]
"""What is tried on architectures other than BERT."""

COVER = sorted({f"{name}+logits" for name in pruners()} | {f"random+{name}" for name in distillers()})
"""Every pruner and every distiller once; contracts that need a further run are tried on these."""

REST = [pytest.param(pair, marks=pytest.mark.full) for pair in PAIRS if pair not in COVER]

DROPOUT = 0.1
"""In the training runs, so that a stopped run has a stream of random numbers to go on with."""

SETTINGS = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=2, recovery_epochs=2)


@dataclass
class Outcome:
    trained: Trained
    dense: PreTrainedModel
    target: Target
    history: list[dict]


def reachable_target(pruner: str) -> Target:
    """The hardest of a few targets that a pruner says it can reach on the tiny model."""
    structure = structure_of(tiny_model())
    chosen = pruners()[pruner]()
    return next(t for t in map(Target, (0.9, 0.5, 2 / 3, 0.0)) if chosen.unreachable(structure, t) is None)


def train(
    pair: str,
    labels: int = 3,
    seed: int = 1,
    config: TrainingConfig = SETTINGS,
    model_type: str = "bert",
    hooks: Hooks | None = None,
    state: State | None = None,
) -> Outcome:
    method = parse_method(pair)
    pruner, distiller = method.build()
    history: list[dict] = []
    target = reachable_target(pair.split("+")[0])
    student = tiny_model(model_type, labels, dropout=DROPOUT)
    trainer = Trainer(
        student,
        pruner,
        distiller,
        tiny_data(labels=labels),
        config,
        teacher=tiny_model(model_type, labels, seed=9, dropout=DROPOUT),
        target=target,
        seed=seed,
        regression=labels == 1,
        hooks=hooks or Hooks(log=history.append),
    )
    torch.seed()  # what was drawn before a run has no say in it
    return Outcome(trainer.run(state), student, target, history)


@cache
def outcome(pair: str) -> Outcome:
    return train(pair)


@pytest.mark.parametrize("pair", PAIRS)
def test_target_is_met_within_one_unit(pair: str) -> None:
    result = outcome(pair)
    structure = structure_of(result.dense)
    missing = result.target.budget(structure) - parameters(structure, result.trained.keep)
    assert 0 <= missing < 2 * structure.hidden + 1  # one FFN dim
    assert sparsity(structure, result.trained.keep) == pytest.approx(result.target.sparsity, abs=0.005)


@pytest.mark.parametrize("pair", PAIRS)
def test_masked_and_extracted_model_agreed(pair: str) -> None:
    result = outcome(pair)
    if result.target.sparsity == 0:
        pytest.skip("nothing was extracted")
    assert result.trained.agreement is not None
    assert result.trained.agreement < 1e-5


@pytest.mark.parametrize("pair", PAIRS)
def test_real_parameters_equal_the_budget(pair: str) -> None:
    result = outcome(pair)
    structure = structure_of(result.dense)
    assert linear_parameters(tiny_model()) == prunable(structure)
    assert linear_parameters(result.trained.model) == parameters(structure, result.trained.keep)


@pytest.mark.parametrize("pair", ELSEWHERE)
@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "bert"])
def test_every_method_prunes_every_architecture(model_type: str, pair: str) -> None:
    """Search, extraction, recovery; the small model has as many parameters less as the budget says."""
    short = SETTINGS.model_copy(update={"search_epochs": 1, "recovery_epochs": 0.4})
    result = train(pair, config=short, model_type=model_type)
    structure, keep = structure_of(result.dense), result.trained.keep
    missing = result.target.budget(structure) - parameters(structure, keep)
    assert 0 <= missing < (3 if structure.gated else 2) * structure.hidden + 2
    assert (result.trained.agreement or 0) < 1e-5
    assert linear_parameters(result.trained.model) == parameters(structure, keep)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_method_has_the_same_budget(pair: str) -> None:
    """Forward-backward passes, those that score units included, are as many as the settings say."""
    trained = outcome(pair).trained
    per_epoch = -(-len(tiny_data()) // SETTINGS.batch_size)
    assert (
        trained.phases.total + trained.scoring_passes == (SETTINGS.search_epochs + SETTINGS.recovery_epochs) * per_epoch
    )


@pytest.mark.parametrize("pair", [*COVER, *REST])
def test_same_seed_gives_the_same_bits(pair: str) -> None:
    again = train(pair).trained
    first = outcome(pair).trained
    assert all(torch.equal(again.keep[kind], first.keep[kind]) for kind in first.keep)
    for name, parameter in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], parameter), name


@pytest.mark.parametrize("pair", PAIRS)
def test_saved_model_gives_the_same_logits(pair: str, tmp_path) -> None:
    model = outcome(pair).trained.model.eval()
    save(model, tmp_path / "model")
    batch = tiny_data().batch(torch.arange(5))
    with torch.no_grad():
        assert torch.equal(Observed(load_pruned(tmp_path / "model"))(batch).logits, Observed(model)(batch).logits)


@pytest.mark.parametrize("pair", PAIRS)
def test_losses_are_finite_and_logged_under_the_fixed_names(pair: str) -> None:
    entries = [entry for entry in outcome(pair).history if "losses" in entry]
    assert {entry["phase"] for entry in entries} <= {"before", "search", "recovery"}
    for entry in entries:
        assert set(entry["losses"]) <= {"task", "soft", "features", "pruner", "total"}
        assert all(torch.isfinite(torch.tensor(value)) for value in entry["losses"].values())


@pytest.mark.parametrize("pair", [*COVER, *REST])
def test_regression_trains_the_classifier(pair: str) -> None:
    result = train(pair, labels=1, config=SETTINGS.model_copy(update={"search_epochs": 1, "recovery_epochs": 1}))
    before, after = tiny_model(labels=1).classifier.weight, result.trained.model.classifier.weight
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", sorted(pruners()))
def test_regression_gives_a_pruner_gradients_that_tell_units_apart(name: str, monkeypatch) -> None:
    seen = []
    chosen = pruners()[name]
    if not chosen().gradient_parts:
        pytest.skip("ranks without gradients")
    monkeypatch.setattr(chosen, "observe", lambda self, step, masks, gradients: seen.append(gradients))
    train(f"{name}+none", labels=1, config=SETTINGS.model_copy(update={"search_epochs": 1, "recovery_epochs": 0}))
    for values in seen[0].values():
        assert len(values.unique()) > values.numel() // 2


TEACHERS = {
    "wider": {"hidden_size": 40},
    "more heads": {"num_attention_heads": 8},
    "wider with more heads": {"hidden_size": 40, "num_attention_heads": 5},
    "deeper": {"num_hidden_layers": 5},
    "shallower": {"num_hidden_layers": 2},
}


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("name", sorted(distillers()))
def test_a_teacher_of_other_sizes_is_refused_at_once_or_learnt_from(name: str, teacher: str) -> None:
    student, config = tiny_model(), tiny_config()
    config.update(TEACHERS[teacher])
    other = AutoModelForSequenceClassification.from_config(config)
    pruner, distiller = parse_method(f"random+{name}").build()
    settings = SETTINGS.model_copy(update={"search_epochs": 1, "recovery_epochs": 1})
    if (reason := distiller.unsuitable(structure_of(student), structure_of(other))) is None:
        trainer = Trainer(student, pruner, distiller, tiny_data(), settings, teacher=other, target=Target(0.5))
        assert trainer.run().model.classifier.weight.isfinite().all()
        return
    with pytest.raises(UsageError, match=f"cannot learn from this teacher: {reason}"):
        Trainer(student, pruner, distiller, tiny_data(), settings, teacher=other)
    assert teacher not in ("deeper", "shallower")


@pytest.mark.parametrize("name", sorted(distillers()))
def test_masked_and_extracted_student_give_one_view(name: str) -> None:
    """Losses and gradients of a distiller agree on the masked and on the extracted student."""
    student, teacher = tiny_model().double().eval(), tiny_model(seed=9).double().eval()
    keep = outcome("random+none").trained.keep
    small = extract(student, keep)
    distiller = distillers()[name]()
    Trainer(
        tiny_model(), pruners()["random"](), distiller, tiny_data(), SETTINGS, teacher=tiny_model(), target=Target(0.5)
    ).begin()
    batch = tiny_data().batch(torch.arange(6))
    with torch.no_grad():
        target = Observed(teacher, distiller.needs)(batch)
    gradients = []
    for model, masks in ((student, {kind: units.double() for kind, units in keep.items()}), (small, None)):
        model.zero_grad()
        with masked(model, masks) if masks else torch.enable_grad():
            view = Observed(model, distiller.needs)(batch)
            losses = distiller.losses(view, target, batch, masks)
        total = sum(losses.values(), view.logits.sum() * 0)
        total.backward()
        gradients.append(
            (total.detach(), model.classifier.weight.grad, model.base_model.embeddings.word_embeddings.weight.grad)
        )
    for masked_value, small_value in zip(*gradients, strict=True):
        torch.testing.assert_close(masked_value, small_value, rtol=1e-10, atol=1e-12)


def interrupted(pair: str, stop: int, folder: Path) -> Trained:
    """A run that is stopped after step `stop`, and goes on in a fresh trainer from the file it left."""

    def checkpoint(trainer: Trainer) -> None:
        if trainer.step == stop:
            save_checkpoint(folder, stop, trainer.state_dict())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pair, hooks=Hooks(stepped=checkpoint))
    return train(pair, state=load_checkpoint(folder)).trained


@pytest.mark.parametrize("stop", [1, 7, 10, 13])
@pytest.mark.parametrize("pair", COVER)
def test_a_stopped_run_ends_with_the_bits_of_one_never_stopped(pair: str, stop: int, tmp_path: Path) -> None:
    """Stopped at the beginning, in the search, before extraction, in the recovery."""
    whole, resumed = outcome(pair).trained, interrupted(pair, stop, tmp_path)
    assert all(torch.equal(resumed.keep[kind], units) for kind, units in whole.keep.items())
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    assert resumed.notes == whole.notes
    assert resumed.scoring_passes == whole.scoring_passes
    assert resumed.trace.rows == whole.trace.rows


@pytest.mark.parametrize("pair", REST)
def test_any_stopped_run_ends_with_the_bits_of_one_never_stopped(pair: str, tmp_path: Path) -> None:
    test_a_stopped_run_ends_with_the_bits_of_one_never_stopped(pair, 7, tmp_path)


@pytest.mark.parametrize("name", sorted(pruners()))
def test_state_dict_restores_a_pruner(name: str) -> None:
    """A pruner restored from its state decides as the one that was never stopped."""
    target = reachable_target(name)

    def begun():
        pruner = pruners()[name]()
        Trainer(tiny_model(), pruner, distillers()["none"](), tiny_data(), SETTINGS, target=target, seed=3).begin()
        return pruner

    first = begun()
    stream = torch.Generator().manual_seed(5)
    for step in range(6):
        masks = first.masks(step)
        if first.gradient_parts:
            first.observe(step, masks, {k: torch.randn(v.shape, generator=stream) for k, v in masks.items()})
    second = begun()
    second.load_state_dict(first.state_dict())
    for kind, units in first.keep().items():
        assert torch.equal(second.keep()[kind], units)
