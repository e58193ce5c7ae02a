"""Device memory through cuda-python's driver API, in the device's primary context."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendError, MissingPartError
from edgeexit_runtime.backends.tensorrt.host_view import host_view
from edgeexit_runtime.backends.tensorrt.memory import Address, OutOfDeviceMemoryError

__all__ = ["CudaPythonMemory"]

MODULES = ("cuda.bindings.driver", "cuda.cuda")
"""Where the driver API is; the second place is that of cuda-python before 12.6.1."""


class CudaPythonMemory:
    """See `DeviceMemory`.

    Args:
        driver: The module `cuda.bindings.driver`; imported when None.

    Raises:
        MissingPartError: cuda-python is not installed.
        BackendError: The device does not let itself be used.
    """

    library = "cuda-python"

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver = _import_driver() if driver is None else driver
        self._released: list[int] = []
        self._call(driver.cuInit, 0)
        device = self._call(driver.cuDeviceGet, 0)
        self._context = self._call(driver.cuDevicePrimaryCtxRetain, device)
        with self:
            self._stream = self._call(driver.cuStreamCreate, int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self.stream = int(self._stream)

    def __enter__(self) -> CudaPythonMemory:
        self._call(self._driver.cuCtxPushCurrent, self._context)
        while self._released:
            self._call(self._driver.cuMemFreeHost, self._released.pop())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call(self._driver.cuCtxPopCurrent)

    def allocate(self, size_bytes: int) -> Address:
        """See `DeviceMemory.allocate`."""
        return int(self._call(self._driver.cuMemAlloc, size_bytes))

    def free(self, address: Address) -> None:
        """See `DeviceMemory.free`."""
        self._call(self._driver.cuMemFree, address)

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """See `DeviceMemory.pinned`."""
        address = int(self._call(self._driver.cuMemHostAlloc, size_bytes, 0))
        return host_view(address, size_bytes, lambda: self._released.append(address))

    def copy(self, target: Address | NDArray[Any], source: Address | NDArray[Any], size_bytes: int) -> None:
        """See `DeviceMemory.copy`."""
        if not isinstance(target, int):
            self._call(self._driver.cuMemcpyDtoHAsync, target.ctypes.data, source, size_bytes, self._stream)
        elif isinstance(source, int):
            self._call(self._driver.cuMemcpyDtoDAsync, target, source, size_bytes, self._stream)
        else:
            self._call(self._driver.cuMemcpyHtoDAsync, target, source.ctypes.data, size_bytes, self._stream)

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._call(self._driver.cuStreamSynchronize, self._stream)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns besides its error code."""
        driver = self._driver
        try:
            code, *results = function(*arguments)
        except RuntimeError as error:  # the driver could not be loaded, or lacks the function
            raise BackendError("the CUDA driver cannot be used", got=f"cuda-python: {error}") from error
        if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError("the GPU is out of memory", got=code.name)
        if code != driver.CUresult.CUDA_SUCCESS:
            raise BackendError("the GPU failed", got=getattr(code, "name", code))
        return results[0] if results else None


def _import_driver() -> Any:
    reasons = []
    for module in MODULES:
        try:
            return import_module(module)
        except ImportError as error:
            reasons.append(str(error))
        except RuntimeError as error:
            raise BackendError("the CUDA driver cannot be used", got=f"cuda-python: {error}") from error
    raise MissingPartError("cuda-python cannot be imported", got=reasons[0], remedy="pip install cuda-python")
