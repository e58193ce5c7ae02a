"""Upstreams to test with: an event loop whose time passes at once, and replies made of the question."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.bundles import bundle_parts
from edgeexit.manifest import Manifest
from edgeexit.policies import MaxProbability, Policy
from edgeexit_runtime.offload.fake import FakeTransport
from edgeexit_runtime.offload.transport import OffloadError, Transport
from edgeexit_runtime.offload.upstream import Upstream, UpstreamSettings
from edgeexit_runtime.wire.messages import Question, Reply

T = TypeVar("T")

F32 = np.float32
EXITS = 3
CLASSES = 3
BUDGET_S = 0.2


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time: its clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now_s


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("nothing will ever happen again")
        self._loop.now_s += max(0.0, timeout)
        return super().select(0)


def passing(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a `VirtualLoop`."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(_end())
        loop.close()


async def _end() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def manifest() -> Manifest:
    return bundle_parts(EXITS)[0]


def policy() -> Policy:
    return MaxProbability((1.0,) * EXITS, (0.75,) * (EXITS - 1) + (np.inf,))


def boundary(rows: int = 1, width: int = 4) -> dict[str, NDArray[Any]]:
    """Boundary tensors whose first value is the sample's label."""
    h = np.zeros((rows, width), F32)
    h[:, 0] = np.arange(rows) % CLASSES
    return {"h": h}


def reply_to(question: Question, **changes: Any) -> Reply:
    """The right reply: the label is the tensor's first value."""
    array = next(iter(question.arrays.values()))
    n = len(array)
    right = Reply(
        label=array.reshape(n, -1)[:, 0].astype(np.int64),
        probability=np.full(n, 0.9, F32),
        exit=np.full(n, EXITS - 1),
        score=np.full(n, 0.9, F32),
        degraded=np.zeros(n, np.bool_),
        tier=("cloud",) * n,
        server_ms=1.0,
    )
    return replace(right, **changes)


def upstream(transport: Transport, settings: UpstreamSettings | None = None, **how: Any) -> Upstream:
    """An upstream whose chance is always one half."""
    how.setdefault("rng", lambda: 0.5)
    return Upstream(
        transport,
        how.pop("parts", None) or manifest(),
        how.pop("policy", policy()),
        settings or UpstreamSettings(),
        **how,
    )


def answering(**changes: Any) -> FakeTransport:
    return FakeTransport(lambda question: reply_to(question, **changes))


async def ask(up: Upstream, rows: int = 1, budget_s: float = BUDGET_S, k: int = 1) -> Reply | str:
    """A reply, or why there is none."""
    try:
        return await up.answer(k, boundary(rows), deadline_s=now_s() + budget_s)
    except OffloadError as error:
        return error.reason
