"""The tier: the first segments run here, what they leave unresolved goes on, and every sample is answered in time.

    tier = Tier(Tail.open(bundle, upto=2), upstream, deadline_ms=200)
    for answer in tier.stream(batches):
        answer.index, answer.label, answer.tier, answer.degraded, answer.reason

What was answered upstream is what one cascade in one process would have answered. What could not be, for whatever
reason, gets the best local answer and says why.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgeexit.errors import UsageError
from edgeexit_runtime.answers import LOCAL_TIER
from edgeexit_runtime.batches import Arrays, Batch
from edgeexit_runtime.offload.answerer import Answerer, prepared
from edgeexit_runtime.offload.transport import OffloadError
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier.computing import Ask, Settings
from edgeexit_runtime.tier.finishing import Finisher
from edgeexit_runtime.tier.pace import Pace
from edgeexit_runtime.tier.relay import Relay, Unheard
from edgeexit_runtime.tier.replies import TierAnswer
from edgeexit_runtime.wire.messages import Reply

if TYPE_CHECKING:
    from edgeexit_runtime.offload.spool import Spool
    from edgeexit_runtime.tier.spooling import Spooling

__all__ = ["Submits", "Tier", "TierAnswer"]

IN_FLIGHT = 8

T = TypeVar("T")


class Submits(Protocol):
    """Something that runs coroutines in a thread of its own; `offload.background.Background` is one."""

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine."""

    def close(self) -> None:
        """Run no more."""


class Tier:
    """The device's side.

    One stream at a time, please: streams of several threads would share the upstream, but not its bounds.

    Args:
        tail: The segments that run here, from the first of the bundle on.
        upstream: Whom to hand on what they leave unresolved; None: nobody.
        deadline_ms: How long after the start of its batch each sample is answered, at the latest.
        finish_locally: The segments behind those of `tail`, run here for what upstream did not answer, as long as
            there is time for it.
        quicker: Whether `finish_locally` also runs what could be handed on, where it takes less time than that.
        name: What this tier is called in answers.
        in_flight: How many batches may wait for an answer at once. When there are as many, no further one is
            computed.
        spool: Keeps samples that got a degraded answer, for later labels; nobody does when None. It is left open.
        background: Runs the upstream's coroutines, and is left running; one of its own when None.
        clock: Seconds, the event loop's.

    Raises:
        UsageError: A number is out of range, or the segments do not follow one another.
    """

    def __init__(
        self,
        tail: Tail,
        upstream: Answerer | None,
        *,
        deadline_ms: float,
        finish_locally: Tail | None = None,
        quicker: bool = False,
        name: str = LOCAL_TIER,
        in_flight: int = IN_FLIGHT,
        spool: Spool | None = None,
        background: Submits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(tail, finish_locally, deadline_ms, in_flight)
        self.tail = tail
        self._upstream = upstream
        self._finisher = (
            None if finish_locally is None else Finisher(finish_locally, pace=Pace() if quicker else None, clock=clock)
        )
        self._owned = _background() if background is None and upstream is not None else None
        self._background = background if self._owned is None else self._owned
        self._clock = clock
        count = len(tail.manifest.segments)
        self._settings = Settings(
            name=name,
            deadline_s=deadline_ms / 1e3,
            in_flight=in_flight,
            clock=clock,
            reason=f"this tier runs {tail.last + 1} of {count} segments and none of its exits was sure",
        )
        self._spooling = None if spool is None else _spooling(spool)

    def __enter__(self) -> Tier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stream(self, batches: Iterable[Batch], *, names: Sequence[str] | None = None) -> Iterator[TierAnswer]:
        """Answer batches one after another, each sample as soon as it is resolved, in any order.

        Batches are read, and local segments run, in a thread of their own, at most two batches ahead of
        whoever takes the answers.

        Args:
            batches: As for `Cascade.run`. The arrays may not change until their samples are answered.
            names: Of all samples, under which the spool keeps them; their positions when None.

        Raises:
            DataError: A name, dtype or shape differs from the manifest. All samples before are answered first.
            BackendError: The device failed.
        """
        ask: Ask | None = None if self._upstream is None else self._ask
        spooling = self._spooling
        unheard: Unheard | None = None if spooling is None else lambda p, reason: spooling.keep(p, reason, names)
        return Relay(self.tail, ask, self._finisher, self._settings, unheard).answers(batches)

    def run(self, batch: Batch) -> list[TierAnswer]:
        """Answer one batch, also of none: answer i belongs to sample i.

        Raises:
            DataError, BackendError: As for `stream`.
        """
        return sorted(self.stream([batch]), key=lambda answer: answer.index)

    def warm_up(self) -> None:
        """Run every local segment on zeros and connect, so that the first sample takes no longer than the rest.

        Where upstream cannot be reached it takes no longer than the deadline.

        Raises:
            BackendError: The device failed.
        """
        self.tail.warm_up()
        if self._finisher is not None:
            self._finisher.warm_up()
        if self._upstream is not None and self._background is not None:
            self._background.submit(prepared(self._upstream, self.tail, timeout_s=self._settings.deadline_s)).result()

    def close(self) -> None:
        """End the threads. What upstream still owes is not waited for, what the spool still lacks is written."""
        if self._finisher is not None:
            self._finisher.close()
        if self._owned is not None:
            self._owned.close()
        if self._spooling is not None:
            self._spooling.close()

    def _ask(self, k: int, arrays: Arrays, inputs: Arrays, due_s: float) -> Future[Reply]:
        assert self._background is not None
        return self._background.submit(self._answer(k, arrays, inputs, due_s))

    async def _answer(self, k: int, arrays: Arrays, inputs: Arrays, due_s: float) -> Reply:
        assert self._upstream is not None
        answer = self._upstream.answer(k, arrays, inputs, deadline_s=due_s)
        try:
            return await asyncio.wait_for(answer, max(0.0, due_s - self._clock()))
        except asyncio.TimeoutError:
            raise OffloadError("deadline") from None


def _background() -> Submits:
    from edgeexit_runtime.offload.background import Background

    return Background()


def _spooling(spool: Spool) -> Spooling:
    from edgeexit_runtime.tier.spooling import Spooling

    return Spooling(spool)


def _check(tail: Tail, later: Tail | None, deadline_ms: float, in_flight: int) -> None:
    if tail.first:
        raise UsageError("a tier of a device starts at the first segment", got=tail.first, expected=0)
    if later is not None and later.first != tail.last + 1:
        raise UsageError(
            "the segments to finish with do not follow those before", got=later.first, expected=tail.last + 1
        )
    if not (deadline_ms > 0 and math.isfinite(deadline_ms)):
        raise UsageError("that is no deadline", got=f"{deadline_ms} ms", expected="milliseconds, above 0")
    if in_flight < 1:
        raise UsageError("that is no number of batches in flight", got=in_flight, expected="1 or more")
