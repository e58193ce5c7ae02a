"""The next tier, asked with a deadline, a budget of retries, a circuit breaker and a bound on what is in flight."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest
from edgeexit.policies import Policy
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.offload.breaker import Breaker, BreakerSettings
from edgeexit_runtime.offload.choice import Wishes
from edgeexit_runtime.offload.counters import Counters, Snapshot
from edgeexit_runtime.offload.exchange import Exchange
from edgeexit_runtime.offload.flights import Flights
from edgeexit_runtime.offload.link import Link
from edgeexit_runtime.offload.retries import Backoff, RetryBudget
from edgeexit_runtime.offload.transport import OffloadError, Transport, TransportError
from edgeexit_runtime.wire.limits import MAX_ROWS
from edgeexit_runtime.wire.messages import Reply

__all__ = ["DEFAULTS", "Upstream", "UpstreamSettings"]


@dataclass(frozen=True)
class UpstreamSettings:
    """How an upstream is asked.

    Attributes:
        wishes: What may be sent.
        backoff: Pauses between retries.
        retry_tokens: The budget of retries, and how much of one an answer gives back.
        breaker: The circuit breaker.
        max_in_flight: As many questions at once; one more is refused at once.
        deadline_ms: How long a question may take that comes without a deadline.
    """

    wishes: Wishes = field(default_factory=Wishes)
    backoff: Backoff = field(default_factory=Backoff)
    retry_tokens: tuple[float, float] = (10.0, 0.1)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    max_in_flight: int = 32
    deadline_ms: float = 1000.0

    def __post_init__(self) -> None:
        if self.max_in_flight < 1 or not self.deadline_ms > 0:
            raise UsageError("these settings of an upstream make no sense", got=self)


DEFAULTS = UpstreamSettings()


class Upstream:
    """Hands samples on to the next tier. To be used on one event loop; it may be made anywhere.

    Every call of `answer` ends by its deadline, whatever the transport does, as long as the transport does not
    block the event loop. What a transport does not give up when it is told to counts as in flight.

    Args:
        transport: Carries questions to the server.
        manifest: The bundle's, the same as the server's.
        policy: The bundle's, for servers that give logits alone.
        settings: See `UpstreamSettings`.
        model: The bundle's name on the wire; the manifest's when None.
        clock: Seconds, never going back, on which deadlines are counted; the running event loop's when None.
        sleep: Waits so many seconds.
        rng: Uniform in [0, 1).
    """

    def __init__(
        self,
        transport: Transport,
        manifest: Manifest,
        policy: Policy,
        settings: UpstreamSettings = DEFAULTS,
        *,
        model: str | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self._transport = transport
        self._clock = _loop_time if clock is None else clock
        self._sleep = sleep
        self._rng = rng
        self._budget = RetryBudget(*settings.retry_tokens)
        self._breaker = Breaker(self._clock, rng, settings.breaker)
        self._flights = Flights(settings.max_in_flight, self._clock)
        self._counters = Counters()
        self._exchange = Exchange(
            transport,
            manifest,
            policy,
            settings.wishes,
            self._counters,
            session=f"{int(rng() * 2**48):012x}",
            clock=self._clock,
            model=model,
        )

    @property
    def link(self) -> Link:
        """What the network takes, as far as it is known."""
        return self._exchange.link

    async def answer(
        self, k: int, arrays: Arrays, inputs: Arrays | None = None, deadline_s: float | None = None
    ) -> Reply:
        """Answer samples that stand in front of segment k.

        Args:
            k: The segment.
            arrays: (n, …) each, n ≥ 1, by the names of `Tail.takes`. They may not change until there is an answer.
            inputs: (n, …) each, the model's inputs of the same samples; None where they are not at hand.
            deadline_s: When the answer is needed, on the clock; `settings.deadline_ms` from now when None.

        Returns:
            One row a sample, checked against the question, with labels.

        Raises:
            OffloadError: There is no answer; its `reason` says why.
        """
        counters = self._counters
        counters.asked += 1
        if deadline_s is None:
            deadline_s = self._clock() + self.settings.deadline_ms / 1e3
        try:
            with self._flights.place():
                reply = await self._retried(k, arrays, inputs, deadline_s)
        except OffloadError as error:
            counters.failed[error.reason] += 1
            raise
        except asyncio.CancelledError:
            counters.failed["cancelled"] += 1
            raise
        counters.answered += 1
        return reply

    async def prepare(self, k: int, arrays: Arrays, inputs: Arrays | None = None, timeout_s: float = 5.0) -> bool:
        """Connect, and learn what the server takes of samples such as these, so that the first question need not.

        Returns:
            Whether it is known now. Nothing is raised.
        """
        try:
            await self._flights.by(self._clock() + timeout_s, self._exchange.learn_offers(k, arrays, inputs))
        except (OffloadError, TransportError):
            return False
        return True

    async def ready(self, timeout_s: float = 1.0) -> bool:
        """Whether the server takes questions, within `timeout_s`. Nothing is raised."""
        try:
            return await self._flights.by(self._clock() + timeout_s, self._transport.ready(timeout_s))
        except (OffloadError, TransportError):
            return False

    def snapshot(self) -> Snapshot:
        """Counters and estimates at this moment; on the event loop."""
        counters, rtt_s, bytes_per_s = self._counters, self.link.rtt_s, self.link.bytes_per_s
        return Snapshot(
            asked=counters.asked,
            answered=counters.answered,
            retried=counters.retried,
            payload_bytes=counters.payload_bytes,
            failed=dict(counters.failed),
            sent=dict(counters.sent),
            in_flight=self._flights.taken,
            breaker=self._breaker.state.value,
            breaker_opened=self._breaker.opened,
            rtt_ms=None if rtt_s is None else 1e3 * rtt_s,
            mbit_per_s=None if bytes_per_s is None else 8e-6 * bytes_per_s,
        )

    async def close(self) -> None:
        """Give up the connection."""
        self._exchange.close()
        await self._transport.close()

    async def _retried(self, k: int, arrays: Arrays, inputs: Arrays | None, deadline_s: float) -> Reply:
        """Ask until there is an answer, a failure that stays, or no time or budget for another attempt."""
        failure: TransportError | None = None
        for retry in range(self.settings.backoff.attempts):
            if failure is not None:
                pause_s = self.settings.backoff.pause_s(retry - 1, self._rng())
                if self._clock() + pause_s >= deadline_s or not self._budget.take():
                    break
                self._counters.retried += 1
                await self._sleep(pause_s)
            try:
                return await self._attempt(k, arrays, inputs, deadline_s)
            except TransportError as error:
                if not error.transient:
                    raise OffloadError(error.reason, str(error)) from error
                failure = error
            except OffloadError as error:
                if failure is None or error.reason != "circuit open":
                    raise
                break  # it opened meanwhile: what opened it says more
        assert failure is not None
        raise OffloadError(failure.reason, str(failure)) from failure

    async def _attempt(self, k: int, arrays: Arrays, inputs: Arrays | None, deadline_s: float) -> Reply:
        """Ask once, if there is time and the breaker lets it, and tell the breaker what came of it.

        Raises:
            TransportError, OffloadError: There is no answer.
        """
        rows = len(next(iter(arrays.values())))
        if not 1 <= rows <= MAX_ROWS:
            raise OffloadError("refused", f"{rows} samples at once; 1 to {MAX_ROWS} may be")
        if self._clock() >= deadline_s:
            raise OffloadError("deadline", "there is no time left to ask")
        permit = self._breaker.permit()
        if permit is None:
            raise OffloadError("circuit open", "the server failed too often, and is left alone for a moment")
        try:
            reply = await self._flights.by(deadline_s, self._exchange.once(k, arrays, inputs, deadline_s))
        except (OffloadError, TransportError):
            permit.failed()
            raise
        except BaseException:
            permit.unused()
            raise
        permit.succeeded()
        self._budget.answered()
        return reply


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
