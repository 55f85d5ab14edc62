"""Feature correlation distillation."""

import torch
from torch.nn.functional import normalize

from baselines.fcd import FCDConfig, fcd_loss, random_loss, sequence_loss, token_loss
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close


@handles("fcd", "loss")
def fcd_losses(case: Case, stored: Tensors) -> None:
    """Official numbers have the diagonal, no padding mask and chunks as rows; ours are the options around them."""
    expected = case["expected"]
    raw = stored["in.student"].clone().requires_grad_(), stored["in.teacher"]
    own, target = (normalize(features, dim=-1) for features in raw)
    everything = torch.ones(own.shape[:2], dtype=own.dtype)
    loose = {"least": 1}
    official = {
        "official.token": token_loss(own, target, everything, **loose),
        "official.sequence": sequence_loss(*raw, everything, rows="chunk", **loose),  # not normalised there
        "official.sequence_normalised": sequence_loss(own, target, everything, rows="chunk", **loose),
        "ours.seq_rows_per_position": sequence_loss(own, target, everything, **loose),
        "ours.token_no_diagonal": token_loss(own, target, everything, diagonal=False, **loose),
        "ours.seq_rows_per_position_no_diagonal": sequence_loss(own, target, everything, diagonal=False, **loose),
    }
    official["official.both"] = official["official.token"] + official["official.sequence_normalised"]
    official["official.weighted"] = 0.5 * official["official.token"] + 2 * official["official.sequence_normalised"]
    if "in.attention_mask" in stored:
        mask = stored["in.attention_mask"].to(own.dtype)
        official["ours.token_padding_masked"] = token_loss(own, target, mask, **loose)
        official["ours.seq_padding_masked_rows_per_position"] = sequence_loss(own, target, mask, least=2)
    assert set(expected) <= set(official)
    for name, value in expected.items():
        assert_close(official[name].detach(), value, case)
    for key in (key for key in stored if key.startswith("out.grad.")):
        value = official["official." + key.removeprefix("out.grad.")]
        (gradient,) = torch.autograd.grad(value, raw[0], retain_graph=True)
        assert_close(gradient, stored[key], case)


@handles("fcd", "layer_list")
def fcd_layers(case: Case, stored: Tensors) -> None:
    config = FCDConfig(rows="chunk", mask_padding=False)
    count = len(case["expected"]["each"])
    everything = torch.ones(stored["in.student.0"].shape[:2])
    losses = [
        fcd_loss(stored[f"in.student.{index}"], stored[f"in.teacher.{index}"], everything, config)
        for index in range(count)
    ]
    assert_close(torch.stack(losses), case["expected"]["each"], case)
    assert_close(torch.stack(losses).mean() * case["inputs"]["loss_weight"], case["expected"]["value"], case)


@handles("fcd", "random_tokens")
def fcd_random(case: Case, stored: Tensors) -> None:
    own, target = (normalize(stored[f"in.{role}"], dim=-1) for role in ("student", "teacher"))
    chosen, expected = stored["in.permutation"][: case["inputs"]["K"]], case["expected"]
    everything = torch.ones(own.shape[:2], dtype=own.dtype)
    token = token_loss(own, target, everything)
    sequence = sequence_loss(own, target, everything, rows="chunk")
    assert_close(token, expected["token"], case)
    assert_close(token + sequence, expected["token_plus_sequence"], case)
    assert_close(token + random_loss(own, target, chosen), expected["gamma_only_with_token"], case)
    swapped = random_loss(own.transpose(0, 1), target.transpose(0, 1), chosen)  # the release has turned them by then
    assert_close(token + sequence + 0.5 * swapped, expected["all_three"], case)
