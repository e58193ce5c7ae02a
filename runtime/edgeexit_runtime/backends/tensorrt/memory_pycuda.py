"""Device memory through pycuda, without `pycuda.autoinit`: the primary context is pushed and popped."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendError, MissingPartError
from edgeexit_runtime.backends.tensorrt.host_view import host_view
from edgeexit_runtime.backends.tensorrt.memory import Address, OutOfDeviceMemoryError

__all__ = ["PycudaMemory"]

T = TypeVar("T")

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: no waiting for the default stream."""


class PycudaMemory:
    """See `DeviceMemory`.

    Args:
        cuda: The module `pycuda.driver`; imported when None.

    Raises:
        MissingPartError: pycuda is not installed, or not for this machine's CUDA.
        BackendError: The device does not let itself be used.
    """

    library = "pycuda"

    def __init__(self, cuda: Any = None) -> None:
        self._cuda = _driver() if cuda is None else cuda
        self._allocations: dict[Address, Any] = {}
        self._released: list[Any] = []
        self._call(self._cuda.init)
        self._context = self._call(_primary_context, self._cuda)
        with self:
            self._stream = self._call(self._cuda.Stream, NON_BLOCKING)
        self.stream = int(self._stream.handle)

    def __enter__(self) -> PycudaMemory:
        self._call(self._context.push)
        self._released.clear()  # pycuda frees page-locked memory in its context alone
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call(self._cuda.Context.pop)

    def allocate(self, size_bytes: int) -> Address:
        """See `DeviceMemory.allocate`."""
        allocation = self._call(self._cuda.mem_alloc, size_bytes)
        address = int(allocation)
        self._allocations[address] = allocation
        return address

    def free(self, address: Address) -> None:
        """See `DeviceMemory.free`."""
        self._call(self._allocations.pop(address).free)

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """See `DeviceMemory.pinned`."""
        array = self._call(self._cuda.pagelocked_empty, size_bytes, np.uint8)
        return host_view(array.ctypes.data, size_bytes, lambda: self._released.append(array))

    def copy(self, target: Address | NDArray[Any], source: Address | NDArray[Any], size_bytes: int) -> None:
        """See `DeviceMemory.copy`."""
        if not isinstance(target, int):
            self._call(self._cuda.memcpy_dtoh_async, _bytes(target, size_bytes), source, self._stream)
        elif isinstance(source, int):
            self._call(self._cuda.memcpy_dtod_async, target, source, size_bytes, self._stream)
        else:
            self._call(self._cuda.memcpy_htod_async, target, _bytes(source, size_bytes), self._stream)

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._call(self._stream.synchronize)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(*arguments)
        except self._cuda.MemoryError as error:
            raise OutOfDeviceMemoryError("the GPU is out of memory", got=error) from error
        except self._cuda.Error as error:
            raise BackendError("the GPU failed", got=f"pycuda: {error}") from error


@cache
def _primary_context(cuda: Any) -> Any:
    """The first GPU's primary context, kept for good: pycuda leaves it current when it lets go of it."""
    device = cuda.Device(0)
    return device.retain_primary_context()


def _driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except ImportError as error:
        raise MissingPartError(
            "pycuda cannot be imported", got=error, remedy="pip install --force-reinstall --no-binary pycuda pycuda"
        ) from error


def _bytes(array: NDArray[Any], size_bytes: int) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)[:size_bytes]
