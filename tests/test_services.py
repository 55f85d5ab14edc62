"""The loop's services: mask gradients over the training set, encodings of it; and when pruners and distillers ask."""

from typing import Any, ClassVar

import pytest
import torch

from gppdfd.budget import Target
from gppdfd.errors import UsageError
from gppdfd.interface import LOSS_PARTS, DistillerConfig, Loop, distillers, pruners
from gppdfd.masks import masked
from gppdfd.settings import Phases, TrainingConfig, plan_phases
from gppdfd.structure import Masks, structure_of
from gppdfd.training import Trainer, task_loss
from gppdfd.views import Observed, View
from tests.tiny import MODEL_TYPES, tiny_data, tiny_model

CONFIG = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=2, recovery_epochs=1, flooding=0)
Random = pruners()["random"]
Silent = distillers()["none"]


class Asking(Random):
    """Random pruning that asks the loop for something before one search step."""

    at = 3

    def ask(self, loop: Loop) -> None:
        raise NotImplementedError

    def masks(self, step: int) -> Masks:
        if step == self.at:
            self.ask(self.setting.loop)
        return super().masks(step)


def run(pruner: Random, distiller=None, config: TrainingConfig = CONFIG, model_type: str = "bert"):
    trainer = Trainer(
        tiny_model(model_type),
        pruner,
        distiller or Silent(),
        tiny_data(),
        config,
        teacher=tiny_model(model_type, seed=9),
        target=Target(0.5),
    )
    return trainer, trainer.run()


class Scoring(Asking):
    batches: int | None = None

    def ask(self, loop: Loop) -> None:
        masks = {kind: torch.full(self.setting.structure.shape(kind), 0.7) for kind in ("head", "ffn")}
        before = {name: weight.clone() for name, weight in self.setting.student.state_dict().items()}
        self.found = list(loop.mask_gradients(masks, frozenset({"task"}), self.batches))
        student = self.setting.student
        assert student.training
        assert all(parameter.grad is None for parameter in student.parameters())
        assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())
        self.expected = sum_of_gradients(student, self.setting.loop, masks)


def sum_of_gradients(student, loop: Loop, masks: Masks) -> Masks:
    """Gradient of the summed task loss, from one batch of all examples."""
    leaves = {kind: values.clone().requires_grad_() for kind, values in masks.items()}
    copy = tiny_model()
    copy.load_state_dict(student.state_dict())
    with masked(copy.eval(), leaves):
        data = tiny_data()
        loss = task_loss(Observed(copy)(data.batch(torch.arange(40))).logits, data.labels, False)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def test_mask_gradients_over_the_training_set_leave_no_trace() -> None:
    pruner = Scoring()
    trained = run(pruner)[1]
    assert len(pruner.found) == trained.scoring_passes == 5
    for kind, expected in pruner.expected.items():
        mean = torch.stack([gradients[kind] for gradients in pruner.found]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6)


def test_scoring_does_not_change_what_follows() -> None:
    asked, plain = run(Scoring())[1], run(Random())[1]
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(asked.model.state_dict()[name], weight)


def test_a_part_of_the_batches_is_spread_over_the_training_set() -> None:
    pruner = Scoring()
    pruner.batches = 2
    run(pruner)
    every = Scoring()
    run(every)
    for index, place in enumerate((0, 2)):
        assert torch.equal(pruner.found[index]["head"], every.found[place]["head"])


class Encoding(Asking):
    def ask(self, loop: Loop) -> None:
        def read(view: View) -> torch.Tensor:
            return view.sentence

        self.student, self.again = loop.encodings(read, "student"), loop.encodings(read, "student")
        self.teacher = loop.encodings(read, "teacher")
        self.labels, self.examples, self.batches = loop.labels, loop.examples, loop.batches


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_sentences_are_what_the_classifier_reads(model_type: str) -> None:
    distiller = Silent()
    type(distiller).needs = frozenset({"teacher", "sentence"})
    try:
        pruner = Encoding()
        run(pruner, distiller, model_type=model_type)
    finally:
        del type(distiller).needs
    teacher = tiny_model(model_type, seed=9).eval()
    classifier = teacher.get_submodule({"gpt2": "score"}.get(model_type, "classifier"))
    last = getattr(classifier, "out_proj", classifier)
    with torch.no_grad():
        logits = last(pruner.teacher)
        expected = torch.cat([Observed(teacher)(tiny_data().batch(torch.tensor([row]))).logits for row in range(40)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(pruner.student, pruner.again)
    assert pruner.student.dtype == torch.float32
    assert not pruner.student.requires_grad
    assert torch.equal(pruner.labels, tiny_data().labels)
    assert (pruner.examples, pruner.batches) == (40, 5)


class Counting(Silent):
    Config: ClassVar[type[DistillerConfig]] = DistillerConfig

    def begin(self, setting) -> None:
        super().begin(setting)
        self.snapshots = 0

    def snapshot(self) -> None:
        self.snapshots += 1


def test_every_pruner_has_snapshots_at_each_tenth_of_the_search() -> None:
    distiller = Counting()
    run(Random(), distiller, CONFIG.model_copy(update={"search_epochs": 8.0}))
    assert distiller.snapshots == 9


class Restarting(Random):
    def restart(self, step: int) -> int | None:
        return 5 if step in (0, 5) else None


def test_a_pruner_may_start_the_schedule_anew() -> None:
    rates = []
    trainer = Trainer(tiny_model(), Restarting(), Silent(), tiny_data(), CONFIG, target=Target(0.5))
    trainer.hooks.progress = lambda phase, step, steps: rates.append(trainer.optimisation.rate)
    trainer.run()
    assert rates[:10] == pytest.approx([1e-3 * share for share in (0.8, 0.6, 0.4, 0.2, 0.0) * 2])


class Soft(Random):
    def folded(self) -> Masks:
        keep = self.keep()
        return {kind: 0.6 * units for kind, units in keep.items()}

    def masks(self, step: int) -> Masks:
        return self.folded()


def test_soft_masks_are_folded_at_extraction() -> None:
    trained = run(Soft())[1]
    assert trained.agreement is not None
    assert trained.agreement < 1e-5


class Preparing(Random):
    def prepare(self, model) -> None:
        self.seen = structure_of(model)
        with torch.no_grad():
            model.classifier.bias.fill_(7.0)


def test_a_pruner_may_prepare_the_student() -> None:
    pruner = Preparing()
    trainer, trained = run(pruner)
    assert float(trained.model.classifier.bias.detach().min()) > 6
    assert pruner.seen == trainer.setting.structure


def test_frozen_embeddings_stay() -> None:
    trained = run(Random(), config=CONFIG.model_copy(update={"freeze_embeddings": True}))[1]
    before, after = tiny_model().bert.embeddings, trained.model.bert.embeddings
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight)


def test_recovery_may_have_a_learning_rate_of_its_own() -> None:
    config = CONFIG.model_copy(update={"recovery_learning_rate": 5e-4, "recovery_decay": "constant"})
    rates = []
    trainer = Trainer(tiny_model(), Random(), Silent(), tiny_data(), config, target=Target(0.5))
    trainer.hooks.progress = lambda phase, step, steps: rates.append((phase, trainer.optimisation.rate))
    trainer.run()
    assert {rate for phase, rate in rates if phase == "recovery"} == {5e-4}
    assert max(rate for phase, rate in rates if phase == "search") < 1e-3


@pytest.mark.parametrize("at_extraction", [None, "continue"])
@pytest.mark.parametrize("name", ["depth", "none"])
def test_without_a_search_all_training_is_recovery(name: str, at_extraction: str | None) -> None:
    """With the settings of the recovery: there is no optimiser to go on with."""
    own = {"recovery_learning_rate": 5e-4, "recovery_decay": "constant", "at_extraction": at_extraction}
    config = CONFIG.model_copy(update=own)
    trainer = Trainer(tiny_model(), pruners()[name](), Silent(), tiny_data(), config, target=Target(0.5))
    rates = []
    trainer.hooks.progress = lambda phase, step, steps: rates.append(trainer.optimisation.rate)
    trainer.run()
    assert set(rates) == {5e-4}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("l0", {"at_extraction": "continue"}, "the search of L0 has a schedule of its own"),
        ("first-order", {"at_extraction": "continue"}, "has a schedule of its own"),
        ("grain", {"recovery_learning_rate": 1e-4}, "set at_extraction to restart"),
        ("gpp", {"recovery_decay": "constant", "at_extraction": "continue"}, "set at_extraction to restart"),
    ],
)
def test_a_recovery_that_cannot_go_on_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    config = CONFIG.model_copy(update=changes)
    trainer = Trainer(tiny_model(), pruners()[name](), Silent(), tiny_data(), config, target=Target(0.5))
    with pytest.raises(UsageError, match=message):
        trainer.begin()


def test_scoring_within_the_search_shortens_it() -> None:
    extra = CONFIG.model_copy(update={"scoring": "extra"})
    assert plan_phases(CONFIG, 40, True, scoring_epochs=0.6).search == 7
    assert plan_phases(extra, 40, True, scoring_epochs=0.6).search == 10
    with pytest.raises(UsageError, match="scoring units takes 2 of 2 search epochs"):
        plan_phases(CONFIG, 40, True, scoring_epochs=2.0)


def test_a_part_of_the_search_may_go_without_masks() -> None:
    shared = CONFIG.model_copy(update={"before_share": 0.2})
    assert plan_phases(shared, 40, True) == Phases(before=2, search=8, recovery=5)
    assert plan_phases(shared, 40, False) == Phases(0, 0, 15)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_sharing_the_search_out_changes_no_number_of_steps(share: float) -> None:
    config = CONFIG.model_copy(update={"search_epochs": 2.5, "before_share": share})
    phases = plan_phases(config, 3 * config.batch_size, True)
    assert phases.before + phases.search == 8


def test_every_loss_part_may_be_scored() -> None:
    class Everything(Scoring):
        def ask(self, loop: Loop) -> None:
            masks = self.setting.structure.ones(("head", "ffn"))
            self.found = list(loop.mask_gradients(masks, frozenset(LOSS_PARTS), 1))

    pruner = Everything()
    run(pruner, distillers()["logits"]())
    assert all(float(values.abs().max()) > 0 for values in pruner.found[0].values())
