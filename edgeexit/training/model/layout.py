"""What the axes of an activation are, from the layers of the model, and which input is a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["has_channels_first", "mask_among"]

_SEQUENCE = 2
_CONVOLUTIONS = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}


def has_channels_first(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether an activation has its channels before its places.

    Sequences are tokens (T, D) unless the model convolves over sequences and the first axis is as long as
    such a layer is wide. Maps are (C, H, W) unless only the last axis fits the widths of the model's layers.

    Args:
        model: The model that it comes from.
        shape: Of one sample.
    """
    kind = _CONVOLUTIONS.get(len(shape))
    if kind is None:
        return True
    convolved = {layer.out_channels for layer in model.modules() if isinstance(layer, kind)}
    normalised = {layer.normalized_shape[-1] for layer in model.modules() if isinstance(layer, nn.LayerNorm)}
    if len(shape) == _SEQUENCE:
        return shape[0] in convolved and shape[-1] not in normalised
    linear = {layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)}
    return shape[0] in convolved or shape[-1] not in normalised | linear


def mask_among(arguments: Mapping[str, Any], rows: int, lengths: Sequence[int]) -> str | None:
    """The input (n, T) whose name contains "mask"; one as long as the tokens that are averaged, if any are."""
    fitting = [
        name
        for name, value in arguments.items()
        if "mask" in name.lower() and isinstance(value, Tensor) and value.dim() == _SEQUENCE and len(value) == rows
    ]
    exact = [name for name in fitting if arguments[name].shape[1] in lengths]
    return next(iter(exact or fitting), None)
