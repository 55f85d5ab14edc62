"""The loop: order of a step, phases, extraction on the way, selection, and what must never happen silently."""

import pytest
import torch

from gppdfd.budget import Target
from gppdfd.errors import DataError, UsageError
from gppdfd.extraction import extract
from gppdfd.gpp import GPP, GPPConfig
from gppdfd.interface import distillers, parse_method, pruners
from gppdfd.masks import MaskedEncoder
from gppdfd.optimisation import learning_rate_factor
from gppdfd.pruned import PrunedModel
from gppdfd.settings import Phases, TrainingConfig, plan_phases
from gppdfd.structure import structure_of
from gppdfd.teacher import cached_views
from gppdfd.training import Hooks, Trainer, flooded, task_loss, without_gradient
from gppdfd.views import Observed
from tests.tiny import tiny_data, tiny_inputs, tiny_model

CONFIG = TrainingConfig(batch_size=8, learning_rate=1e-3, search_epochs=2, recovery_epochs=2)


def trainer(pruner: str = "gpp", distiller: str = "dfd", target: float = 0.5, **options) -> Trainer:
    config = CONFIG.model_copy(update=options.pop("config", {}))
    options = {"teacher": tiny_model(seed=9), "target": Target(target), "seed": 1, **options}
    made = options.pop("made", None) or pruners()[pruner]()
    return Trainer(
        options.pop("student", None) or tiny_model(), made, distillers()[distiller](), tiny_data(), config, **options
    )


def test_phases_in_steps() -> None:
    config = TrainingConfig(batch_size=32, before_epochs=1, search_epochs=20, recovery_epochs=12)
    assert plan_phases(config, 8551, searches=True) == Phases(268, 5360, 3216)
    assert plan_phases(config, 8551, searches=False) == Phases(0, 0, 33 * 268)


def test_phases_without_steps_are_refused() -> None:
    nothing = CONFIG.model_copy(update={"search_epochs": 0.0, "recovery_epochs": 0.0})
    with pytest.raises(UsageError, match="no steps"):
        plan_phases(nothing, 40, searches=False)
    with pytest.raises(UsageError, match="needs a search"):
        plan_phases(CONFIG.model_copy(update={"search_epochs": 0.0}), 40, searches=True)


def test_learning_rate_restarts_after_the_search() -> None:
    """GPP's released schedule: decay over all epochs, then anew over the recovery."""
    history: list[dict] = []
    trainer(hooks=Hooks(log=history.append), config={"search_epochs": 4.0, "recovery_epochs": 4.0}).run()
    rates = {entry["step"]: entry["lr"] for entry in history}
    assert rates[20] == pytest.approx(1e-3 * 20 / 40)
    assert rates[30] == pytest.approx(1e-3 * 10 / 20)
    assert rates[40] == 0


def test_warm_up_and_constant_rate() -> None:
    config = TrainingConfig(warmup=0.1)
    factors = [learning_rate_factor(step, 100, config) for step in (0, 5, 10, 55, 100)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert learning_rate_factor(70, 100, TrainingConfig(decay="constant")) == 1


def test_flooding_turns_the_gradient_below_its_level() -> None:
    loss = torch.tensor(0.004, requires_grad=True)
    flooded(loss, 0.01).backward()
    assert loss.grad == -1
    assert float(flooded(torch.tensor(0.5), 0.01)) == pytest.approx(0.5)


def test_flooding_is_for_the_task_part_alone() -> None:
    flooding, dry = (trainer(config={"flooding": level}) for level in (5.0, 0.0))
    for made in (flooding, dry):
        made.begin()
    batch = tiny_data().batch(torch.arange(8))
    found, expected = (made.loss_parts(made.view, batch, None) for made in (flooding, dry))
    assert float(found.pop("task").detach()) == pytest.approx(10 - float(expected.pop("task").detach()))
    assert found.keys() == expected.keys() != set()
    assert all(torch.equal(found[part], expected[part]) for part in expected)


def test_regression_uses_squared_error() -> None:
    logits, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0])
    assert task_loss(logits, labels, regression=True) == 2.5


class Recorder(GPP):
    """Remembers what the loop does."""

    def begin(self, setting) -> None:
        super().begin(setting)
        self.events: list[tuple[str, int]] = []

    def masks(self, step):
        self.events.append(("masks", step))
        return super().masks(step)

    def observe(self, step, masks, gradients) -> None:
        self.events.append(("observe", step))
        super().observe(step, masks, gradients)


def test_masks_are_set_before_and_observed_after_each_step() -> None:
    made = Recorder()
    trainer(made=made).run()
    assert made.events == [event for step in range(10) for event in (("masks", step), ("observe", step))]


def test_gradients_of_the_task_part_alone() -> None:
    """A pruner that asks for `task` gets the same gradients whatever the distiller adds."""

    class Keeps(GPP):
        def observe(self, step, masks, gradients) -> None:
            if step == 0:
                self.first = gradients
            super().observe(step, masks, gradients)

    found = []
    for distiller in ("none", "dfd"):
        made = Keeps(GPPConfig(gradient="task"))
        trainer(made=made, distiller=distiller).run()
        found.append(made.first)
    for kind in ("head", "ffn"):
        torch.testing.assert_close(found[0][kind], found[1][kind])
    total = Keeps()
    trainer(made=total).run()
    assert not torch.allclose(total.first["ffn"], found[0]["ffn"])


@pytest.mark.parametrize("name", ["gpp", "random"])
def test_continue_follows_masked_training(name: str) -> None:
    """With `at_extraction=continue` the small model trains on as the masked one would have, for 20 steps."""
    options = {"config": {"search_epochs": 2.0, "recovery_epochs": 4.0, "at_extraction": "continue"}}
    whole = trainer(name, "one-to-one", student=tiny_model().double(), teacher=tiny_model(seed=9).double(), **options)
    trained = whole.run()
    keep = trained.keep

    masked_run = trainer(
        name, "one-to-one", student=tiny_model().double(), teacher=tiny_model(seed=9).double(), **options
    )
    recover = masked_run._recover

    def recover_masked() -> int:
        fixed = MaskedEncoder(masked_run.model)
        fixed.masks = {kind: units.double() for kind, units in keep.items()}
        trained_steps = recover()
        fixed.remove()
        return trained_steps

    masked_run._extract = lambda keep: setattr(masked_run, "keep", keep)  # type: ignore[method-assign]

    masked_run._recover = recover_masked  # type: ignore[method-assign]
    reference = masked_run.run().model
    expected = extract(reference, keep)
    for parameter, other in zip(trained.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-4)


def test_carried_gradients_end_with_the_dense_model() -> None:
    """Their shapes are not those of the small one's weights."""
    trained = trainer(config={"at_extraction": "continue", "carry_weight_grads": True}).run()
    assert all(bool(weight.isfinite().all()) for weight in trained.model.state_dict().values())


def test_single_weights_start_an_optimiser_anew_even_if_told_to_continue() -> None:
    trained = trainer("magnitude-weight", "logits", config={"at_extraction": "continue"}).run()
    assert trained.agreement is not None


def test_restart_and_continue_differ() -> None:
    restart, go_on = trainer().run(), trainer(config={"at_extraction": "continue"}).run()
    assert all(torch.equal(restart.keep[kind], go_on.keep[kind]) for kind in restart.keep)
    assert not torch.equal(restart.model.classifier.weight, go_on.model.classifier.weight)


def test_best_weights_are_kept_when_a_rule_is_given() -> None:
    scores = iter([1.0, 1.0, 0.2, 0.9, 0.5, 0.1])  # the first two around binarisation, with no say in this
    seen = []

    def evaluate(model):
        seen.append(model.classifier.weight.detach().clone())
        return next(scores)

    hooks = Hooks(evaluate=evaluate, select=lambda score: score)
    trained = trainer(hooks=hooks, config={"recovery_epochs": 4.0}).run()
    assert trained.selected_step == 20
    assert torch.equal(trained.model.classifier.weight, seen[3])


def test_training_goes_on_in_training_mode_after_each_evaluation() -> None:
    modes = []
    hooks = Hooks(
        evaluate=lambda model: float(model.eval().training),
        select=lambda score: score,
        stepped=lambda made: modes.append(made.model.training),
    )
    trainer(hooks=hooks).run()
    assert modes == [True] * 20


def test_scores_are_noted_right_before_and_right_after_binarisation() -> None:
    """The first with the masks of the last search step in force, the second of the small model; no bit changes."""
    history: list[dict] = []
    made = trainer(hooks=Hooks(log=history.append))
    made.hooks.evaluate = lambda model: (isinstance(model.eval(), PrunedModel), made.encoder.masks["head"].sum())
    trained = made.run()
    (noted,) = (entry for entry in history if "binarisation" in entry)
    (small_before, soft), (small_after, _) = noted["binarisation"]["before"], noted["binarisation"]["after"]
    assert noted["step"] == trained.phases.search
    assert (small_before, small_after) == (False, True)
    assert float(soft.detach()) % 1 > 0, "soft masks"
    assert torch.equal(trained.model.classifier.weight, trainer().run().model.classifier.weight)


def test_nan_loss_ends_the_run_and_names_the_part() -> None:
    student = tiny_model()
    with torch.no_grad():
        student.classifier.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="loss part 'task' is nan"):
        trainer(student=student).run()


def test_distiller_without_its_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        trainer(teacher=None)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("distiller", ["dfd", "minilm", "contrastive"])
def test_a_run_leaves_no_hooks_on_its_teacher(distiller: str, cached: bool) -> None:
    """Processes use a teacher again and again: each forward pass would collect states for all runs before."""
    teacher = tiny_model(seed=9)
    trainer("gpp", distiller, teacher=teacher, config={"cache_teacher": cached}).run()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


def test_a_run_that_fails_leaves_no_hooks_on_its_teacher(monkeypatch) -> None:
    teacher = tiny_model(seed=9)
    made = trainer(teacher=teacher)
    monkeypatch.setattr("gppdfd.training.disagreement", lambda *_: 1e-3)
    with pytest.raises(DataError):
        made.run()
    assert not any(module._forward_hooks for module in teacher.modules())


def test_a_removed_view_holds_no_states() -> None:
    model = tiny_model()
    view = Observed(model, frozenset({"hidden_states", "projections", "sentence"}))
    model(**tiny_inputs())
    assert view._states
    view.remove()
    assert not view._states
    assert view._sentence is None
    assert not any(view._projections._found)


def test_a_pruner_without_the_gradients_that_it_ranks_by_is_refused() -> None:
    by_task = GPP(GPPConfig(gradient="task"))
    with pytest.raises(UsageError, match=r"gradient of task, which distiller Layerwise gives weight 0: set its task_w"):
        trainer(made=by_task, distiller="layerwise").run()


@pytest.mark.parametrize("pruner", ["gpp", "gpp(importance=abs_mean_with_l1)", "grain"])
def test_a_loss_that_nothing_is_left_of_is_refused(pruner: str) -> None:
    """A term of the pruner's own tells no unit from another."""
    made, distiller = parse_method(f"{pruner}+none(task_weight=0)").build()
    arguments = (tiny_model(), made, distiller, tiny_data(), TrainingConfig(batch_size=8, search_epochs=1))
    with pytest.raises(UsageError, match="ranks by the gradient of task"):
        Trainer(*arguments, target=Target(0.5)).run()


def test_disagreement_after_extraction_ends_the_run(monkeypatch) -> None:
    monkeypatch.setattr("gppdfd.training.disagreement", lambda *_: 1e-3)
    with pytest.raises(DataError, match="disagree"):
        trainer().run()


def test_cached_teacher_says_what_the_live_one_says() -> None:
    needs = frozenset({"teacher", "hidden_states"})
    teacher, data = tiny_model(seed=9).eval(), tiny_data()
    live = without_gradient(Observed(teacher, needs), lambda: torch.autocast("cpu", enabled=False))
    cached = cached_views(live, teacher, data, needs, torch.device("cpu"), "fp32")
    batch = data.batch(torch.tensor([3, 17, 0, 39]))
    expected, found = live(batch), cached(batch)
    torch.testing.assert_close(found.logits, expected.logits)
    mask = batch.attention_mask.bool()
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours[mask], theirs[mask])
    assert cached_views(live, teacher, data, needs, torch.device("cpu"), "fp32") is cached


def test_cache_does_not_change_the_outcome() -> None:
    plain, cached = trainer().run(), trainer(config={"cache_teacher": True}).run()
    assert all(torch.equal(plain.keep[kind], cached.keep[kind]) for kind in plain.keep)
    torch.testing.assert_close(plain.model.classifier.weight, cached.model.classifier.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [True, False])
def test_a_teacher_with_dropout_says_something_new_every_time(dropout: bool) -> None:
    """So nothing that it says is kept."""
    made = distillers()["tinybert"]
    distiller = made(made.Config(teacher_dropout=dropout))
    config = CONFIG.model_copy(update={"cache_teacher": True})
    student, teacher = tiny_model(), tiny_model(seed=9, dropout=0.5)
    teaching = Trainer(student, pruners()["gpp"](), distiller, tiny_data(), config, teacher=teacher).teacher
    assert teaching is not None
    first, second = (teaching(tiny_data().batch(torch.arange(8))).logits for _ in range(2))
    assert torch.equal(first, second) != dropout


@pytest.mark.parametrize("option", [{"carry_weight_grads": True}, {"task_forward": "separate"}])
def test_released_training_options_run(option: dict) -> None:
    assert trainer(config=option).run().agreement < 1e-5


def test_separate_task_forward_equals_shared_without_dropout() -> None:
    shared, separate = trainer().run(), trainer(config={"task_forward": "separate"}).run()
    torch.testing.assert_close(shared.model.classifier.weight, separate.model.classifier.weight, rtol=1e-4, atol=1e-5)


def test_bf16_runs_and_meets_the_target() -> None:
    trained = trainer(precision="bf16").run()
    structure = structure_of(tiny_model())
    assert trained.agreement < 1e-5
    assert int(trained.keep["head"].sum()) < structure.layers * structure.heads


def test_trace_starts_at_one_and_ends_binary() -> None:
    rows = trainer().run().trace.rows
    first, last = rows[0][0], rows[-1][0]
    assert {z for step, *_, z in rows if step == first} == {1.0}
    assert {z for step, *_, z in rows if step == last} == {0.0, 1.0}


def test_a_cache_that_does_not_fit_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("gppdfd.teacher.LIMIT", 1000)
    with pytest.raises(UsageError, match=r"set training\.cache_teacher to false"):
        trainer(config={"cache_teacher": True})


def test_untrained_models_with_vanishing_feature_sums_stay_finite() -> None:
    """LayerNorm at its initial values makes every sum 0 up to rounding; raw ratio weights give NaN there."""
    models = [tiny_model(seed=seed) for seed in (0, 9)]
    with torch.no_grad():
        for model in models:
            for name, parameter in model.named_parameters():
                if "LayerNorm" in name:
                    parameter.fill_(float(name.endswith("weight")))
    student, teacher = models
    trained = trainer(student=student, teacher=teacher, config={"search_epochs": 4.0}).run()
    assert trained.notes["fusion_guard_fired"] > 0
    assert all(bool(parameter.isfinite().all()) for parameter in trained.model.parameters())
