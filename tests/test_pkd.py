"""PKD: which layers and tokens the patient loss sees."""

import pytest
import torch
from torch.nn.functional import normalize

from baselines.pkd import patience_loss
from gppdfd.interface import parse_method
from tests.one_distiller import begun, losses_on, pair, six_examples


@pytest.mark.parametrize("layer_map", ["skip", "last"])
def test_the_last_layer_is_left_alone(layer_map: str) -> None:
    student, teacher = pair()
    losses_on(begun(f"pkd(layer_map={layer_map})"), student, teacher, six_examples())["features"].backward()
    for name, parameter in student.base_model.encoder.layer.named_parameters():
        assert (parameter.grad is None or not parameter.grad.any()) == name.startswith("2."), name


def test_normalised_states_may_have_any_length() -> None:
    student, teacher = torch.randn(2, 4, 1, 6), torch.randn(2, 4, 1, 6)
    scaled = student * torch.rand(2, 4, 1, 1).add(0.1)
    torch.testing.assert_close(patience_loss(scaled, teacher), patience_loss(student, teacher))
    assert not torch.allclose(patience_loss(scaled, teacher, False), patience_loss(student, teacher, False))


@pytest.mark.parametrize(("model_type", "position"), [("bert", lambda mask: 0), ("gpt2", lambda mask: mask.sum() - 1)])
def test_the_token_is_the_classifiers(model_type: str, position) -> None:
    student, teacher = pair(model_type=model_type)
    batch = six_examples()
    found = losses_on(begun("pkd", model_type=model_type), student, teacher, batch)["features"]
    states = [
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True).hidden_states
        for model in (student, teacher)
    ]
    rows = [(row, int(position(mask))) for row, mask in enumerate(batch.attention_mask)]
    own, target = (
        torch.stack([normalize(layer[place], dim=-1) for layer in part[1:3] for place in rows]) for part in states
    )
    torch.testing.assert_close(found, (own - target).square().mean())


def test_a_student_of_one_layer_has_no_pair() -> None:
    student, teacher = pair()
    there = torch.tensor([True, False, False])
    losses = losses_on(begun("pkd"), student, teacher, six_examples(), {"mha_layer": there, "ffn_layer": there})
    assert float(losses["features"]) == 0
    assert float(losses["soft"].detach()) > 0


@pytest.mark.parametrize("layer_map", ["skip", "last"])
def test_named_methods_take_the_first_layers(layer_map: str) -> None:
    method = parse_method(f"pkd-{layer_map}")
    assert method.pruner_config.which == "first"
    assert method.distiller_config.layer_map == layer_map
    assert not method.training
