"""Keeping the process small while a bundle is opened."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["large_blocks_returned"]

_M_MMAP_THRESHOLD = -3
_DEFAULT_BYTES = 128 * 1024
_LARGEST_BYTES = 32 * 1024 * 1024


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Hand blocks above 128 KiB back to the system as soon as they are free, here and not afterwards.

    glibc raises that limit by itself when a large block is freed, and what opening leaves behind
    stays in the process: 3 MB for a bundle of 3.5 MB. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, _DEFAULT_BYTES)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
