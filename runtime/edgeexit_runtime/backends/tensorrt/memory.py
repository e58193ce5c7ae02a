"""Device memory and a stream, behind five functions.

    allocate(size_bytes) → address          free(address)
    pinned(size_bytes) → host array         copy(target, source, size_bytes)
    synchronise()

There is one shim for each library that can do this: pycuda, cuda-python, and a fake in NumPy. An address is
an int, and host memory is an array, so a copy's direction is in its arguments. All work is queued on the one
`stream`. A shim's context is current in this thread only inside `with memory:`, and whatever was current
before is so again afterwards: the device's primary context is pushed and popped, so that we share it with
TensorRT and disturb nobody else.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendError, MissingPartError

__all__ = ["Address", "DeviceMemory", "OutOfDeviceMemoryError", "load_memory"]

Address = int


class OutOfDeviceMemoryError(BackendError):
    """The device has no room for what was asked."""


class DeviceMemory(Protocol):
    """A device's memory. Everything but `stream` and `library` is used inside `with memory:` alone.

    Attributes:
        library: What does the work, as people know it.
        stream: The handle of the CUDA stream that all work is queued on, never the default stream.
    """

    library: str
    stream: int

    def __enter__(self) -> object:
        """Make the context current in this thread. May be nested."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make current what was so before."""

    def allocate(self, size_bytes: int) -> Address:
        """At least one byte of device memory, aligned to 256 bytes.

        Raises:
            OutOfDeviceMemoryError: There is no room.
            BackendError: The device failed.
        """

    def free(self, address: Address) -> None:
        """Give back what `allocate` gave. No queued work may use it any more."""

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory, (size_bytes,) uint8; it is given back when nobody refers to it.

        Raises:
            OutOfDeviceMemoryError: There is no room.
        """

    def copy(self, target: Address | NDArray[Any], source: Address | NDArray[Any], size_bytes: int) -> None:
        """Queue a copy of the first `size_bytes` bytes; at least one side is an address.

        A host array is C-contiguous. It may neither change nor be read before `synchronise`.

        Raises:
            BackendError: The device failed.
        """

    def synchronise(self) -> None:
        """Wait until everything queued is done.

        Raises:
            BackendError: Some of it failed.
        """


def load_memory() -> DeviceMemory:
    """The shim of the first library that works here: pycuda, else cuda-python.

    Raises:
        MissingPartError: Neither is installed.
        BackendError: The device does not let itself be used.
    """
    missing: MissingPartError | None = None
    if find_spec("pycuda") is not None:
        from edgeexit_runtime.backends.tensorrt.memory_pycuda import PycudaMemory

        try:
            return PycudaMemory()
        except MissingPartError as error:  # made for another CUDA or Python
            missing = error
    if find_spec("cuda") is not None:
        from edgeexit_runtime.backends.tensorrt.memory_cuda_python import CudaPythonMemory

        return CudaPythonMemory()
    raise missing or MissingPartError(
        "the tensorrt backend needs pycuda or cuda-python, and neither is installed",
        remedy="pip install 'edgeexit-runtime[tensorrt]' for cuda-python, or pip install pycuda",
    )
