"""Calling: a batch goes into a network, and the logits of its exits come out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import DataError, EdgeExitError, ModelError

__all__ = ["called", "check_fit", "exits_logits", "moved"]

_LOGITS_RANK = 2
_PICTURES_RANK = 4


def called(
    network: nn.Module, names: Sequence[str], inputs: Sequence[Tensor], method: Callable[..., Any] | None = None
) -> Any:
    """Call a network: by the names of its parameters where there are several inputs and it knows them all.

    Args:
        network: A module.
        names: Of the inputs.
        inputs: (n, …) each.
        method: What is called; the network itself if None.
    """
    call = network if method is None else method
    parameters = inspect.signature(network.forward).parameters
    if len(names) > 1 and all(name in parameters for name in names):
        return call(**dict(zip(names, inputs, strict=True)))
    return call(*inputs)


@torch.no_grad()
def check_fit(network: nn.Module, names: Sequence[str], inputs: Sequence[Tensor], what: str) -> Any:
    """Try inputs on a network, so that data that do not fit it are told as such before it is trained.

    Args:
        network: A module; it is run in the mode that it is in.
        names: Of the inputs.
        inputs: (n, …) each, on the network's device.
        what: Which data these are, for the message.

    Returns:
        What the network gives.

    Raises:
        DataError: The network fails on them.
    """
    try:
        return called(network, names, inputs)
    except EdgeExitError:
        raise
    except Exception as error:  # whatever the user's network raises
        types = (f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" for value in inputs)
        taken = ", ".join(inspect.signature(network.forward).parameters)
        lines = str(error).strip().splitlines()
        raise DataError(
            f"the network fails on the {what}",
            got=", ".join(f"{name}: {kind}" for name, kind in zip(names, types, strict=True))
            + f"; {type(error).__name__}: {lines[0][:300] if lines else ''}",
            expected=f"what its forward({taken}) takes",
            remedy="give all inputs, in the shapes, types and order of axes that the network takes",
        ) from error


def moved(inputs: Sequence[Tensor], device: torch.device, channels_last: bool) -> list[Tensor]:
    """The inputs on a device, pictures with channels last if that is asked for."""
    layouts = {True: torch.channels_last, False: torch.preserve_format}
    return [value.to(device, memory_format=layouts[channels_last and value.ndim == _PICTURES_RANK]) for value in inputs]


def exits_logits(output: object, count: int) -> tuple[Tensor, ...]:
    """The logits of every exit, (n, C) in float32, if that is what a network's output is.

    Raises:
        ModelError: It is not.
    """
    many = tuple(output) if isinstance(output, tuple | list) else ()
    shapes = {tuple(one.shape) if isinstance(one, Tensor) else None for one in many}
    shape = next(iter(shapes)) if len(shapes) == 1 else None
    if shape is None or len(shape) != _LOGITS_RANK or shape[0] != count:
        got = type(output).__name__ + (f" of {', '.join(map(str, shapes))}" if many else "")
        raise ModelError(
            "the network gives no logits of several exits",
            got=got,
            expected=f"a tuple of tensors ({count}, classes), one for each exit",
            remedy="MultiExit.attach(model, at=…) gives a model exits",
        )
    return tuple(one.float() for one in many)
