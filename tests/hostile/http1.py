"""Attacks on the ports of the metrics and the WebSocket: requests against the rules of HTTP/1, frames of WebSockets."""

from __future__ import annotations

import struct
from random import Random

from hostile.marks import mark
from hostile.sockets import ANYWHERE, table

__all__ = ["METRICS", "WEBSOCKET"]


def _request_line(random: Random) -> bytes:
    own = mark(random).encode()
    line = random.choice(
        (
            b"GET /metrics HTTP/1.1",
            b"GET /%s HTTP/1.1" % own,
            b"GET //[%s HTTP/1.1" % own,
            b"GET /metrics?name[]=%%ff%%00&name[]=%s HTTP/1.1" % own,
            b"POST /metrics HTTP/1.1",
            b"DELETE /%s HTTP/1.0" % own,
            b"OPTIONS * HTTP/1.1",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
            b"GET /\xff\xfe HTTP/1.1",
            b"GET /metrics HTTP/9.9",
            b"GET /metrics " + own,
            b"GET http://[/ HTTP/1.1",
            b"GET",
            own,
        )
    )
    odd = (
        b"Accept: application/openmetrics-text; version=zz; escaping=bogus",
        b"Accept: \xff;q=nan, */*;q=-1",
        b"Accept-Encoding: gzip;q=x",
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Authorization: Bearer \xc3\xa9\xff",
        b"Authorization: " + own,
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"Sec-WebSocket-Key: x",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Version: 99",
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99",
        b"Origin: https://" + own,
        b"Host: " + b"x" * 9000,
        b"No colon",
        b": no name",
        b" folded",
        b"X: " + b"y" * 70_000,
    )
    headers = random.choices(odd, k=random.choice((0, 1, 3, 200)))
    return b"\r\n".join((line, *headers)) + random.choice((b"\r\n\r\n", b"\n\n", b"\r\n", b""))


def _upgraded(path: bytes, frames: bytes) -> bytes:
    return (
        b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + frames
    )


def _bad_frames(random: Random) -> bytes:
    """To an unknown tail too: most are refused before that matters."""
    frames = random.choice(
        (
            random.randbytes(60),
            b"\x82\xff" + struct.pack(">Q", 2**62) + bytes(20),
            b"\x82\xff" + struct.pack(">Q", 2**64 - 1) + bytes(20),
            b"\x82\x05" + bytes(5),
            b"\x89\xff" + struct.pack(">Q", 500) + bytes(504),
            b"\x02\x80" + bytes(4) + b"\x00\x80" + bytes(4),
            (b"\x89\x80" + bytes(4)) * 500,
            b"\x88\x82" + bytes(4) + b"\x00\x00",
            b"\x81\x82" + bytes(4) + b"\xff\xfe",
        )
    )
    return _upgraded(
        random.choice((b"/MODEL", b"/MODEL", b"/", b"//[", b"/" + mark(random).encode(), b"/?timeout_ms=nan")), frames
    )


METRICS = table(*ANYWHERE, _request_line)
"""By name."""

WEBSOCKET = table(*ANYWHERE, _request_line, _bad_frames)
"""By name; `/MODEL` stands for a tail."""
