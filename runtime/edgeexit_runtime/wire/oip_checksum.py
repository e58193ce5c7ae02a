"""A checksum over a message: what the network did to it must not become another answer.

TCP's own checksum is of 16 bits and is made anew at every hop, and without TLS nothing else covers the tensors. It is
no protection against anybody who wants to change a message.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from edgeexit_runtime.wire.messages import WireError

__all__ = ["CHECKSUM", "check_signed", "sign"]

CHECKSUM = "crc32"
"""The name of the parameter, an int64: CRC-32 of the message without it, written with the map's keys in order."""


def sign(message: Any) -> None:
    """Put the checksum into a request or a response that is otherwise complete, and has none."""
    message.parameters[CHECKSUM].int64_param = _checksum(message)


def check_signed(message: Any) -> None:
    """Refuse a message that is not as it was when it was signed. The checksum is taken out of it.

    Raises:
        WireError: DATA_LOSS, also without a checksum.
    """
    stated = None
    if CHECKSUM in message.parameters:
        stated = message.parameters[CHECKSUM].int64_param
        del message.parameters[CHECKSUM]
    if stated != _checksum(message):
        raise WireError("DATA_LOSS", "the message was damaged on its way")


def _checksum(message: Any) -> int:
    return crc32(message.SerializeToString(deterministic=True))
