"""Rows of tensors on the device: taking some of a tensor's, and putting several tensors' together.

Rows are copied device to device, one copy for each run of neighbours. The other way would be a little
TensorRT network with a Gather layer: one launch, however scattered the rows are. But that is one engine more to
build and keep for each dtype and size of row, with operators that do not take every dtype in every version.
Copies need nothing but the shim, and give the same bytes for every dtype. They cost one launch a run: of n rows
of which m stay at random there are about m (n − m) / n runs, at most n / 4. What that costs is in a device's
profile, or learned, and the cost model compacts only where it pays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends.tensorrt.device import ALIGNMENT, Device, DeviceTensor

__all__ = ["concat", "runs", "slice_rows", "take"]


def runs(rows: NDArray[np.integer[Any]]) -> Iterator[tuple[int, int]]:
    """First row and row behind the last of each run of neighbours; (m,) strictly increasing rows, m ≥ 1."""
    breaks = (np.diff(rows) != 1).nonzero()[0] + 1
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
        yield int(rows[start]), int(rows[stop - 1]) + 1


def take(device: Device, tensor: DeviceTensor, rows: NDArray[np.integer[Any]]) -> DeviceTensor:
    """The samples at `rows`, (m,) strictly increasing. Neighbours that lie well are not copied.

    Raises:
        BackendError: The device failed.
    """
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        return slice_rows(device, tensor, first, last + 1)
    taken = device.empty((len(rows), *tensor.shape[1:]), tensor.dtype)
    row_bytes, target = tensor.row_bytes, taken.address
    for start, stop in runs(rows):
        size_bytes = (stop - start) * row_bytes
        device.memory.copy(target, tensor.address + start * row_bytes, size_bytes)
        target += size_bytes
    return taken


def slice_rows(device: Device, tensor: DeviceTensor, start: int, stop: int) -> DeviceTensor:
    """The samples from `start` up to `stop`; copied only where they do not begin at an aligned address."""
    offset = start * tensor.row_bytes
    shape = (stop - start, *tensor.shape[1:])
    if (tensor.offset + offset) % ALIGNMENT == 0:
        return DeviceTensor(tensor.buffer, tensor.offset + offset, shape, tensor.dtype)
    copied = device.empty(shape, tensor.dtype)
    device.memory.copy(copied.address, tensor.address + offset, copied.size_bytes)
    return copied


def concat(device: Device, tensors: Sequence[DeviceTensor]) -> DeviceTensor:
    """All samples of some tensors, in their order; the rows are of one shape and dtype.

    Raises:
        BackendError: The device failed.
    """
    if len(tensors) == 1:
        return tensors[0]
    joined = device.empty((sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:]), tensors[0].dtype)
    target = joined.address
    for tensor in tensors:
        device.memory.copy(target, tensor.address, tensor.size_bytes)
        target += tensor.size_bytes
    return joined
