"""Plain forward passes of the stored models."""

import torch

from gppdfd.training import task_loss
from gppdfd.views import Observed
from tests.golden_cases import Case, Tensors, handles
from tests.golden_data import assert_close, batch, model


@handles("base", "forward")
def forward(case: Case, stored: Tensors) -> None:
    net = model(case["inputs"]["model"])
    for index in case["inputs"]["batches"]:
        view = Observed(net, frozenset({"hidden_states"}))(batch(index))
        assert_close(view.logits, stored[f"out.logits.{index}"], case)
        loss = task_loss(view.logits, batch(index).labels, regression=False)
        assert_close(loss, case["expected"][f"ce_loss.{index}"], case)
        if f"out.hidden_states.{index}" in stored:
            assert_close(torch.stack(view.hidden_states), stored[f"out.hidden_states.{index}"], case)
