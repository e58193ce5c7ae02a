"""Preparation: from the bytes of pictures, or any array, to the tensors that a network takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeexit.errors import UsageError
from edgeexit.manifest import Preprocessing
from edgeexit.training.feeding.augmenting import Augmentation, augmented

__all__ = ["Preparation"]

_BYTE_RANGE = 255
_CHANNELS = (1, 3)
_PICTURES_RANK = 4


@dataclass(frozen=True, eq=False)
class Preparation:
    """What is done to each input.

    Attributes:
        names: The inputs in the order in which the network takes them.
        axis: Of pictures' channels in the data, -1 (n, H, W, C) or 1 (n, C, H, W); None where there are no pictures.
        turned: Whether (n, H, W, C) is given to the network as (n, C, H, W).
        scale: float32, what values are multiplied with; None leaves values as they are. (C,) for pictures, else of a
            shape that fits (n, C, …): the channels of other arrays come first, as in an exported graph.
        offset: The same shape, what is added then.
    """

    names: tuple[str, ...]
    axis: int | None = None
    turned: bool = False
    scale: Tensor | None = None
    offset: Tensor | None = None

    @classmethod
    def plan(cls, preprocessing: Preprocessing | None, first: Mapping[str, NDArray[Any]]) -> Preparation:
        """How these inputs are prepared. The arithmetic is that of an exported graph: x · scale + offset in float32.

        Args:
            preprocessing: As for an export; None leaves values as they are.
            first: One sample by input name.

        Raises:
            UsageError: Mean and std are not finite, not above 0, or not one a channel.
        """
        names = tuple(first)
        array = first[names[0]]
        image = preprocessing is not None and preprocessing.kind == "image"
        if len(names) != 1 or array.ndim < 2:
            return cls(names)
        if array.ndim != _PICTURES_RANK:
            scale, offset = _without_pictures(preprocessing, array)
            return cls(names, scale=scale, offset=offset)
        axis = -1 if image or (array.shape[1] not in _CHANNELS and array.shape[-1] in _CHANNELS) else 1
        if not image and (preprocessing is None or preprocessing.mean is None):
            return cls(names, axis)
        assert preprocessing is not None
        scale, offset = _arithmetic(preprocessing, array.shape[axis], scaled=array.dtype == np.uint8)
        return cls(names, axis, image, scale, offset)

    @property
    def pictures(self) -> bool:
        """Whether there is one input, of pictures."""
        return self.axis is not None

    def described(self) -> str:
        """What is done, in a few words: the same for the same preparation."""
        layout = "channels last become channels first" if self.turned else "axes as they are"
        if self.scale is None or self.offset is None:
            return f"values as they are, {layout}"
        scale, offset = (
            ", ".join(f"{value:.9g}" for value in part.flatten().tolist()) for part in (self.scale, self.offset)
        )
        return f"x · ({scale}) + ({offset}), {layout}"

    def tensors(
        self, arrays: Mapping[str, NDArray[Any]], augment: Augmentation, chance: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """The network's inputs, on the CPU, contiguous.

        Args:
            arrays: A batch by input name.
            augment: What is done to pictures.
            chance: The generator of augmentation; may be None for "none".
        """
        tensors = tuple(_tensor(arrays[name]) for name in self.names)
        if self.axis is None:
            if self.scale is None or self.offset is None:
                return tensors
            return (tensors[0].to(torch.float32) * self.scale + self.offset,)
        pictures = tensors[0] if self.axis == -1 else tensors[0].permute(0, 2, 3, 1)
        if augment != "none" and chance is not None:
            pictures = augmented(pictures, augment, chance)
        if self.scale is not None and self.offset is not None:
            pictures = pictures.to(torch.float32) * self.scale + self.offset
        turn = self.turned or self.axis == 1
        return (pictures.permute(0, 3, 1, 2).contiguous() if turn else pictures,)


def _without_pictures(
    preprocessing: Preprocessing | None, array: NDArray[Any]
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Scale and offset of arrays (n, C, …) that are no pictures; None where no normalisation is asked for."""
    if preprocessing is None or preprocessing.mean is None:
        return None, None
    scale, offset = _arithmetic(preprocessing, array.shape[1], scaled=array.dtype == np.uint8)
    shape = (-1, *(1,) * (array.ndim - 2))
    return scale.reshape(shape), offset.reshape(shape)


def _tensor(array: NDArray[Any]) -> Tensor:
    plain = array.astype(np.float32) if array.dtype in (np.float64, np.float16) else array
    return torch.from_numpy(np.ascontiguousarray(plain))


def _arithmetic(preprocessing: Preprocessing, channels: int, *, scaled: bool) -> tuple[Tensor, Tensor]:
    values = []
    for word, given, default in (("mean", preprocessing.mean, 0.0), ("std", preprocessing.std, 1.0)):
        numbers = (default,) if given is None else given
        if len(numbers) not in (1, channels) or not all(map(math.isfinite, numbers)):
            raise UsageError(f"{word} needs one finite number a channel", got=numbers, expected=f"{channels} numbers")
        values.append(np.broadcast_to(np.asarray(numbers, np.float64), channels))
    mean, std = values
    if (std <= 0).any():
        raise UsageError("std must be above 0", got=preprocessing.std)
    scale = (1 / _BYTE_RANGE if scaled else 1.0) / std
    return torch.from_numpy(scale.astype(np.float32)), torch.from_numpy((-mean / std).astype(np.float32))
