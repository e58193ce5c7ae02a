"""Distortion: pictures shown a little turned, shifted and scaled, a new way each time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.errors import UsageError

__all__ = ["Distortion", "batches"]


class Distortion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How samples are changed at random before they are shown, with no change of what they are.

    Attributes:
        turn: Pictures are turned by up to so many degrees either way.
        shift: And shifted by up to this share of their width and height.
        scale: And made larger or smaller by up to this share.
    """

    turn: float = 0.0
    shift: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.turn <= 180 and 0 <= self.shift < 1 and 0 <= self.scale < 1):
            raise UsageError(
                "a distortion is out of range",
                got=f"turn {self.turn:g}, shift {self.shift:g}, scale {self.scale:g}",
                expected="0 to 180 degrees, and shares from 0 to below 1",
            )

    @property
    def none(self) -> bool:
        """Whether samples stay as they are."""
        return self.turn == self.shift == self.scale == 0

    def __call__(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """(n, C, H, W) float32 pictures, each changed by a draw of its own; what comes in at an edge is 0."""
        if self.none:
            return samples
        n = len(samples)
        draws = (2 * torch.rand(n, 4, generator=generator) - 1).to(samples.device)
        angle, size = draws[:, 0] * math.radians(self.turn), 1 + draws[:, 1] * self.scale
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        across, down = (2 * self.shift * draws[:, k] for k in (2, 3))
        rows = torch.stack((cos, -sin, across, sin, cos, down), dim=1).reshape(n, 2, 3)
        grid = functional.affine_grid(rows, list(samples.shape), align_corners=False)
        return functional.grid_sample(samples, grid, align_corners=False)


def batches(
    samples: Tensor, size: int, distortion: Distortion, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the samples in random order.

    Yields:
        Positions (b,) int64 and the distorted samples (b, …), on `device`.
    """
    for rows in torch.split(torch.randperm(len(samples), generator=generator), size):
        yield rows, distortion(samples[rows].to(device), generator)
