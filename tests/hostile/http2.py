"""Attacks on the port of gRPC: frames, headers and messages against the rules of HTTP/2."""

from __future__ import annotations

import gzip
import struct
from random import Random

from hostile import frames as h2
from hostile.marks import mark
from hostile.sockets import ANYWHERE, table

__all__ = ["GRPC"]

ZEROS = gzip.compress(bytes(48 << 20), 9)
"""A bomb: 48 MiB in 48 KiB."""


def _wrong_preface(random: Random) -> bytes:
    found = bytearray(h2.HELLO)
    found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def _http1(random: Random) -> bytes:
    return random.choice((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST %s HTTP/1.0\r\n\r\n" % h2.INFER))


def _any_frames(random: Random) -> bytes:
    def one() -> bytes:
        kind = random.choice((*range(10), 99))
        return h2.frame(
            kind,
            random.randrange(256),
            random.choice((0, 1, 2, 3, 2**31, 2**32 - 1)),
            random.randbytes(random.choice((0, 4, 5, 8, 60))),
        )

    return h2.HELLO + b"".join(one() for _ in range(random.choice((1, 5, 50))))


def _oversized_frame(random: Random) -> bytes:
    kind = random.choice((h2.DATA, h2.HEADERS, h2.SETTINGS, h2.PING))
    return h2.HELLO + h2.frame(kind, h2.END_HEADERS, 1, bytes(50_000), claimed=2**24 - 1)


def _odd_settings(random: Random) -> bytes:
    pairs = [
        (random.choice((1, 2, 3, 4, 5, 6, 8, 99)), random.choice((0, 1, 2**14, 2**31, 2**32 - 1))) for _ in range(9)
    ]
    return h2.HELLO + h2.settings(*pairs)


def _floods(random: Random) -> bytes:
    """The same small frame again and again: each wants an answer."""
    small = random.choice(
        (
            h2.settings(),
            h2.frame(h2.PING, 0, 0, b"canarycy"),
            h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
            h2.frame(h2.PRIORITY, 0, 1, struct.pack(">IB", 1, 1)),
            h2.frame(h2.DATA, 0, 1, b""),
        )
    )
    return h2.HELLO + small * random.choice((100, 3000))


def _rapid_reset(random: Random) -> bytes:
    found = [h2.HELLO]
    for stream in range(1, 2 * random.choice((20, 300)), 2):
        found.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.call_headers()))
        found.append(h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">I", 8)))
    return b"".join(found)


def _endless_headers(random: Random) -> bytes:
    piece = h2.header(b"x-" + mark(random).encode(), b"y" * 4000)
    found = [h2.HELLO, h2.frame(h2.HEADERS, 0, 1, h2.call_headers())]
    return b"".join(found + [h2.frame(h2.CONTINUATION, 0, 1, piece)] * random.choice((3, 250)))


def _header_bomb(random: Random) -> bytes:
    """A large header remembered once, and named by its number thousands of times."""
    remembered = b"\x40" + h2.header(b"x-bomb", b"y" * 3500)[1:]
    return h2.HELLO + h2.frame(
        h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers() + remembered + b"\xbe" * random.choice((1000, 10_000))
    )


def _header_garbage(random: Random) -> bytes:
    return h2.HELLO + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, random.randbytes(200))


def _odd_headers(random: Random) -> bytes:
    own = mark(random).encode()
    headers = random.choice(
        (
            h2.call_headers(b"/" + own),
            h2.call_headers(b"/inference.GRPCInferenceService/" + own),
            h2.call_headers(b"\xff\xfe" + own),
            h2.call_headers(b""),
            h2.call_headers(content_type=b"text/plain"),
            h2.call_headers(content_type=None),
            h2.call_headers(te=None),
            h2.call_headers(grpc_timeout=b"-1S"),
            h2.call_headers(grpc_timeout=b"99999999999999999999H"),
            h2.call_headers(grpc_timeout=b"1n"),
            h2.call_headers(grpc_encoding=own),
            h2.call_headers(grpc_encoding=b"deflate"),
            h2.call_headers(authorization=b"Bearer \xc3\xa9\xff\x00"),
            h2.call_headers(authorization=b"Bearer " + b"x" * 7000),
            h2.call_headers(more=[(b"x-bin", b"!!!not base64"), (b"X-UPPER", b"\r\n"), (b"", b"")]),
            h2.call_headers(more=[(b":path", b"/again"), (b":status", b"200")]),
            h2.call_headers(more=[(b"content-length", b"-5"), (b"connection", b"close")]),
        )
    )
    body = h2.frame(h2.DATA, h2.END_STREAM, 1, h2.grpc_message(b""))
    return h2.HELLO + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, headers) + body


def _odd_messages(random: Random) -> bytes:
    body = random.choice(
        (
            h2.grpc_message(b"", claimed=2**32 - 1),
            h2.grpc_message(bytes(100), claimed=5),
            h2.grpc_message(bytes(5), claimed=100),
            h2.grpc_message(bytes(5), compressed=1),
            h2.grpc_message(bytes(5), compressed=255),
            h2.grpc_message(b"") * 3,
            b"\0",
            b"",
        )
    )
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers())
    return h2.HELLO + headers + h2.frame(h2.DATA, h2.END_STREAM, 1, body)


def _bomb(random: Random) -> bytes:
    """Zeros that are small on the way and large behind it; or what claims to be such."""
    data = random.choice((ZEROS, ZEROS[:-100], b"\x1f\x8b" + random.randbytes(500)))
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(grpc_encoding=b"gzip"))
    body = h2.grpc_message(data, compressed=1)
    pieces = [body[start : start + 16_000] for start in range(0, len(body), 16_000)]
    return h2.HELLO + headers + b"".join(h2.frame(h2.DATA, h2.END_STREAM * (p is pieces[-1]), 1, p) for p in pieces)


def _windows(random: Random) -> bytes:
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers())
    more = h2.frame(h2.WINDOW_UPDATE, 0, random.choice((0, 1)), struct.pack(">I", 2**31 - 1))
    return h2.HELLO + headers + more * 3


GRPC = table(
    *ANYWHERE, _wrong_preface, _http1, _any_frames, _oversized_frame, _odd_settings, _floods, _rapid_reset,
    _endless_headers, _header_bomb, _header_garbage, _odd_headers, _odd_messages, _bomb, _windows,
)  # fmt: skip
"""By name."""
