"""Raw sockets: what is said through them whatever it means, and connections that say little."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from random import Random

from hostile import frames as h2

__all__ = ["ANYWHERE", "Attack", "half_open", "said", "spoken", "table"]

Attack = Callable[[Random], bytes]
"""What is written."""

Address = tuple[str, int]

CONNECT_S = 10.0
PATIENCE_S = 0.05
"""How long to wait for more of an answer; the other side often waits as well."""
MOST_BYTES = 1 << 20


def said(address: Address, data: bytes, until: bytes) -> bytes:
    """Write, and read until something comes or the other side is done."""
    found = b""
    with socket.create_connection(address, CONNECT_S) as connection:
        connection.sendall(data)
        try:
            while until not in found and (more := connection.recv(65_536)):
                found += more
        except ConnectionResetError:
            pass
    return found


def spoken(address: Address, data: bytes, random: Random) -> bytes:
    """Write, read what comes in a short time, and close in one way or another."""
    found = b""
    with socket.create_connection(address, CONNECT_S) as connection:
        try:
            connection.settimeout(PATIENCE_S)
            connection.sendall(data)
            if random.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
            while len(found) < MOST_BYTES and (more := connection.recv(65_536)):
                found += more
        except OSError:
            pass
        if random.random() < 0.3:  # a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return found


def half_open(address: Address, random: Random) -> socket.socket:
    """A connection that says little and stays: nothing, a part of a greeting, or a part of a message."""
    connection = socket.create_connection(address, CONNECT_S)
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers())
    part = h2.frame(h2.DATA, 0, 1, h2.grpc_message(bytes(9_000), claimed=50_000))
    connection.sendall(
        random.choice(
            (b"", h2.PREFACE[:9], h2.PREFACE, h2.HELLO, h2.HELLO + headers, h2.HELLO + headers + part, b"GET / HT")
        )
    )
    return connection


def table(*attacks: Attack) -> Mapping[str, Attack]:
    """Attacks by their names, which begin with an underscore."""
    return {attack.__name__[1:]: attack for attack in attacks}


def _garbage(random: Random) -> bytes:
    return random.randbytes(random.choice((1, 9, 30, 1000, 20_000)))


def _partial_preface(random: Random) -> bytes:
    return h2.PREFACE[: random.randrange(len(h2.PREFACE))]


def _client_hello(random: Random) -> bytes:
    return b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + random.randbytes(195)


ANYWHERE = (_garbage, _partial_preface, _client_hello)
"""For every port."""
