"""As much of `pycuda.driver` as is used, on the fake device."""

import builtins

import numpy as np
from fake_machine import MEMORY

from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError


class Error(Exception):
    """As in pycuda."""


class MemoryError(Error):
    """As in pycuda."""


class Context:
    """The primary context."""

    def push(self):
        MEMORY.__enter__()

    @staticmethod
    def pop():
        MEMORY.__exit__(None, None, None)


class Device:
    """The only GPU."""

    def __init__(self, ordinal):
        self.ordinal = ordinal

    def retain_primary_context(self):
        return Context()


class Stream:
    """A stream that waits for no other."""

    def __init__(self, flags=0):
        if flags != 1:
            raise Error("cuStreamCreate failed: a stream that waits for the default stream")
        self.handle = MEMORY.stream

    def synchronize(self):
        MEMORY.synchronise()


class DeviceAllocation:
    """Device memory."""

    def __init__(self, size):
        try:
            self.address = MEMORY.allocate(size)
        except OutOfDeviceMemoryError as error:
            raise MemoryError("cuMemAlloc failed: out of memory") from error

    def __int__(self):
        return self.address

    def free(self):
        MEMORY.free(self.address)


def init(flags=0):
    """Start the driver."""


def mem_alloc(size):
    """Allocate."""
    return DeviceAllocation(size)


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    """Page-locked host memory."""
    return MEMORY.pinned(builtins.int(shape) * np.dtype(dtype).itemsize).view(dtype)


def memcpy_htod_async(dest, src, stream=None):
    """Host to device."""
    MEMORY.copy(dest, src, src.nbytes)


def memcpy_dtoh_async(dest, src, stream=None):
    """Device to host."""
    MEMORY.copy(dest, src, dest.nbytes)


def memcpy_dtod_async(dest, src, size, stream=None):
    """Device to device."""
    MEMORY.copy(dest, src, size)
