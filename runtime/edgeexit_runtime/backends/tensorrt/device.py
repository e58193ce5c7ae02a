"""The device: memory that is kept for reuse, tensors in it, and copies to and from the host."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends.tensorrt.memory import Address, DeviceMemory, OutOfDeviceMemoryError

__all__ = ["ALIGNMENT", "Buffer", "Device", "DeviceTensor"]

ALIGNMENT = 256
"""Bytes. TensorRT's addresses are multiples of it."""

STEPS = 4
"""Sizes between two powers of two; buffers of one size class replace one another."""

Idle = defaultdict[int, list[Address]]


class Buffer:
    """Device memory that goes back to its device when nobody refers to it any more."""

    def __init__(self, idle: Idle, address: Address, size_bytes: int) -> None:
        self.address = address
        self._size_bytes = size_bytes
        self._idle = idle

    def __del__(self) -> None:
        self._idle[self._size_bytes].append(self.address)


@dataclass(frozen=True)
class DeviceTensor:
    """A tensor on the device; axis 0 is the batch. Never written to again once it was handed out.

    Attributes:
        buffer: Keeps the memory.
        offset: Bytes from the buffer's start, a multiple of `ALIGNMENT`.
        shape: Lengths by axis.
        dtype: Of its elements.
    """

    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def address(self) -> Address:
        """Where it begins."""
        return self.buffer.address + self.offset

    @property
    def row_bytes(self) -> int:
        """The size of one sample."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """The size of all of it."""
        return prod(self.shape) * self.dtype.itemsize


class Device:
    """One GPU's memory and stream, for one thread at a time: everything is done inside `with device:`.

    All work is queued on one stream, so a buffer can be used again as soon as the work that uses it is
    queued: what is queued later runs later.

    Args:
        memory: The shim.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self.memory = memory
        self._lock = threading.RLock()
        self._idle: Idle = defaultdict(list)
        self._in_flight: list[NDArray[Any]] = []
        self._staging: NDArray[np.uint8] | None = None
        weakref.finalize(self, _free_all, memory, self._idle).atexit = False

    @property
    def stream(self) -> int:
        """The stream that all work is queued on."""
        return self.memory.stream

    def __enter__(self) -> Device:
        self._lock.acquire()
        try:
            self.memory.__enter__()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.memory.__exit__(kind, error, traceback)
        finally:
            self._lock.release()

    def buffer(self, size_bytes: int) -> Buffer:
        """Memory of at least this size, its content undefined.

        Raises:
            OutOfDeviceMemoryError: There is no room even once everything idle was given back.
        """
        size_bytes = _size_class(size_bytes)
        try:
            address = self._idle[size_bytes].pop()
        except IndexError:
            address = self._allocate(size_bytes)
        return Buffer(self._idle, address, size_bytes)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceTensor:
        """A tensor to be written to."""
        kind = np.dtype(dtype)
        return DeviceTensor(self.buffer(prod(shape) * kind.itemsize), 0, shape, kind)

    def upload(self, array: NDArray[Any]) -> DeviceTensor:
        """Queue the copy of a C-contiguous host array, which may not change until the next `synchronise`."""
        tensor = self.empty(array.shape, array.dtype)
        if array.size:
            self._in_flight.append(array)
            self.memory.copy(tensor.address, array, tensor.size_bytes)
        return tensor

    def download(self, tensor: DeviceTensor) -> NDArray[Any]:
        """A copy on the host, through page-locked memory, once everything queued is done."""
        size_bytes = tensor.size_bytes
        if not size_bytes:
            return np.empty(tensor.shape, tensor.dtype)
        if self._staging is None or len(self._staging) < size_bytes:
            self._staging = self.memory.pinned(_size_class(size_bytes))
        self.memory.copy(self._staging, tensor.address, size_bytes)
        self.synchronise()
        arrived: NDArray[Any] = self._staging[:size_bytes].view(tensor.dtype).reshape(tensor.shape).copy()
        return arrived

    def synchronise(self) -> None:
        """Wait until everything queued is done."""
        self.memory.synchronise()
        self._in_flight.clear()

    def _allocate(self, size_bytes: int) -> Address:
        try:
            return self.memory.allocate(size_bytes)
        except OutOfDeviceMemoryError:
            self.synchronise()
            _free_idle(self.memory, self._idle)
        return self.memory.allocate(size_bytes)


def _size_class(size_bytes: int) -> int:
    """The size rounded up: to `STEPS` sizes for each doubling, all multiples of the alignment."""
    step = max(ALIGNMENT, 1 << max(size_bytes - 1, 1).bit_length() >> STEPS.bit_length())
    return max(-(-size_bytes // step), 1) * step


def _free_idle(memory: DeviceMemory, idle: Idle) -> None:
    """Give all idle memory back. Buffers may come back meanwhile, from any thread."""
    for size_bytes in list(idle):
        while idle[size_bytes]:
            memory.free(idle[size_bytes].pop())


def _free_all(memory: DeviceMemory, idle: Idle) -> None:
    with memory:
        memory.synchronise()
        _free_idle(memory, idle)
