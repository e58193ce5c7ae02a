"""Device memory made of NumPy arrays, with a stream whose work is done when it is waited for."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends.tensorrt.memory import Address, OutOfDeviceMemoryError

__all__ = ["DeviceFaultError", "FakeMemory"]

POISON = 0xFF  # a float of such bytes is not a number
ALIGNMENT = 256


class DeviceFaultError(AssertionError):
    """What would be undefined on a GPU: a mistake of the program that uses the fake."""


class FakeMemory:
    """See `DeviceMemory`.

    Args:
        capacity_bytes: The device's memory.

    Attributes:
        live: The size of each allocation that was not freed, by address.
        peak_bytes: The most that was allocated at once.
        copies: Host to device, device to host and device to device copies queued so far.
        entered: How many `with` blocks are open.
    """

    library = "fake"
    stream = 7

    def __init__(self, capacity_bytes: int = 1 << 30) -> None:
        self.capacity_bytes = capacity_bytes
        self.live: dict[Address, int] = {}
        self.peak_bytes = 0
        self.copies = {"htod": 0, "dtoh": 0, "dtod": 0}
        self.entered = 0
        self._bytes: dict[Address, NDArray[np.uint8]] = {}
        self._written: dict[Address, NDArray[np.bool_]] = {}
        self._pinned: list[tuple[int, int]] = []
        self._queue: list[Callable[[], None]] = []
        self._next = 1 << 40

    @property
    def live_bytes(self) -> int:
        """What is allocated now."""
        return sum(self.live.values())

    def __enter__(self) -> FakeMemory:
        self.entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.entered -= 1

    def allocate(self, size_bytes: int) -> Address:
        """See `DeviceMemory.allocate`. No address is ever given twice."""
        self._check_current()
        if size_bytes < 1:
            raise DeviceFaultError(f"an allocation of {size_bytes} bytes")
        if self.live_bytes + size_bytes > self.capacity_bytes:
            raise OutOfDeviceMemoryError("the GPU is out of memory", got="FAKE_ERROR_OUT_OF_MEMORY")
        address = self._next
        self._next += -(-size_bytes // ALIGNMENT) * ALIGNMENT + (1 << 20)
        self.live[address] = size_bytes
        self._bytes[address] = np.full(size_bytes, POISON, np.uint8)
        self._written[address] = np.zeros(size_bytes, np.bool_)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return address

    def free(self, address: Address) -> None:
        """See `DeviceMemory.free`."""
        self._check_current()
        if address not in self.live:
            raise DeviceFaultError(f"freed {address:#x}, which is no allocation")
        if self._queue:
            raise DeviceFaultError("freed memory while work is queued")
        del self.live[address], self._bytes[address], self._written[address]

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """See `DeviceMemory.pinned`."""
        self._check_current()
        array = np.full(size_bytes, POISON, np.uint8)
        self._pinned.append((array.ctypes.data, size_bytes))
        return array

    def copy(self, target: Address | NDArray[Any], source: Address | NDArray[Any], size_bytes: int) -> None:
        """See `DeviceMemory.copy`. Until the stream is waited for, a target on the host holds nonsense."""
        self._check_current()
        if isinstance(source, int):
            if isinstance(target, int):
                self.copies["dtod"] += 1
                self.enqueue(lambda: self.write(target, self.read(source, size_bytes)))
                return
            self.copies["dtoh"] += 1
            host = _flat(target)[:size_bytes]
            host[...] = POISON
            self.enqueue(lambda: np.copyto(host, self.read(source, size_bytes)))
            return
        if not isinstance(target, int):
            raise DeviceFaultError("a copy from host to host")
        self.copies["htod"] += 1
        content = _flat(source)[:size_bytes]
        if self._is_pinned(content):
            self.enqueue(lambda pinned=content: self.write(target, pinned))  # type: ignore[misc]
            return
        owner, start, before = weakref.ref(_owner(source)), content.ctypes.data, content.copy()
        del content
        self.enqueue(lambda: self._write_given(target, owner, start, before))

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._check_current()
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def enqueue(self, work: Callable[[], None]) -> None:
        """Do this once the stream is waited for, after what was queued before."""
        self._check_current()
        self._queue.append(work)

    def read(self, address: Address, size_bytes: int) -> NDArray[np.uint8]:
        """A copy of what is there, as the stream's work sees it.

        Raises:
            DeviceFaultError: It is not all allocated, or was never written.
        """
        base, start = self._find(address, size_bytes)
        if not self._written[base][start : start + size_bytes].all():
            raise DeviceFaultError(f"read {size_bytes} bytes at {address:#x} that nobody wrote")
        content: NDArray[np.uint8] = self._bytes[base][start : start + size_bytes].copy()
        return content

    def write(self, address: Address, content: NDArray[np.uint8]) -> None:
        """Put bytes there, as the stream's work does.

        Raises:
            DeviceFaultError: It is not all allocated.
        """
        base, start = self._find(address, len(content))
        self._bytes[base][start : start + len(content)] = content
        self._written[base][start : start + len(content)] = True

    def check(self, address: Address, size_bytes: int) -> None:
        """Raise `DeviceFaultError` unless all of it is allocated."""
        self._find(address, size_bytes)

    def _write_given(
        self, target: Address, owner: weakref.ref[NDArray[Any]], start: int, before: NDArray[np.uint8]
    ) -> None:
        """Write host memory, which the program may have neither let go nor changed since the copy was queued."""
        alive = owner()
        if alive is None or ctypes.string_at(start, len(before)) != before.tobytes():
            raise DeviceFaultError("a host array was let go or changed before its copy was done")
        self.write(target, before)

    def _find(self, address: Address, size_bytes: int) -> tuple[Address, int]:
        for base, size in self.live.items():
            if base <= address and address + size_bytes <= base + size:
                return base, address - base
        raise DeviceFaultError(f"{size_bytes} bytes at {address:#x} are not allocated, or were freed")

    def _is_pinned(self, array: NDArray[np.uint8]) -> bool:
        start = array.ctypes.data
        return any(first <= start and start + array.nbytes <= first + size for first, size in self._pinned)

    def _check_current(self) -> None:
        if self.entered < 1:
            raise DeviceFaultError("the device's context is not current: use the memory inside `with memory:`")


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    """The array whose memory a view shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    if not array.flags.c_contiguous:
        raise DeviceFaultError("a host array that is not C-contiguous")
    return array.reshape(-1).view(np.uint8)
