"""Augmentation of pictures: the same picture, seen a little differently, a batch at a time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Augmentation", "augmented"]

Augmentation = Literal["none", "flip", "crop"]

PADDING = 4
"""Pixels of black around a picture before "crop" takes a random part of the old size."""


def augmented(pictures: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Pictures flipped left-right by chance, and with "crop" shifted by up to 4 pixels with black where nothing was.

    Args:
        pictures: (n, H, W, C) of any dtype on the CPU; 0 is black.
        kind: What to do.
        generator: Where chance comes from.

    Returns:
        The same shape and dtype; `pictures` itself for "none".
    """
    if kind == "none":
        return pictures
    count, height, width, channels = pictures.shape
    pad = PADDING if kind == "crop" else 0
    padded = pictures.new_zeros((count, height + 2 * pad, width + 2 * pad, channels))
    padded[:, pad : pad + height, pad : pad + width] = pictures
    flipped = (torch.rand(count, generator=generator) < 0.5).nonzero().squeeze(1)
    padded[flipped] = padded[flipped].flip(2)
    if not pad:
        return padded
    top, left = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    picture, row, column, _ = padded.stride()
    every_crop = padded.as_strided(
        (count, 2 * pad + 1, 2 * pad + 1, height, width * channels), (picture, row, column, row, 1)
    )
    return every_crop[torch.arange(count), top, left].reshape(count, height, width, channels)
