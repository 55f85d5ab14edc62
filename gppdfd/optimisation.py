"""The optimiser of a run: AdamW and a learning-rate schedule over the student and the distiller's maps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gppdfd.settings import TrainingConfig
from gppdfd.shrink import Cuts

PARAMETRISED = ".parametrizations.weight.original"
"""What a masked weight is called while its mask is in the forward pass."""


class Optimisation:
    """AdamW with weight decay on matrices only, and a schedule over `steps`."""

    def __init__(self, model: nn.Module, maps: Iterable[nn.Parameter], steps: int, config: TrainingConfig) -> None:
        self._names = {parameter: plain_name(name) for name, parameter in model.named_parameters()}
        self._maps = list(maps)
        self._parameters = [*self._names, *self._maps]
        self._steps, self._config = steps, config
        groups = parameter_groups(self._parameters, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, steps, config)
        )

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def update(self) -> None:
        """Clip the gradients, change the weights, go on in the schedule; gradients are cleared unless carried."""
        nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        if not self._config.carry_weight_grads:
            self.optimizer.zero_grad()

    def continued(self, small: nn.Module, cuts: dict[str, Cuts]) -> "Optimisation":
        """The same for the extracted model: moments cut with their weights, the schedule goes on, no gradients yet."""
        state = self.state_dict()
        sliced = {
            name: {key: _sliced(value, parameter, cuts.get(name, {})) for key, value in moments.items()}
            for (parameter, name), moments in zip(self._names.items(), state["moments"].values(), strict=True)
        }
        other = Optimisation(small, self._maps, self._steps, self._config)
        moments = {name: sliced[name] for name in other._names.values()}
        other.load_state_dict({**state, "moments": moments, "gradients": []})
        return other

    def state_dict(self) -> dict[str, Any]:
        """Settings, schedule, and by the parameter's name its moments, and its gradient where gradients are carried."""
        states = self.optimizer.state
        carried = self._parameters if self._config.carry_weight_grads else []
        return {
            "steps": self._steps,
            "config": self._config.model_dump(mode="json"),
            "schedule": self.scheduler.state_dict(),
            "moments": {name: dict(states.get(parameter, {})) for parameter, name in self._names.items()},
            "maps": [dict(states.get(parameter, {})) for parameter in self._maps],
            "map_values": [parameter.detach() for parameter in self._maps],
            "gradients": [parameter.grad for parameter in carried],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of `state_dict`, for the same model."""
        for parameter, name in self._names.items():
            self._set(parameter, state["moments"][name])
        for parameter, moments, value in zip(self._maps, state["maps"], state["map_values"], strict=True):
            self._set(parameter, moments)
            parameter.data.copy_(value)
        if state["gradients"]:
            for parameter, gradient in zip(self._parameters, state["gradients"], strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.scheduler.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _set(self, parameter: nn.Parameter, moments: dict[str, Any]) -> None:
        if moments:
            self.optimizer.state[parameter] = {key: _beside(value, parameter) for key, value in moments.items()}


def plain_name(name: str) -> str:
    """Name of a parameter, whether its weight is masked or not."""
    return name.replace(PARAMETRISED, ".weight")


def learning_rate_factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Factor of the learning rate: linear warm-up, then linear decay to 0 at `steps`, or constant."""
    warm = round(config.warmup * steps)
    if step < warm:
        return step / warm
    if config.decay == "constant":
        return 1.0
    return max(0.0, (steps - step) / max(1, steps - warm))


def parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: biases and LayerNorm are vectors."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _beside(value: Any, parameter: nn.Parameter) -> Any:
    return value.to(parameter.device) if isinstance(value, torch.Tensor) else value


def _sliced(value: Any, parameter: nn.Parameter, cuts: Cuts) -> Any:
    """Slice a state tensor of the parameter's shape; step counters stay as they are."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    for dim, cut in cuts.items():
        value = cut.apply(value, dim)
    return value
