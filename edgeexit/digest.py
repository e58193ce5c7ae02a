"""SHA-256 for a device with little memory.

OpenSSL's is three times as quick as Python's own, and loading it takes 3.4 MB. So files of a few megabytes, and a
process that only runs small bundles, do without it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Protocol

__all__ = ["RunningDigest", "running_sha256", "sha256"]

_FEW_BYTES = 8 * 1024 * 1024
_BUILT_IN = ("_sha2", "_sha256")  # since Python 3.12, and before


class RunningDigest(Protocol):
    """What `hashlib` gives."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Go on with these bytes."""

    def hexdigest(self) -> str:
        """64 hexadecimal digits, lower case."""


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, 64 hexadecimal digits."""
    digest = running_sha256(len(data))
    digest.update(data)
    return digest.hexdigest()


def running_sha256(size_bytes: int) -> RunningDigest:
    """A SHA-256 to be fed with about so many bytes."""
    if size_bytes <= _FEW_BYTES and "hashlib" not in sys.modules:
        for name in _BUILT_IN:
            try:
                digest: RunningDigest = import_module(name).sha256()
            except (ImportError, AttributeError):  # another Python: it has hashlib all the same
                continue
            return digest
    import hashlib

    return hashlib.sha256()
