"""What the axes of an activation are, from the layers of the model, and which input is a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["has_channels_first", "mask_among"]

_SEQUENCE = 2
_CONVOLUTIONS = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose1d, 3: nn.ConvTranspose2d, 4: nn.ConvTranspose3d}
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def has_channels_first(model: nn.Module, name: str, shape: tuple[int, ...]) -> bool:
    """Whether an activation has its channels before its places.

    The layer that gives it decides if it can: a convolution or batch normalisation whose channels are the first axis, a
    linear layer or layer normalisation whose features are the last. If it cannot (an activation function, a block),
    the widths of the layers around it do, those nearest first, wherever only one of the two axes fits them. Where none
    tells, sequences are tokens (T, D) unless the model convolves over sequences and the first axis is as long as such a
    layer is wide, and maps are (C, H, W) unless only the last axis fits the widths of the model's layers.

    Args:
        model: The model that it comes from.
        name: Of the module that gives it.
        shape: Of one sample.
    """
    if len(shape) not in _CONVOLUTIONS:
        return True
    own = _own_word(model.get_submodule(name), shape)
    if own is not None:
        return own
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):
        first, last = _widths(model.get_submodule(".".join(parts[:depth])), len(shape))
        if shape[-1] in last and shape[0] not in first | last:
            return False
        if shape[0] in first and shape[-1] not in last:
            return True
    first, last = _widths(model, len(shape))
    if len(shape) == _SEQUENCE:
        return shape[0] in first and shape[-1] not in _normalised(model)
    return shape[0] in first or shape[-1] not in last


def _own_word(module: nn.Module, shape: tuple[int, ...]) -> bool | None:
    """What the layer that gives an activation says of its axes; None: nothing."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    if isinstance(module, (_CONVOLUTIONS[len(shape)], _TRANSPOSED[len(shape)])):
        return True if shape[0] == module.out_channels else None
    if isinstance(module, _BATCH_NORM):
        return True if shape[0] == module.num_features else None
    if isinstance(module, nn.Linear | nn.Embedding):
        width = module.out_features if isinstance(module, nn.Linear) else module.embedding_dim
        return False if shape[-1] == width else None
    if isinstance(module, nn.LayerNorm):
        return _word_of_norm(module, shape)
    return None


def _word_of_norm(norm: nn.LayerNorm, shape: tuple[int, ...]) -> bool | None:
    """Of layer normalisation, which torch does over the last axes; those derived from it may turn maps for that."""
    width = norm.normalized_shape[-1]
    derived = type(norm).forward is not nn.LayerNorm.forward
    said = getattr(norm, "data_format", None) if derived else "channels_last"
    if said in ("channels_first", "channels_last"):
        axis = 0 if said == "channels_first" else -1
        return axis == 0 if shape[axis] == width else None
    fits = [shape[0] == width, shape[-1] == width]
    return fits[0] if fits[0] != fits[1] else None


def _widths(module: nn.Module, rank: int) -> tuple[set[int], set[int]]:
    """Widths of the layers inside that put channels first, and of those that put features last."""
    layers = list(module.modules())
    convolutions = (_CONVOLUTIONS[rank], _TRANSPOSED[rank])
    first = {layer.out_channels for layer in layers if isinstance(layer, convolutions)}
    linear = {layer.out_features for layer in layers if isinstance(layer, nn.Linear)}
    return first, linear | _normalised(module)


def _normalised(module: nn.Module) -> set[int]:
    return {layer.normalized_shape[-1] for layer in module.modules() if isinstance(layer, nn.LayerNorm)}


def mask_among(arguments: Mapping[str, Any], rows: int, lengths: Sequence[int]) -> str | None:
    """The input (n, T) whose name contains "mask"; one as long as the tokens that are averaged, if any are."""
    fitting = [
        name
        for name, value in arguments.items()
        if "mask" in name.lower() and isinstance(value, Tensor) and value.dim() == _SEQUENCE and len(value) == rows
    ]
    exact = [name for name in fitting if arguments[name].shape[1] in lengths]
    return next(iter(exact or fitting), None)
