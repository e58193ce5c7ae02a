"""Weights: all the numbers of a module by name, copied out and put back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeexit.errors import DataError
from edgeexit.training.loop.checkpoints import tensor_digest

__all__ = ["all_finite", "architecture", "copied", "live", "put", "state_digest", "under"]


def live(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves; what is there under two names is there once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, where they are."""
    return {name: tensor.detach().clone() for name, tensor in live(module).items()}


def put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into a module; its tensors stay where and how they lie.

    Raises:
        DataError: Names or shapes are others.
    """
    own = live(module)
    strange = [name for name in {*own, *tensors} if name not in own or name not in tensors]
    strange += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if strange:
        raise DataError(
            "the stored weights do not fit the network",
            got=", ".join(sorted(strange)[:5]),
            expected="the same names and shapes",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def architecture(module: nn.Module) -> str:
    """Names and shapes of all parameters and buffers, in a few words."""
    shapes = [f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in live(module).items()]
    numbers = sum(tensor.numel() for tensor in live(module).values())
    return (
        f"{len(shapes)} tensors of {numbers} numbers, {hashlib.sha256(chr(10).join(shapes).encode()).hexdigest()[:12]}"
    )


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def all_finite(module: nn.Module) -> bool:
    """Whether there is no NaN and no infinity among the parameters, and no NaN among the buffers.

    A buffer may hold −∞ on purpose, as the masks of transformers do.
    """
    return all(bool(tensor.isfinite().all()) for tensor in module.parameters()) and not any(
        tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in module.buffers()
    )


def state_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and persistent buffers: names, data types, shapes and values, however they lie."""
    return tensor_digest(module.state_dict())
