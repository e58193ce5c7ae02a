"""Optimisers, their rates, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import DataError
from edgeexit.training.settings import TrainSettings

__all__ = ["build_optimiser", "load_optimiser", "optimiser_tensors", "parameter_groups", "set_rates"]

_MOMENTUM = 0.9


def parameter_groups(parameters: Iterable[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    """Groups with their highest rate in "peak"; biases, norms and other vectors do not decay."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [(matrices, decay), (vectors, 0.0)]
    return [{"params": some, "lr": rate, "peak": rate, "weight_decay": share} for some, share in groups if some]


def build_optimiser(groups: list[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.rate, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.rate)


def set_rates(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Let each group learn at this share of its highest rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state as tensors named `prefix/number/what`, numbers in the order of the parameters."""
    return {
        f"{prefix}/{number}/{what}": value
        for number, parameter in enumerate(_parameters(optimiser))
        for what, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put a state back; each tensor in the layout of its parameter, so that sums come out the same.

    Raises:
        DataError: A tensor does not fit its parameter.
    """
    parameters = _parameters(optimiser)
    optimiser.state.clear()
    for name, value in tensors.items():
        if not name.startswith(f"{prefix}/"):
            continue
        number, what = name.removeprefix(f"{prefix}/").split("/")
        parameter = parameters[int(number)] if int(number) < len(parameters) else None
        if parameter is None or value.shape not in (parameter.shape, torch.Size([])):
            raise DataError("the checkpoint's optimiser does not fit the network", got=f"{name} {list(value.shape)}")
        of_parameter = value.shape == parameter.shape and what != "step"
        own = torch.empty_like(parameter, dtype=value.dtype) if of_parameter else torch.empty_like(value)
        optimiser.state[parameter][what] = own.copy_(value)


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
