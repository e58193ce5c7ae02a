"""A TCP proxy that does to a connection what networks do to it, and what only broken ones do.

    with FaultProxy(server_address, Faults(corrupt=0.01, reset=0.001), seed=7) as proxy:
        connect(proxy.address)
    proxy.counts["corrupt"]

It runs on an event loop in a thread of its own. What happens to chunk i of direction d of connection c depends on the
seed, c, d and i alone.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, fields

__all__ = ["Address", "FaultProxy", "Faults"]

Address = tuple[str, int]

CHUNK_BYTES = 16_384
FLIPS = 4


@dataclass(frozen=True)
class Faults:
    """How likely each fault is for a chunk of at most 16 KiB, in either direction. At most one befalls a chunk.

    Attributes:
        delay: It is held back for up to `delay_s`, and what follows with it.
        drop: It is lost, and what follows is not.
        reset: The connection is reset.
        black_hole: From here on nothing is forwarded in this direction, and the connection stays open.
        truncate: Some of it is forwarded, and the connection is closed.
        corrupt: A few of its bits are flipped.
        duplicate: It is forwarded twice.
        delay_s: The longest delay, seconds.
    """

    delay: float = 0.0
    drop: float = 0.0
    reset: float = 0.0
    black_hole: float = 0.0
    truncate: float = 0.0
    corrupt: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.05

    def draw(self, rng: random.Random) -> str | None:
        """The fault of a chunk."""
        left = rng.random()
        for field in fields(self):
            if field.name == "delay_s":
                continue
            left -= getattr(self, field.name)
            if left < 0:
                return field.name
        return None


class FaultProxy:
    """Forwards connections to a server, with faults.

    Args:
        target: The server's address. It may be changed at any time; open connections stay where they are.
        faults: What befalls chunks; may be changed at any time too.
        seed: Of all chance.

    Attributes:
        counts: How often each fault befell a chunk, and "connections".
    """

    def __init__(self, target: Address, faults: Faults = Faults(), *, seed: int = 0) -> None:
        self.target = target
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> Address:
        """Where to connect instead of to the server."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def sever(self) -> None:
        """Reset all connections that are open now."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.counts["connections"] += 1
        number = self.counts["connections"]
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(*self.target)
            writers.append(back)
            await _first_done(
                self._pump(reader, back, writers, random.Random(f"{self._seed} {number} there")),
                self._pump(there, writer, writers, random.Random(f"{self._seed} {number} back")),
            )
        except OSError:
            _abort(writers)
        except asyncio.CancelledError:
            _abort(writers)  # and end like any other: a task that whoever stops the proxy waits for
        finally:
            for each in writers:
                each.close()
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
        rng: random.Random,
    ) -> None:
        """Forward one direction until it ends."""
        while chunk := await reader.read(CHUNK_BYTES):
            fault = self.faults.draw(rng)
            if fault is not None:
                self.counts[fault] += 1
            if fault == "reset":
                _abort(both)
                return
            if fault == "black_hole":
                while await reader.read(CHUNK_BYTES):
                    pass
                await asyncio.Event().wait()
            if fault == "delay":
                await asyncio.sleep(rng.uniform(0, self.faults.delay_s))
            if fault == "truncate":
                chunk = chunk[: rng.randrange(len(chunk))]
            if fault == "corrupt":
                chunk = _flipped(chunk, rng)
            if fault != "drop":
                writer.write(chunk * 2 if fault == "duplicate" else chunk)
                await writer.drain()
            if fault == "truncate":
                return


def _flipped(chunk: bytes, rng: random.Random) -> bytes:
    data = bytearray(chunk)
    for position in rng.sample(range(len(data)), min(FLIPS, len(data))):
        data[position] ^= 1 << rng.randrange(8)
    return bytes(data)


def _abort(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        raw = writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        writer.transport.abort()


async def _first_done(*pumps: object) -> None:
    """Run both directions until one has ended."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
