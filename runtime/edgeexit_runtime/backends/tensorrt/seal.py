"""Sealed files: bytes that this device wrote, and can tell from all others.

An engine is native code. So a file in the cache is read only where it carries a code (HMAC-SHA256) made with
a secret of this device and user: an engine that came with a bundle, from another machine or from another
user is refused before TensorRT sees a byte of it.

    offset  bytes
    0       16    EDGEEXIT-SEALED and the format's version, 1
    16      4     length of the header, little-endian
    20      …     the header, JSON
    …       8     length of the content, little-endian
    …       …     the content
    …       32    HMAC-SHA256 over everything before it
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from edgeexit.errors import BackendError

__all__ = ["MAX_BYTES", "OVERHEAD_BYTES", "seal", "unseal"]

MAGIC = b"EDGEEXIT-SEALED\x01"
MAX_BYTES = 1 << 32
"""Of a sealed file."""

CODE_BYTES = 32
OVERHEAD_BYTES = len(MAGIC) + 4 + 8 + CODE_BYTES


def seal(key: bytes, header: bytes, content: bytes) -> bytes:
    """The bytes of the file."""
    body = MAGIC + struct.pack("<I", len(header)) + header + struct.pack("<Q", len(content)) + content
    return body + _code(key, body)


def unseal(key: bytes, data: bytes, file: str, remedy: str) -> tuple[bytes, bytes]:
    """Header and content of a file that this device sealed.

    Args:
        key: The device's secret.
        data: The file's bytes.
        file: What to call it in messages.
        remedy: What the user can do about a file that is refused.

    Raises:
        BackendError: Another device or user wrote it, it was altered, or it is no such file.
    """
    view = memoryview(data)
    sealed = len(data) >= OVERHEAD_BYTES and view[: len(MAGIC)] == MAGIC
    if not sealed or not hmac.compare_digest(_code(key, view[:-CODE_BYTES]), bytes(view[-CODE_BYTES:])):
        raise BackendError(
            f"{file} was not written by this device and user, or was altered since, and is not used",
            got="a file without this device's seal",
            expected="a file that edgeexit build wrote here: to load an engine is to run native code",
            remedy=remedy,
        )
    start = len(MAGIC) + 4  # whoever made the seal wrote the lengths, so they may be believed
    (header_bytes,) = struct.unpack_from("<I", data, len(MAGIC))
    return data[start : start + header_bytes], data[start + header_bytes + 8 : -CODE_BYTES]


def _code(key: bytes, body: bytes | memoryview) -> bytes:
    return hmac.new(key, body, hashlib.sha256).digest()
