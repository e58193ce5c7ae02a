"""A checksum over a message: what the network did to it must not become another answer.

TCP's own checksum is of 16 bits and is made anew at every hop, and without TLS nothing else covers the tensors. It is
no protection against anybody who wants to change a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zlib import crc32

from edgeexit_runtime.wire.messages import WireError

__all__ = ["CHECKSUM", "check_signed", "sign"]

CHECKSUM = "crc32"
"""The name of the parameter, an int64: CRC-32 of everything else in the message."""


def sign(message: Any, tensors: Iterable[Any], contents: Iterable[bytes]) -> None:
    """Put the checksum into a request or a response that is otherwise complete."""
    message.parameters[CHECKSUM].int64_param = _checksum(message, tensors, contents)


def check_signed(message: Any, tensors: Iterable[Any], contents: Iterable[bytes]) -> None:
    """Refuse a message that is not as it was when it was signed.

    Raises:
        WireError: DATA_LOSS, also without a checksum.
    """
    stated = message.parameters[CHECKSUM].int64_param if CHECKSUM in message.parameters else None
    if stated != _checksum(message, tensors, contents):
        raise WireError("DATA_LOSS", "the message was damaged on its way")


def _checksum(message: Any, tensors: Iterable[Any], contents: Iterable[bytes]) -> int:
    found = crc32(repr((message.model_name, message.model_version, message.id)).encode())
    for name in sorted(message.parameters):
        if name != CHECKSUM:
            value = message.parameters[name].SerializeToString(deterministic=True)
            found = crc32(value, crc32(repr((name, len(value))).encode(), found))
    for tensor in tensors:
        found = crc32(repr((tensor.name, tensor.datatype, tuple(tensor.shape))).encode(), found)
    for data in contents:
        found = crc32(data, crc32(repr(len(data)).encode(), found))
    return found
