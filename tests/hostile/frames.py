"""As much of HTTP/2 and gRPC as it takes to break their rules: frames, headers without compression, messages."""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = [
    "ACK", "CONTINUATION", "DATA", "END_HEADERS", "END_STREAM", "GOAWAY", "HEADERS", "HELLO", "INFER", "PING",
    "PREFACE", "PRIORITY", "PUSH_PROMISE", "RST_STREAM", "SETTINGS", "WINDOW_UPDATE", "call_headers", "frame",
    "grpc_message", "header", "settings",
]  # fmt: skip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INFER = b"/inference.GRPCInferenceService/ModelInfer"


def frame(kind: int, flags: int, stream: int, payload: bytes, *, claimed: int | None = None) -> bytes:
    """A frame; `claimed` is the length that it says it has."""
    length = len(payload) if claimed is None else claimed
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


HELLO = PREFACE + settings()
"""What a client begins with."""


def header(name: bytes, value: bytes) -> bytes:
    """A header that is neither compressed nor remembered."""
    return b"\x00" + _text(name) + _text(value)


def call_headers(path: bytes = INFER, more: Iterable[tuple[bytes, bytes]] = (), **replaced: bytes | None) -> bytes:
    """The headers of a call; None leaves one out."""
    usual: dict[bytes, bytes | None] = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"127.0.0.1",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    usual |= {name.encode().replace(b"_", b"-"): value for name, value in replaced.items()}
    pairs = [(name, value) for name, value in usual.items() if value is not None]
    return b"".join(header(name, value) for name, value in (*pairs, *more))


def grpc_message(data: bytes, *, compressed: int = 0, claimed: int | None = None) -> bytes:
    """A message with its five bytes in front."""
    return struct.pack(">BI", compressed, len(data) if claimed is None else claimed) + data


def _text(text: bytes) -> bytes:
    return _integer(len(text), 7) + text


def _integer(number: int, bits: int) -> bytes:
    """An HPACK integer (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([number])
    found, number = bytearray([most]), number - most
    while number >= 128:
        found.append(number % 128 | 128)
        number //= 128
    return bytes([*found, number])
