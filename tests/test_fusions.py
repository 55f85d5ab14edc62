"""ReviewKD-style and ALP-KD fusions: their formulas, and where training starts."""

import pytest
import torch
from torch import nn

from baselines.fusions import Review, projected_layers, reviewed
from baselines.one_to_one import one_to_one_loss
from tests.one_distiller import begun, losses_on, pair, seen, six_examples

SHAPE = (3, 2, 5, 6)


def stack(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_review_starts_from_equal_weights() -> None:
    first, second, third = reviewed(tuple(stack(0)), [Review(6) for _ in range(3)])
    states = stack(0)
    torch.testing.assert_close(third, states[2])
    torch.testing.assert_close(second, (states[1] + states[2]) / 2)
    torch.testing.assert_close(first, states[0] / 2 + states[1] / 4 + states[2] / 4)


def test_review_weighs_each_token_by_what_both_features_say() -> None:
    torch.manual_seed(0)
    reviews = [Review(6).double() for _ in range(2)]
    for weight in nn.ModuleList(reviews).parameters():
        nn.init.normal_(weight, std=0.5)
    states = stack(0)[:2]
    deep, shallow = reviews[1].inner(states[1]), reviews[0].inner(states[0])
    shares = torch.sigmoid(reviews[0].weigh(torch.cat([shallow, deep], -1)))
    expected = reviews[0].outer(shallow * shares[..., :1] + deep * shares[..., 1:])
    found = reviewed(tuple(states), reviews)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], reviews[1].outer(deep))


def test_review_reaches_every_map_but_the_weights_of_the_deepest() -> None:
    (student, teacher), distiller = pair(), begun("reviewkd")
    losses_on(distiller, student, teacher, six_examples())["features"].backward()
    missing = [name for name, weight in distiller._reviews.named_parameters() if weight.grad is None]
    assert missing == ["2.weigh.weight", "2.weigh.bias"]


def test_projected_layers_are_mixtures_of_the_teachers() -> None:
    student, teacher = stack(0), stack(1, (4, 2, 5, 6))
    found = projected_layers(student, teacher)
    weights = torch.stack([(student[1, 0, 3] * layer[0, 3]).sum() for layer in teacher]).softmax(0)
    torch.testing.assert_close(found[1, 0, 3], sum(w * layer[0, 3] for w, layer in zip(weights, teacher, strict=True)))


def test_teachers_of_one_layer_leave_no_choice() -> None:
    student, teacher = stack(0), stack(1, (1, 2, 5, 6))
    torch.testing.assert_close(projected_layers(student, teacher), teacher.expand(SHAPE))


def test_scaling_flattens_the_attention() -> None:
    student, teacher = 4 * stack(0), 4 * stack(1)
    plain, scaled = (projected_layers(student, teacher, on) - teacher.mean(0) for on in (False, True))
    assert float(scaled.square().mean()) < float(plain.square().mean())


@pytest.mark.parametrize(("spec", "only_first"), [("alp-kd", False), ("alp-kd(tokens=sentence)", True)])
def test_alp_compares_every_token_or_the_classifiers(spec: str, only_first: bool) -> None:
    """The gradient with respect to the last hidden states says which tokens count."""
    (student, teacher), batch, distiller = pair(), six_examples(), begun(spec)
    own, target = (seen(model, distiller, batch) for model in (student, teacher))
    loss = distiller.losses(own, target, batch, None)["features"]
    (gradient,) = torch.autograd.grad(loss, own.hidden_states[-1])
    reached = gradient.abs().sum(-1) > 0
    expected = torch.zeros_like(reached) if only_first else batch.attention_mask.bool()
    expected[:, 0] = True
    assert torch.equal(reached, expected)


def test_equal_layers_of_the_teacher_make_alp_the_control() -> None:
    """Whatever the weights, the mixture of equal layers is that layer."""
    student, layer = stack(0), stack(1)[:1]
    fused = projected_layers(student, layer.expand(SHAPE))
    expected = one_to_one_loss(tuple(student), tuple(layer.expand(SHAPE)), None)
    torch.testing.assert_close(one_to_one_loss(tuple(student), tuple(fused), None), expected)
