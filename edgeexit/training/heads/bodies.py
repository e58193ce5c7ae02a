"""From an activation to the features that a head's last layer reads.

A body takes an activation (n, …) of any floating type, and for tokens a mask, and gives float32 features
(n, D). In eval mode a sample's features depend on that sample alone.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.training.heads.spec import HeadSpec, as_map, coarse_grid, convolved

__all__ = ["Body", "build_body"]

_VARIANCE_FLOOR = 1e-3
"""Added to variances: a feature that was nearly constant in training is not blown up when it moves."""


class _Norm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that learns nothing from a lone value of a channel: from that alone it has no spread."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, …) to the same."""
        if self.training and x.numel() > x.shape[1]:
            return super().forward(x)
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class FeatureNorm(_Norm, nn.BatchNorm1d):
    """Standardises each feature over the samples seen in training."""

    def __init__(self, length: int) -> None:
        super().__init__(length, eps=_VARIANCE_FLOOR, affine=False)


class MapNorm(_Norm, nn.BatchNorm2d):
    """The same for the channels of maps; `affine` adds a learned scale and shift."""

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__(channels, eps=_VARIANCE_FLOOR, affine=affine)


class Body(nn.Module):
    """What all bodies share: types, hidden layers and dropout.

    Args:
        length: Number of features that `read` gives.
        spec: For `hidden` and `dropout`.
        activation: Class of the function between hidden layers.

    Attributes:
        length: Number of features D of the body.
    """

    def __init__(self, length: int, spec: HeadSpec, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers: list[nn.Module] = [FeatureNorm(length)]
        for width in spec.hidden:
            layers += [nn.Linear(length, width), activation()]
            length = width
        if spec.dropout:
            layers.append(nn.Dropout(spec.dropout))
        self.layers = nn.Sequential(*layers)
        self.length = length

    def read(self, activation: Tensor, mask: Tensor | None) -> Tensor:
        """Features (n, length) in the type of the weights."""
        raise NotImplementedError

    def forward(self, activation: Tensor, mask: Tensor | None = None) -> Tensor:
        """Activation (n, …) of any floating type to features (n, D) float32."""
        features: Tensor = self.layers(self.read(cast(activation, self.reads_as(activation)), mask))
        return cast(features, torch.float32)

    def reads_as(self, activation: Tensor) -> torch.dtype:
        """The type in which `read` is given the activation: that of the weights."""
        return next(tensor.dtype for tensor in chain(self.parameters(), self.buffers()))


class VectorBody(Body):
    """Vectors (n, D) as they are."""

    def read(self, activation: Tensor, mask: Tensor | None) -> Tensor:
        """See `Body.read`."""
        return activation


class TokenBody(Body):
    """The first token, or the mean of those whose mask is not 0, normalised over its width.

    Hidden layers end in tanh, as BERT's pooler does.
    """

    def __init__(self, shape: tuple[int, ...], spec: HeadSpec) -> None:
        super().__init__(shape[-1], spec, nn.Tanh)
        self.tokens = spec.tokens

    def read(self, activation: Tensor, mask: Tensor | None) -> Tensor:
        """See `Body.read`; activation (n, T, D), mask (n, T)."""
        if self.tokens == "first":
            token = activation[:, 0]
        elif mask is None:
            token = activation.mean(1)
        else:
            weights = (mask != 0).to(activation.dtype).unsqueeze(-1)
            token = (activation * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        return functional.layer_norm(token, token.shape[-1:])


class MapBody(Body):
    """Maps of rank 2 to 4, seen as (n, C, H, W)."""

    def __init__(self, length: int, spec: HeadSpec, *, channels_first: bool) -> None:
        super().__init__(length, spec)
        self.channels_first = channels_first

    def as_maps(self, activation: Tensor) -> Tensor:
        """(n, C, H, W) of (n, C, L), (n, C, H, W), (n, C, T, H, W) or the same with the channels last."""
        if not self.channels_first:
            activation = activation.movedim(-1, 1)
        if activation.dim() == 3:
            return activation.unsqueeze(2)
        return activation.flatten(2, 3) if activation.dim() == 5 else activation


class PooledBody(MapBody):
    """Averages on a grid and maxima on a coarser one."""

    def __init__(self, size: tuple[int, int, int], classes: int, spec: HeadSpec, *, channels_first: bool) -> None:
        coarse = coarse_grid(size, spec.grid, classes)
        cells = [_cells(size, grid) for grid in (spec.grid, coarse) if grid]
        super().__init__(size[0] * sum(rows * columns for rows, columns in cells), spec, channels_first=channels_first)
        self.average = _average(size, cells[0])
        self.maximum = nn.MaxPool2d(*_window(size, cells[1])) if coarse else None

    def read(self, activation: Tensor, mask: Tensor | None) -> Tensor:
        """See `Body.read`."""
        maps = self.as_maps(activation)
        average = self.average(maps).flatten(1)
        return average if self.maximum is None else torch.cat([average, self.maximum(maps).flatten(1)], dim=1)


class MixedBody(MapBody):
    """σ(α) · maximum + (1 − σ(α)) · average on a grid, α learned (Kaya et al. 2019, Shallow-Deep Networks)."""

    def __init__(self, size: tuple[int, int, int], spec: HeadSpec, *, channels_first: bool) -> None:
        rows, columns = _cells(size, spec.grid)
        super().__init__(size[0] * rows * columns, spec, channels_first=channels_first)
        window = _window(size, (rows, columns))
        self.average, self.maximum = nn.AvgPool2d(*window), nn.MaxPool2d(*window)
        self.alpha = nn.Parameter(torch.zeros(1))

    def read(self, activation: Tensor, mask: Tensor | None) -> Tensor:
        """See `Body.read`."""
        maps = self.as_maps(activation)
        share = torch.sigmoid(self.alpha)
        mixed: Tensor = share * self.maximum(maps) + (1 - share) * self.average(maps)
        return mixed.flatten(1)


class ConvBody(MapBody):
    """One or two strided convolutions, each with batch normalisation and ReLU, then averages on a grid."""

    def __init__(self, size: tuple[int, int, int], spec: HeadSpec, *, channels_first: bool) -> None:
        plan = convolved(spec, size)
        rows, columns = _cells(plan.size, spec.grid)
        super().__init__(plan.size[0] * rows * columns, spec, channels_first=channels_first)
        shrink = nn.AvgPool2d(plan.shrunk) if max(plan.shrunk) > 1 else nn.Identity()
        layers: list[nn.Module] = [shrink, MapNorm(size[0], affine=False)]
        inside = size[0]
        for outside, kernel in zip(spec.channels, plan.kernels, strict=True):
            padding = (kernel[0] // 2, kernel[1] // 2)
            layers += [
                nn.Conv2d(inside, outside, kernel, spec.stride, padding, bias=False),
                MapNorm(outside, affine=True),
                nn.ReLU(),
            ]
            inside = outside
        self.convolutions = nn.Sequential(*layers)
        self.average = _average(plan.size, (rows, columns))

    def reads_as(self, activation: Tensor) -> torch.dtype:
        """As it is, where autocast made it and the convolutions want it so: maps are not made larger in between."""
        own, device = super().reads_as(activation), activation.device.type
        halved = own == torch.float32 and activation.dtype in (torch.bfloat16, torch.float16)
        return activation.dtype if halved and torch.is_autocast_enabled(device) else own

    def read(self, activation: Tensor, mask: Tensor | None) -> Tensor:
        """See `Body.read`."""
        pooled: Tensor = self.average(self.convolutions(self.as_maps(activation)))
        return pooled.flatten(1)


def build_body(spec: HeadSpec, shape: tuple[int, ...], classes: int, *, channels_first: bool) -> Body:
    """The body that a spec with all its sizes stands for; see `HeadSpec.sized`."""
    if spec.kind == "token":
        return TokenBody(shape, spec)
    if len(shape) == 1:
        return VectorBody(shape[0], spec)
    size = as_map(shape, channels_first=channels_first)
    if spec.kind == "conv":
        return ConvBody(size, spec, channels_first=channels_first)
    if spec.kind == "mixed":
        return MixedBody(size, spec, channels_first=channels_first)
    return PooledBody(size, classes, spec, channels_first=channels_first)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another type; an exported graph gets no operator where it has that type already."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _cells(size: tuple[int, int, int], grid: int) -> tuple[int, int]:
    return min(grid, size[1]), min(grid, size[2])


def _average(size: tuple[int, int, int], cells: tuple[int, int]) -> nn.Module:
    return nn.Identity() if cells == size[1:] else nn.AvgPool2d(*_window(size, cells))


def _window(size: tuple[int, int, int], cells: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel and strides that pool a map to so many cells; the last windows are never cut off."""
    strides = size[1] // cells[0], size[2] // cells[1]
    kernel = size[1] - (cells[0] - 1) * strides[0], size[2] - (cells[1] - 1) * strides[1]
    return kernel, strides
