"""Samples over a WebSocket: one message comes back for each as soon as its exit answers.

    ws://HOST:PORT/NAME__from_k            a connection for a tail
    → binary   safetensors of the tail's inputs, (n, …) each, rounded ones as `edgeexit.payload` packs them
    ← text     {"message": 0, "row": 3, "label": "cat", "class": 0, "probability": …, "exit": …, "score": …,
                "tier": …, "degraded": false}            a line of JSON for each row, in the order of their exits
    ← text     {"message": 0, "rows": 8}                 all rows of the message are answered
    ← text     {"message": 1, "error": "RESOURCE_EXHAUSTED", "reason": …}      it is not answered further

Messages are counted from 0 on each connection. `?timeout_ms=…` behind the path is the deadline of each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from math import isfinite
from typing import Any
from urllib.parse import parse_qs

from edgeexit.errors import EdgeExitError, MissingPartError, UsageError
from edgeexit.payload import unpack_all
from edgeexit.tensors import load_tensors
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.jobs import Row
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.server.security import Certificates, Tokens
from edgeexit_runtime.wire.limits import Limits
from edgeexit_runtime.wire.messages import WireError

try:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.asyncio.server import serve as listen
    from websockets.datastructures import Headers
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
except ImportError as error:
    raise MissingPartError.package("edgeexit serve --websocket", "edgeexit-runtime[websocket]") from error

__all__ = ["WebSocketServer"]

AT_ONCE = 8
"""Messages of a connection that are worked on at once; the next is not read before one of them is done."""
LONGEST_S = 60.0
CONNECTIONS = 256
"""At once."""
LAST_WORDS_S = 1.0

_QUIET = logging.Logger(__name__)  # websockets would tell of whatever strangers send, with tracebacks
_QUIET.addHandler(logging.NullHandler())


class WebSocketServer:
    """Streams answers.

    Args:
        scheduler: Answers.
        segments: The names of the tails, and the segment that each begins with.
        limits: Of a message.
        log: Where failures go.
        tokens: Bearer tokens that are let in; None to let everybody in.
        origins: Web pages whose scripts are let in, such as https://example.org. Without a page there is no
            origin, and that is let in.
        clock: The scheduler's.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        segments: Mapping[str, int],
        limits: Limits,
        log: Log,
        *,
        tokens: Tokens | None = None,
        origins: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._segments = segments
        self._limits = limits
        self._log = log
        self._tokens = tokens
        self._origins: list[Any] = [None, *origins]
        self._clock = clock
        self._labels = scheduler.tail.manifest.labels
        self._exits = [entry.name for entry in scheduler.tail.manifest.exits]
        self._server: Server | None = None
        self._open = 0

    async def start(self, address: Address, certificates: Certificates | None) -> Address:
        """Listen; the address, with the port that was free.

        Raises:
            UsageError: The address cannot be listened at, or the certificates cannot be used.
        """
        try:
            self._server = await listen(
                self._serve,
                address.host,
                address.port,
                ssl=None if certificates is None else certificates.context(),
                origins=self._origins,
                process_request=self._admit,
                max_size=self._limits.message_bytes,
                max_queue=2,
                compression=None,
                server_header=None,
                logger=_QUIET,
            )
        except OSError as error:
            raise UsageError("the address cannot be listened at", got=str(address), remedy="another port") from error
        return Address(address.host, next(iter(self._server.sockets)).getsockname()[1])

    async def close(self) -> None:
        """Close all connections; who does not answer to that is not waited for long."""
        if self._server is not None:
            self._server.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), LAST_WORDS_S)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if self._tokens is not None and not self._allowed(request):
            return _answer(HTTPStatus.UNAUTHORIZED)
        model, timeout_s = _asked(request.path)
        if self._open >= CONNECTIONS:
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE)
        if model not in self._segments:
            return _answer(HTTPStatus.NOT_FOUND)
        return _answer(HTTPStatus.BAD_REQUEST) if timeout_s is None else None

    def _allowed(self, request: Request) -> bool:
        headers = request.headers.get_all("Authorization")
        return self._tokens is not None and len(headers) == 1 and self._tokens.allow(headers[0])

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        model, timeout_s = _asked(connection.request.path)
        assert timeout_s is not None
        room = asyncio.Semaphore(AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()
        number = 0
        self._open += 1
        try:
            await room.acquire()
            async for data in connection:
                task = asyncio.ensure_future(self._message(connection, self._segments[model], data, number, timeout_s))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _: room.release())
                number += 1
                await room.acquire()
        except ConnectionClosed:
            pass  # nobody is left to tell
        except Exception as error:
            self._log.failure("websocket", error)
        finally:
            self._open -= 1
            for task in tasks:
                task.cancel()

    async def _message(
        self, connection: ServerConnection, k: int, data: str | bytes, number: int, timeout_s: float
    ) -> None:
        """Answer one message, row by row."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        work = asyncio.ensure_future(self._work(k, data, number, self._clock() + timeout_s, lines))
        try:
            while (line := await lines.get()) is not None:
                await connection.send(line)
        except ConnectionClosed:
            pass
        finally:
            work.cancel()

    async def _work(
        self, k: int, data: str | bytes, number: int, deadline_s: float, lines: asyncio.Queue[str | None]
    ) -> None:
        last: dict[str, object]

        def told(row: Row) -> None:
            lines.put_nowait(json.dumps({"message": number, **self._row(row)}))

        try:
            arrays = self._arrays(k, data)
            reply = await self._scheduler.submit(k, arrays, deadline_s, told)
            status, last = "OK", {"rows": reply.rows}
        except WireError as error:
            status, last = error.status, {"error": error.status, "reason": error.message}
        except Exception as error:
            self._log.failure("websocket", error)
            status, last = "INTERNAL", {"error": "INTERNAL", "reason": "the server failed on this message"}
        self._scheduler.counts.requests[status] += 1
        lines.put_nowait(json.dumps({"message": number, **last}))
        lines.put_nowait(None)

    def _arrays(self, k: int, data: str | bytes) -> dict[str, Any]:
        takes = self._scheduler.tail.takes(k)
        if isinstance(data, str):
            raise WireError("INVALID_ARGUMENT", "a message is binary: the safetensors of its inputs")
        try:
            packed = load_tensors(data, "message")
            if len(packed) > self._limits.tensors or any(array.ndim == 0 for array in packed.values()):
                raise WireError("INVALID_ARGUMENT", "there are too many tensors, or one without axes")
            rows = max(map(len, packed.values()), default=0)
            if rows > self._limits.rows or rows * sum(s.size_bytes for s in takes) > self._limits.message_bytes:
                raise WireError("RESOURCE_EXHAUSTED", f"{rows} samples are more than {self._limits.rows}")
            return unpack_all(packed, takes)
        except EdgeExitError as error:
            raise WireError("INVALID_ARGUMENT", _told(error)) from error

    def _row(self, row: Row) -> dict[str, object]:
        line = {
            "row": row.row,
            "label": self._labels[row.label],
            "class": row.label,
            "probability": _finite(row.probability),
            "exit": self._exits[row.exit],
            "score": _finite(row.score),
            "tier": row.tier,
            "degraded": row.degraded,
        }
        return {**line, "reason": row.reason} if row.degraded else line


def _asked(path: str) -> tuple[str, float | None]:
    """The model, and how long a message may take in seconds; None where that makes no sense."""
    place, _, query = path.partition("?")
    model = place.removeprefix("/")
    try:
        timeout_s = float(parse_qs(query).get("timeout_ms", [str(LONGEST_S * 1e3)])[0]) / 1e3
    except ValueError:
        return model, None
    return model, min(timeout_s, LONGEST_S) if timeout_s > 0 else None


def _told(error: EdgeExitError) -> str:
    """What a client may know of an error: nothing in a library's words."""
    return error.problem if error.__cause__ is not None else " ".join(str(error).split())


def _finite(number: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return number if isfinite(number) else None


def _answer(status: HTTPStatus) -> Response:
    body = f"{status.phrase}\n".encode()
    headers = Headers([("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")])
    return Response(status.value, status.phrase, headers, body)
