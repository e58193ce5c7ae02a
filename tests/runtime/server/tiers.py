"""Tails and schedulers to test servers with: samples say where they leave, and work runs when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from io import StringIO
from threading import Event, Thread
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.bundles import bundle_parts
from edgeexit.manifest import Manifest
from edgeexit.policies import MaxProbability
from edgeexit_runtime import FakeBackend
from edgeexit_runtime.backends.fake import SegmentFunction
from edgeexit_runtime.offload.answerer import Answerer
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.server.serving import ServerSettings, TierServer
from edgeexit_runtime.tail import Tail
from runtime.cascades import float_spec, told_by_the_sample

FOREVER_S = 1e9
SAFETY_S = 20


def fake_manifest(segments: int) -> Manifest:
    """Boundaries x, h0, h1, …, all of shape (4,)."""
    manifest, _ = bundle_parts(segments)
    names = ["x", *(f"h{k}" for k in range(segments - 1))]
    entries = tuple(
        msgspec.structs.replace(
            entry,
            inputs=(float_spec(names[k], 4),),
            outputs=() if k == segments - 1 else (float_spec(names[k + 1], 4),),
        )
        for k, entry in enumerate(manifest.segments)
    )
    return msgspec.structs.replace(manifest, segments=entries)


def fake_tail(
    segments: int = 3, *, first: int = 0, upto: int | None = None, functions: Sequence[SegmentFunction] | None = None
) -> Tail:
    """A tail on the fake backend whose samples leave where they say; see `runtime.cascades.sample`."""
    functions = [told_by_the_sample(k) for k in range(segments)] if functions is None else functions
    backend = FakeBackend(functions)
    policy = MaxProbability((1.0,) * segments, (0.75,) * (segments - 1) + (np.inf,))
    return Tail(fake_manifest(segments), policy, backend, backend.segments[first:upto], first)


def rows_run(tail: Tail) -> list[list[int]]:
    """For each segment of the tail the number of rows of each of its runs."""
    return [segment.rows for segment in tail._segments]  # type: ignore[attr-defined]


class ByHand(Executor):
    """An executor whose work runs when the test says so, in the test's thread."""

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.work.append(lambda: function(*args, **kwargs))
        return Future()

    async def turn(self) -> None:
        """Run what is there, and let the loop take note."""
        work, self.work = self.work, []
        for function in work:
            function()
        await settle()

    async def finish(self) -> None:
        """Run until nothing is left to do."""
        while self.work:
            await self.turn()


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def asked(scheduler: Scheduler, k: int, batch: NDArray[np.float32], deadline_s: float = FOREVER_S) -> asyncio.Task[Any]:
    """A request on its way."""
    name = scheduler.tail.boundary(k)[0].name
    return asyncio.get_running_loop().create_task(scheduler.submit(k, {name: batch}, deadline_s))


@contextmanager
def serving(
    tail: Tail, *, onward: Answerer | None = None, log: Log | None = None, **settings: Any
) -> Iterator[TierServer]:
    """A server in a thread of its own, on a port that was free."""
    server = TierServer(
        tail,
        ServerSettings(**{"listen": Address("127.0.0.1", 0), **settings}),
        onward=onward,
        log=Log(StringIO()) if log is None else log,
    )
    ready, ends = Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        await server.run(stop, lambda _: ready.set())

    thread = Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(SAFETY_S)
    try:
        yield server
    finally:
        ends[0]()
        thread.join(SAFETY_S)
    assert not thread.is_alive()
