"""The contrastive distiller beyond its golden cases: normalisations, what carries gradients, banks, resuming."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from baselines.contrastive import Bank, Contrastive, candidates, log_probabilities, positives, positives_loss
from gppdfd.budget import Target
from gppdfd.interface import named_methods, parse_method
from gppdfd.settings import TrainingConfig
from gppdfd.training import Trainer
from gppdfd.views import Observed, View
from tests.tiny import tiny_data, tiny_model

CONFIG = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=2, recovery_epochs=1, flooding=0)
NONE = torch.empty(0, dtype=torch.long)


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(shape, generator=stream, dtype=torch.double), dim=-1)


def trainer_of(spec: str, labels: int = 3, dropout: float = 0.0, **changes: Any) -> Trainer:
    pruner, distiller = parse_method(spec).build()
    student = tiny_model(labels=labels)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return Trainer(
        student,
        pruner,
        distiller,
        tiny_data(labels=labels),
        CONFIG.model_copy(update=changes),
        teacher=tiny_model(labels=labels, seed=9),
        target=Target(0.5),
        regression=labels == 1,
    )


def begun(spec: str, **options: Any) -> tuple[Trainer, Contrastive]:
    trainer = trainer_of(spec, **options)
    trainer.begin()
    distiller = trainer.distiller
    assert isinstance(distiller, Contrastive)
    return trainer, distiller


def losses_of(trainer: Trainer, training: bool = False) -> dict[str, torch.Tensor]:
    batch = tiny_data().batch(torch.arange(6))
    trainer.model.train(training)
    assert trainer.teacher is not None
    return trainer.distiller.losses(trainer.view(batch), trainer.teacher(batch), batch, None)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), models=st.integers(1, 4), extras=st.integers(0, 9), with_batch=st.booleans())
def test_released_normalisation_divides_once_more(seed: int, models: int, extras: int, with_batch: bool) -> None:
    """released = per_anchor * batch / number of positive pairs, for any labels."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (12,), generator=stream)
    examples, drawn = torch.randperm(12, generator=stream)[:5], torch.randperm(12, generator=stream)[:extras]
    anchors = vectors(5, 6, seed=seed)
    found = candidates(anchors, examples, vectors(12, models, 6, seed=seed + 1), drawn, with_batch)
    logs = log_probabilities(anchors, found, 0.1)
    for shared in (torch.arange(12), labels):
        agreeing = positives(shared, examples, found)
        released, per_anchor = (positives_loss(logs, agreeing, how) for how in ("released", "per_anchor"))
        assert float(released) == pytest.approx(float(per_anchor) * 5 / int(agreeing.sum()), rel=1e-9)


def test_two_anchors_by_hand() -> None:
    """One bank row each, nothing else: both normalisations are the same cross-entropy."""
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bank = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]])
    examples = torch.arange(2)
    found = candidates(anchors, examples, bank, NONE, with_batch=False)
    logs, agreeing = log_probabilities(anchors, found, 0.5), positives(examples, examples, found)
    expected = (math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))) / 2
    for how in ("per_anchor", "released"):
        assert float(positives_loss(logs, agreeing, how)) == pytest.approx(expected, rel=1e-6)


def test_equal_vectors_lose_the_log_of_the_number_of_candidates() -> None:
    anchors = vectors(1, 4).expand(5, 4)
    bank = vectors(1, 4).expand(20, 4)[:, None].expand(20, 2, 4)
    found = candidates(anchors, torch.arange(5), bank, torch.arange(8, 11))
    logs = log_probabilities(anchors, found, 0.1)
    loss = positives_loss(logs, positives(torch.arange(20), torch.arange(5), found), "per_anchor")
    assert float(loss) == pytest.approx(math.log(5 + 2 * 8 - 1))


def test_the_anchor_itself_never_counts() -> None:
    """Its own current representation is neither candidate nor positive; those of the batch carry no gradient."""
    anchors, examples = vectors(3, 4).requires_grad_(), torch.arange(3)
    found = candidates(anchors, examples, vectors(3, 1, 4, seed=1), NONE)
    logs = log_probabilities(anchors, found, 0.1)
    assert logs[:, :3].isneginf().tolist() == torch.eye(3).bool().tolist()
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(3, dtype=torch.double))
    assert not positives(torch.zeros(3), examples, found)[:, :3].diagonal().any()
    assert not found.vectors.requires_grad
    (gradient,) = torch.autograd.grad(positives_loss(logs, positives(examples, examples, found), "per_anchor"), anchors)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_examples_without_positives_are_harmless() -> None:
    loss = positives_loss(vectors(2, 3), torch.zeros(2, 3, dtype=torch.bool), "released")
    assert loss.item() == 0


def test_a_bank_keeps_the_latest() -> None:
    bank = Bank(2, torch.float16)
    assert bank.entries() is None
    for value in range(3):
        bank.add(torch.full((4, 5), float(value)))
    entries = bank.entries()
    assert entries is not None
    assert entries.dtype == torch.float16
    assert entries[0, :, 0].tolist() == [2.0, 1.0]
    again = Bank(2, torch.float16)
    again.load_state_dict(bank.state_dict())
    for either in (bank, again):
        either.add(torch.full((4, 5), 3.0))
        assert either.entries()[0, :, 0].tolist() == [2.0, 3.0]  # type: ignore[index]


def test_banks_are_what_models_make_of_the_training_set() -> None:
    _, distiller = begun("random+contrastive")
    rows = tiny_data().batch(torch.arange(40))
    for name, seed in (("prc", 0), ("fic", 9)):
        with torch.no_grad():
            expected = Observed(tiny_model(seed=seed).eval(), frozenset({"sentence"}))(rows).sentence
        torch.testing.assert_close(distiller._banks[name].entries()[:, 0], normalize(expected, dim=-1))  # type: ignore[index]


@pytest.mark.parametrize("dropout", [False, True])
def test_snapshots_are_taken_in_evaluation_mode_unless_asked(dropout: bool) -> None:
    trainer, distiller = begun(f"random+contrastive(snapshot_dropout={dropout})", dropout=0.3)
    distiller.snapshot()
    distiller.snapshot()
    first, second = distiller._banks["snc"].entries().unbind(1)  # type: ignore[union-attr]
    assert torch.equal(first, second) == (not dropout)
    assert trainer.model.training


def test_snapshots_see_the_masks() -> None:
    trainer, distiller = begun("random+contrastive")
    masks = trainer.setting.structure.ones(("head", "ffn"))
    for value in (1.0, 0.0):
        trainer.encoder.masks = {**masks, "ffn": torch.full_like(masks["ffn"], value)}
        distiller.snapshot()
    first, second = distiller._banks["snc"].entries().unbind(1)  # type: ignore[union-attr]
    assert not torch.allclose(first, second)


def test_without_snapshots_snc_is_zero_and_has_a_gradient() -> None:
    trainer, distiller = begun("random+contrastive(prc=off,fic=off)")
    loss = losses_of(trainer)["features"]
    assert loss.item() == 0
    loss.backward()
    distiller.snapshot()
    assert losses_of(trainer)["features"].item() > 0


@pytest.mark.parametrize("normalisation", ["per_anchor", "released"])
def test_modules_and_parts_add_up(normalisation: str) -> None:
    """Each of the six terms alone; two equal snapshots weigh as much as one unless as released."""

    def loss(options: str) -> float:
        trainer, distiller = begun(f"random+contrastive(normalisation={normalisation}{options})")
        distiller.snapshot()
        return losses_of(trainer)["features"].item()

    alone = {
        (module, part): loss("".join(f",{other}=off" for other in ("prc", "snc", "fic") if other != module) + part)
        for module in ("prc", "snc", "fic")
        for part in (",supervised=off", ",unsupervised=off")
    }
    assert all(value > 0 for value in alone.values())
    assert loss("") == pytest.approx(sum(alone.values()), rel=1e-5)
    assert loss(",supervised_weight=0.6") == pytest.approx(
        sum(value * (2 if part == ",unsupervised=off" else 1) for (_, part), value in alone.items()), rel=1e-5
    )


def test_snapshots_share_one_weight() -> None:
    """Per anchor, SnC is divided by the number of snapshots."""
    options = "prc=off,fic=off,supervised=off,extras=0,batch_candidates=off"
    found = {}
    for snapshots in (1, 2):
        trainer, distiller = begun(f"random+contrastive({options})")
        for _ in range(snapshots):
            distiller.snapshot()
        found[snapshots] = losses_of(trainer)["features"].item() / 0.3
    assert 2 * found[2] == pytest.approx(found[1] + math.log(2), rel=1e-5)


def test_all_modules_off_is_the_base_method_with_soft_labels() -> None:
    off = "prc=off,snc=off,fic=off" + ",task_weight=0.3,soft_weight=0.7,temperature=2.0"
    plain = trainer_of("gpp+logits(task_weight=0.3,soft_weight=0.7)").run()
    for spec in (off, off.replace("prc=off,snc=off,fic=off", "supervised=off,unsupervised=off")):
        contrastive = trainer_of(f"gpp+contrastive({spec})").run()
        for name, weight in plain.model.state_dict().items():
            assert torch.equal(contrastive.model.state_dict()[name], weight)


def test_regression_has_no_supervised_part() -> None:
    _, distiller = begun("random+contrastive", labels=1)
    assert len(distiller._parts) == 1
    view = View(torch.tensor([[1.0]]), (), torch.ones(1, 1), sentence=torch.ones(1, 32))
    parts = distiller.losses(
        view, replace(view, logits=torch.tensor([[3.0]])), tiny_data().batch(NONE.new_tensor([0])), None
    )
    assert float(parts["soft"]) == 4


@pytest.mark.parametrize("options", ["representation=mean_pooling", "representation=first_token", "bank=float16"])
def test_other_representations_and_half_precision_train(options: str) -> None:
    trainer = trainer_of(f"random+contrastive({options})")
    trained = trainer.run()
    assert (trained.agreement or 0) < 1e-5
    assert trainer.distiller._banks["snc"].entries().shape[1] == 9  # type: ignore[attr-defined]


def test_mean_pooling_does_not_see_padding() -> None:
    _, distiller = begun("random+contrastive(representation=mean_pooling)")
    row = tiny_data().batch(torch.tensor([3]))
    with torch.no_grad():
        states = Observed(tiny_model().eval(), frozenset({"hidden_states"}))(row).hidden_states[-1]
    assert row.attention_mask.all()
    found = distiller._banks["prc"].entries()[3, 0]  # type: ignore[index]
    torch.testing.assert_close(found, normalize(states[0].mean(0), dim=-1), rtol=1e-4, atol=1e-5)


def test_extras_are_as_many_as_asked_and_never_more_than_there_are() -> None:
    _, distiller = begun("random+contrastive(extras=12)")
    assert [len(distiller._draw(models)) for models in (1, 2, 5, 13)] == [12, 6, 2, 0]
    assert len(distiller._draw(1).unique()) == 12
    assert distiller._draw(1).tolist() != distiller._draw(1).tolist()
    _, distiller = begun("random+contrastive")
    assert sorted(distiller._draw(1).tolist()) == list(range(40))


def test_state_goes_on_with_the_same_banks_and_draws() -> None:
    trainer, distiller = begun("random+contrastive(extras=7)")
    distiller.snapshot()
    losses_of(trainer)
    state = distiller.state_dict()
    expected = losses_of(trainer)["features"]
    resumed, again = begun("random+contrastive(extras=7)")
    with torch.no_grad():
        resumed.model.classifier.weight.add_(1)  # a model that is not the pre-trained one any more
    again._banks["prc"].add(torch.zeros(40, 32))
    again.load_state_dict(state)
    assert torch.equal(losses_of(resumed)["features"], expected)


def test_the_banks_take_no_gradient() -> None:
    trainer, distiller = begun("random+contrastive")
    distiller.snapshot()
    losses_of(trainer)["features"].backward()
    assert not any(bank.entries().requires_grad for bank in distiller._banks.values())  # type: ignore[union-attr]
    assert trainer.model.bert.pooler.dense.weight.grad.any()
    assert trainer.model.classifier.weight.grad is None


@pytest.mark.parametrize("name", ["cap-f", "cap-f-released"])
def test_named_methods_train(name: str) -> None:
    """The last phase, at the target, sees a snapshot of each phase before it."""
    assert name in named_methods()
    trainer = trainer_of(name)
    trained = trainer.run()
    assert trained.scoring_passes == 5
    assert trainer.distiller._banks["snc"].entries().shape[1] == 4  # type: ignore[attr-defined]
