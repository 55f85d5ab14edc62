"""What all methods of one-to-one distillation keep, and layer maps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baselines.matching import drawn_layers, layer_pairs, sentence_position
from gppdfd.budget import Target
from gppdfd.distilling import soft_labels
from gppdfd.errors import UsageError
from gppdfd.extraction import extract
from gppdfd.interface import parse_method
from gppdfd.settings import TrainingConfig
from gppdfd.structure import structure_of
from gppdfd.tasks.base import Batch
from gppdfd.training import Trainer, task_loss
from gppdfd.views import Observed, existing_layers
from tests.one_distiller import begun, losses_on, pair, six_examples
from tests.tiny import random_keep, tiny_data, tiny_model

LAYERWISE = ("pkd", "tinybert", "minilm", "minilmv2", "distilbert", "one-to-one")
FUSIONS = ("reviewkd", "alp-kd")
OPTIONS = {
    "pkd": ("layer_map=identity", "tokens=all", "normalise=off", "kl_reduction=mean"),
    "pkd(tokens=all)": ("tokens=all,mask_padding=off",),
    "tinybert": ("attention=off", "mask_padding=off", "kl_reduction=mean", "layer_map=last"),
    "minilm": ("mask_padding=off",),
    "minilmv2": ("mask_padding=off", "relation_heads=2"),
    "distilbert": ("mask_padding=off",),
    "reviewkd": ("mask_padding=off", "distance=mse", "distance=cosine"),
    "alp-kd": ("tokens=sentence", "scaled=on", "mask_padding=off"),
}


@pytest.mark.parametrize("name", LAYERWISE)
def test_a_student_equal_to_its_teacher_pays_nothing(name: str) -> None:
    student, teacher = pair()[0], pair()[0]
    losses = losses_on(begun(name), student, teacher, six_examples())
    assert float(losses["features"].detach()) == pytest.approx(0, abs=1e-12)
    if "soft" in losses:
        (gradient,) = torch.autograd.grad(losses["soft"], student.classifier.bias)
        assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize(("spec", "options"), [(spec, text) for spec, texts in OPTIONS.items() for text in texts])
def test_every_option_changes_the_loss(spec: str, options: str) -> None:
    student, teacher = pair()
    changed = f"{spec.split('(')[0]}({options})"
    before, after = (losses_on(begun(name), student, teacher, six_examples()) for name in (spec, changed))
    assert any(float((after[part] - before[part]).detach().abs()) > 1e-6 for part in before)


@pytest.mark.parametrize("name", ["minilm", "minilmv2"])
def test_the_fallback_is_an_option(name: str) -> None:
    student, teacher = pair()
    keep = {"head": torch.tensor([[True] * 4, [True] * 4, [False] * 4])}
    found = [
        losses_on(begun(spec), student, teacher, six_examples(), keep)["features"]
        for spec in (name, f"{name}(fallback=none)")
    ]
    assert [float(loss.detach()) > 0 for loss in found] == [True, False]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
@pytest.mark.parametrize("name", [*LAYERWISE, *FUSIONS])
def test_tokens_at_padding_positions_change_nothing(name: str, seed: int) -> None:
    (student, teacher), batch, distiller = pair(), six_examples(), begun(name)
    noise = torch.randint(5, 60, batch.input_ids.shape, generator=torch.Generator().manual_seed(seed))
    noisy = replace(batch, input_ids=torch.where(batch.attention_mask.bool(), batch.input_ids, noise))
    found, expected = (losses_on(distiller, student, teacher, data) for data in (noisy, batch))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [*LAYERWISE, "alp-kd", "alp-kd(tokens=sentence)", "reviewkd(distance=mse)"])
def test_longer_padding_changes_nothing(name: str) -> None:
    (student, teacher), batch, distiller = pair(), six_examples(), begun(name)
    found, expected = (losses_on(distiller, student, teacher, data) for data in (padded(batch, 3), batch))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def padded(batch: Batch, extra: int) -> Batch:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return replace(batch, **{name: nn.functional.pad(getattr(batch, name), (0, extra)) for name in names})


@pytest.mark.parametrize("kinds", [("head", "ffn"), ("qk", "vo"), ("mha_layer", "ffn_layer"), ("hidden",)])
@pytest.mark.parametrize(
    "spec", [*LAYERWISE, *FUSIONS, "tinybert(layer_map=identity)", "pkd(tokens=all)", "alp-kd(tokens=sentence)"]
)
def test_masked_and_extracted_student_give_one_loss(spec: str, kinds: tuple[str, ...]) -> None:
    student, teacher = pair()
    keep, distiller = random_keep(student, kinds=kinds, seed=3), begun(spec)
    gradients = []
    for model, mask in ((student, keep), (extract(student, keep), None)):
        model.zero_grad()
        losses = losses_on(distiller, model, teacher, six_examples(), mask)
        total = sum(distiller.weight(part) * loss for part, loss in losses.items())
        total.backward()
        words = model.base_model.embeddings.word_embeddings.weight.grad
        rows = keep.get("hidden", torch.ones(32, dtype=torch.bool))
        gradients.append((total.detach(), words if words.shape[1] < len(rows) else words[:, rows]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("spec", [*LAYERWISE, *FUSIONS])
def test_a_student_without_heads_in_a_layer_still_learns(spec: str) -> None:
    """Finite, and the gradient reaches every parameter of the layers that are compared."""
    student, teacher = pair()
    keep = {"head": torch.ones(3, 4, dtype=torch.bool), "ffn": torch.ones(3, 40, dtype=torch.bool)}
    keep["head"][1] = False
    small = extract(student, keep)
    loss = losses_on(begun(spec), small, teacher, six_examples())["features"]
    loss.backward()
    assert loss.isfinite()
    for name, parameter in small.base_model.encoder.layer[:2].named_parameters():
        if parameter.numel() == 0 or "key.bias" in name:  # a key's bias moves all scores alike
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("spec", [*LAYERWISE, *FUSIONS, "logits"])
def test_regression_reaches_the_classifier(spec: str) -> None:
    student, teacher = pair(labels=1)
    distiller, batch = begun(spec, labels=1), six_examples(labels=1)
    losses = losses_on(distiller, student, teacher, batch)
    losses["task"] = task_loss(Observed(student)(batch).logits, batch.labels, True)
    sum(distiller.weight(part) * loss for part, loss in losses.items()).backward()
    assert float(student.classifier.weight.grad.abs().max()) > 1e-6


@pytest.mark.parametrize("spec", [*LAYERWISE, *FUSIONS])
def test_the_teacher_learns_nothing_and_repeats_itself(spec: str) -> None:
    trainer = short_run(spec)
    batch = six_examples()
    first, second = trainer.teacher(batch), trainer.teacher(batch)
    assert torch.equal(first.logits, second.logits)
    assert not first.logits.requires_grad
    assert all(not states.requires_grad for states in (*first.hidden_states, *first.values))


@pytest.mark.parametrize(("spec", "least"), [("tinybert(teacher_dropout=on)", 1), ("tinybert", 0)])
def test_dropout_of_the_teacher_is_an_option(spec: str, least: int) -> None:
    trainer = short_run(spec, dropout=0.5, cache_teacher=True)
    first, second = (trainer.teacher(six_examples()).logits for _ in range(2))
    assert int(not torch.equal(first, second)) == least


def short_run(spec: str, dropout: float = 0.0, **settings: bool) -> Trainer:
    pruner, distiller = parse_method(f"none+{spec}").build()
    config = TrainingConfig(batch_size=20, learning_rate=1e-2, search_epochs=0, recovery_epochs=1, **settings)
    teacher = tiny_model(seed=9)
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return Trainer(tiny_model(), pruner, distiller, tiny_data(), config, teacher=teacher, target=Target(0.0))


@pytest.mark.parametrize("spec", ["tinybert", "tinybert(projection=per_pair)", "reviewkd"])
def test_trainable_maps_start_as_the_identity_train_and_come_back(spec: str) -> None:
    trainer = short_run(spec)
    before = [weight.clone() for weight in begun(spec).parameters()]
    trainer.run()
    trained = list(trainer.distiller.parameters())
    assert len(before) == len(trained)
    assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))
    again = begun(spec)
    again.load_state_dict(trainer.distiller.state_dict())
    assert all(torch.equal(old, new) for old, new in zip(again.parameters(), trained, strict=True))


def test_teacher_layers() -> None:
    def matched(students: int, layer_map: str) -> list[int]:
        return [teacher + 1 for _, teacher in layer_pairs(list(range(students)), 12, layer_map)]

    assert matched(4, "uniform") == [3, 6, 9, 12]
    assert matched(6, "uniform") == [2, 4, 6, 8, 10, 12]
    assert matched(12, "uniform") == matched(12, "identity") == list(range(1, 13))
    assert matched(6, "skip") == [2, 4, 6, 8, 10]
    assert matched(3, "skip") == [4, 8]
    assert matched(6, "last") == [7, 8, 9, 10, 11]
    assert matched(3, "last") == [10, 11]
    assert matched(12, "skip") == matched(12, "last") == list(range(1, 12))
    assert matched(1, "skip") == matched(1, "last") == []


@pytest.mark.parametrize("name", ["one-to-one", "dfd(teacher_fusion=off,student_fusion=off)"])
def test_a_student_of_fixed_depth_is_a_shallow_model(name: str) -> None:
    """Its layers 2 and 4 learn from the teacher's 2 and 4; the copies that stand for removed layers have no loss."""
    teacher, dense = tiny_model(seed=9, layers=4).double().eval(), tiny_model(layers=4).double().eval()
    there = torch.tensor([False, True, False, True])
    small = extract(dense, {"mha_layer": there, "ffn_layer": there.clone()})
    found = losses_on(begun(name), small, teacher, six_examples())["features"]
    needs, batch = frozenset({"hidden_states"}), six_examples()
    own, theirs = (Observed(model, needs)(batch).hidden_states for model in (small, teacher))
    real = batch.attention_mask.double()
    expected = sum(((own[m] - theirs[m]).square().mean(-1) * real).sum() / real.sum() for m in (2, 4))
    torch.testing.assert_close(found, expected)


def test_removed_layers_are_not_counted() -> None:
    keep = structure_of(tiny_model()).keep_all(("mha_layer", "ffn_layer"))
    keep["mha_layer"][1] = keep["ffn_layer"][1] = keep["ffn_layer"][2] = False
    assert existing_layers(keep) == [0, 2]
    assert layer_pairs([0, 2], 12, "uniform") == [(0, 5), (2, 11)]
    assert layer_pairs([0, 2], 12, "identity") == [(0, 0), (2, 2)]


@pytest.mark.parametrize("layer_map", ["identity", "last", "random"])
def test_a_shallower_teacher_is_refused_where_no_layer_matches(layer_map: str) -> None:
    with pytest.raises(UsageError, match="at least 3 layers"):
        layer_pairs([0, 1, 2], 2, layer_map)
    assert layer_pairs([0, 1, 2], 2, "uniform") == [(0, 0), (1, 1), (2, 1)]


@given(count=st.integers(1, 12), seed=st.integers(0, 99))
def test_random_layers_are_in_order_and_differ(count: int, seed: int) -> None:
    drawn = drawn_layers(count, 12, torch.Generator().manual_seed(seed))
    assert len(set(drawn)) == count
    assert drawn == sorted(drawn)
    assert set(drawn) <= set(range(12))


def test_a_random_map_goes_on_where_it_was_stopped() -> None:
    student, teacher = pair()
    keep = {"mha_layer": torch.tensor([True, False, False]), "ffn_layer": torch.tensor([True, False, False])}

    def draw(distiller, count: int) -> list[float]:
        found = [losses_on(distiller, student, teacher, six_examples(), keep)["features"] for _ in range(count)]
        return [float(loss.detach()) for loss in found]

    first = begun("pkd(layer_map=random)")
    draw(first, 3)
    second = begun("pkd(layer_map=random)")
    second.load_state_dict(first.state_dict())
    following = draw(first, 6)
    assert draw(second, 6) == following
    assert len(set(following)) > 1


def test_the_classifiers_token() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    assert sentence_position(mask, last=False).tolist() == [0, 0, 0]
    assert sentence_position(mask, last=True).tolist() == [1, 2, 0]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_labels_scale_with_the_temperature(temperature: float) -> None:
    student, teacher = torch.randn(5, 3, dtype=torch.double, requires_grad=True), torch.randn(5, 3, dtype=torch.double)
    inputs, targets = (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
    expected = nn.functional.kl_div(inputs, targets, reduction="sum") / 5 * temperature**2
    loss = soft_labels(student, teacher, temperature, regression=False)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))
    mean = soft_labels(student, teacher, temperature, regression=False, reduction="mean")
    torch.testing.assert_close(mean * 3, loss)
