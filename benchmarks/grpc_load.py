"""A load generator for gRPC that is light enough to share a small machine with the server that it loads.

Unary calls as bare HTTP/2 frames: headers are the same bytes for every call, messages are encoded beforehand, and of
an answer only its status is read. `grpc.aio` takes about as long for a call as a server does to refuse one.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Call", "Connection", "Target", "closed_loop", "open_loop"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
TABLE_SIZE, PUSH, FIRST_WINDOW = 0x1, 0x2, 0x4
LARGEST_WINDOW = 2**31 - 1
STARTING_WINDOW = 65_535
FRAME_BYTES = 16_384
CANCEL = struct.pack(">I", 0x8)
STATUS = b"grpc-status"
NAMES = {
    0: "OK", 1: "CANCELLED", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 8: "RESOURCE_EXHAUSTED",
    12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE",
}  # fmt: skip


@dataclass(slots=True)
class Call:
    """A call and what became of it; times in seconds of `time.perf_counter`.

    Attributes:
        due_s: When it should have been sent.
        sent_s: When it was.
        ended_s: When its status came, or its deadline passed.
        status: The name of its gRPC status; DEADLINE_EXCEEDED where none came.
    """

    due_s: float
    sent_s: float = 0.0
    ended_s: float = 0.0
    status: str = ""


@dataclass(frozen=True)
class Target:
    """What is called.

    Attributes:
        host, port: The server.
        path: The method, such as /package.Service/Method.
        timeout_s: The deadline of each call, counted from its sending.
    """

    host: str
    port: int
    path: str
    timeout_s: float

    def headers(self) -> bytes:
        """The header block of each call, in HPACK, nothing indexed."""
        authority = f"{self.host}:{self.port}".encode()
        return b"".join(
            (
                b"\x83\x86",  # POST, http
                b"\x04" + _text(self.path.encode()),
                b"\x01" + _text(authority),
                b"\x0f\x10" + _text(b"application/grpc"),
                b"\x00" + _text(b"te") + _text(b"trailers"),
                b"\x00" + _text(b"grpc-timeout") + _text(b"%dm" % round(1e3 * self.timeout_s)),
            )
        )


class Connection:
    """One connection with many calls under way.

    Args:
        target: What is called.
        on_end: Told of each call that ended.
    """

    def __init__(self, target: Target, on_end: Callable[[Call], None]) -> None:
        self.socket = socket.create_connection((target.host, target.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.calls: dict[int, Call] = {}
        self._timeout_s = target.timeout_s
        self._on_end = on_end
        self._headers = target.headers()
        self._stream = 1
        self._window = STARTING_WINDOW
        self._held: deque[tuple[int, bytes]] = deque()
        self._out = bytearray(PREFACE)
        self._in = bytearray()
        self._expiring: list[tuple[float, int]] = []
        settings = ((TABLE_SIZE, 0), (PUSH, 0), (FIRST_WINDOW, LARGEST_WINDOW))
        self._write(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))
        self._write(WINDOW, 0, 0, struct.pack(">I", LARGEST_WINDOW - STARTING_WINDOW))

    def send(self, call: Call, message: bytes) -> None:
        """Begin a call."""
        stream, self._stream = self._stream, self._stream + 2
        call.sent_s = time.perf_counter()
        self.calls[stream] = call
        heapq.heappush(self._expiring, (call.sent_s + self._timeout_s, stream))
        self._write(HEADERS, END_HEADERS, stream, self._headers)
        self._held.append((stream, b"\0" + struct.pack(">I", len(message)) + message))
        self._release()

    def flush(self) -> None:
        """Write what the socket takes."""
        if self._out:
            with suppress(BlockingIOError):
                del self._out[: self.socket.send(self._out)]

    def read(self) -> None:
        """Take what has come."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the server closed the connection")
        self._in += data
        position, end = 0, len(self._in)
        while position + 9 <= end:
            size = int.from_bytes(self._in[position : position + 3], "big")
            if position + 9 + size > end:
                break
            kind, flags = self._in[position + 3], self._in[position + 4]
            stream = int.from_bytes(self._in[position + 5 : position + 9], "big")
            self._frame(kind, flags, stream, position + 9, size)
            position += 9 + size
        del self._in[:position]

    def expire(self, now_s: float) -> None:
        """Give up the calls whose deadline is over, and tell the server."""
        while self._expiring and self._expiring[0][0] <= now_s:
            _, stream = heapq.heappop(self._expiring)
            if stream in self.calls:
                self._write(RESET, 0, stream, CANCEL)
                self._end(stream, "DEADLINE_EXCEEDED")

    def _frame(self, kind: int, flags: int, stream: int, start: int, size: int) -> None:
        if kind == HEADERS:
            at = self._in.find(STATUS, start, start + size)
            if at >= 0:
                length = self._in[at + len(STATUS)]
                text = self._in[at + len(STATUS) + 1 : at + len(STATUS) + 1 + length]
                self._end(stream, NAMES.get(int(text), text.decode()))
        elif kind == WINDOW and stream == 0:
            self._window += int.from_bytes(self._in[start : start + size], "big")
            self._release()
        elif kind == PING and not flags & ACK:
            self._write(PING, ACK, 0, bytes(self._in[start : start + size]))
        elif kind == SETTINGS and not flags & ACK:
            self._write(SETTINGS, ACK, 0, b"")
        elif kind == RESET:
            self._end(stream, "RESET")
        elif kind == GOAWAY:
            raise ConnectionError("the server goes away")

    def _end(self, stream: int, status: str) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            call.ended_s, call.status = time.perf_counter(), status
            self._on_end(call)

    def _release(self) -> None:
        """Send the messages that fit the window."""
        while self._held and len(self._held[0][1]) <= self._window:
            stream, body = self._held.popleft()
            if stream not in self.calls:
                continue
            self._window -= len(body)
            for i in range(0, len(body), FRAME_BYTES):
                last = i + FRAME_BYTES >= len(body)
                self._write(DATA, END_STREAM if last else 0, stream, body[i : i + FRAME_BYTES])

    def _write(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._out += len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def open_loop(
    target: Target, messages: Sequence[bytes], gaps_s: Iterator[float], seconds: float, connections: int = 4
) -> list[Call]:
    """Calls at times that do not depend on the answers.

    Args:
        target: What is called.
        messages: Sent in turn; at most 65,000 bytes each.
        gaps_s: The time between one call and the next.
        seconds: For how long.
        connections: Over which the calls are spread.

    Returns:
        All calls, ended.
    """
    ended: list[Call] = []
    crowd = [Connection(target, ended.append) for _ in range(connections)]
    due_s = start_s = time.perf_counter() + 0.1
    count = 0

    def due() -> float:
        nonlocal due_s, count
        now_s = time.perf_counter()
        while due_s <= now_s and due_s < start_s + seconds:
            crowd[count % connections].send(Call(due_s), messages[count % len(messages)])
            due_s += next(gaps_s)
            count += 1
        return due_s

    _loop(crowd, due, lambda: due_s >= start_s + seconds)
    return ended


def closed_loop(
    target: Target, messages: Sequence[bytes], clients: int, seconds: float, connections: int = 4
) -> list[Call]:
    """Clients that each wait for an answer before they ask again; all calls, ended."""
    ended: list[Call] = []
    free = clients
    start_s = time.perf_counter()

    def done(call: Call) -> None:
        nonlocal free
        free += 1
        ended.append(call)

    crowd = [Connection(target, done) for _ in range(connections)]
    count = 0

    def due() -> float:
        nonlocal free, count
        now_s = time.perf_counter()
        while free and now_s < start_s + seconds:
            crowd[count % connections].send(Call(now_s), messages[count % len(messages)])
            free -= 1
            count += 1
        return now_s + 1.0

    _loop(crowd, due, lambda: time.perf_counter() >= start_s + seconds)
    return ended


def _loop(crowd: Sequence[Connection], due: Callable[[], float], over: Callable[[], bool]) -> None:
    with selectors.DefaultSelector() as selector:
        for connection in crowd:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while not over() or any(connection.calls for connection in crowd):
            next_s = due()
            now_s = time.perf_counter()
            for connection in crowd:
                connection.expire(now_s)
                connection.flush()
            for key, _ in selector.select(min(max(next_s - now_s, 0.0), 0.005)):
                key.data.read()
    for connection in crowd:
        connection.socket.close()


def _text(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes((len(value),)) + value
