"""Host memory of a vendor's library as a NumPy array that says when nobody refers to it any more."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["host_view"]


def host_view(address: int, size_bytes: int, released: Callable[[], object]) -> NDArray[np.uint8]:
    """The memory at an address, (size_bytes,) uint8.

    Args:
        address: Where it is.
        size_bytes: How much of it there is, at least 1.
        released: Called, in any thread, once neither the array nor a view of it is left; not at the end of
            the process. It must not call the library, whose context may not be current then.
    """
    memory: Any = (ctypes.c_uint8 * size_bytes).from_address(address)
    weakref.finalize(memory, released).atexit = False
    array: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    return array
