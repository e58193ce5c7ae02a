"""A replica: the scheduler and the calls of `edgeexit serve` in a process of Ray's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, NamedTuple, NoReturn

from edgeexit.bundle import Bundle
from edgeexit.errors import UsageError
from edgeexit_runtime.offload.answerer import CONNECTING_S, Answerer, prepared
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.ray.ingress import ANSWERED, CALLS, TIMEOUT_S
from edgeexit_runtime.server.ray.settings import RayTier
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.server.service import SERVICE, TierService
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.limits import DEFAULT, Limits

__all__ = ["Message", "TierReplica", "check_tier"]


def check_tier(tier: RayTier, bundle: Bundle) -> None:
    """Refuse a range of segments that the bundle does not have, before a replica fails on it again and again.

    Raises:
        UsageError: There is no such tail, or nothing is left for the next tier.
    """
    segments = len(bundle.manifest.segments)
    end = segments if tier.upto is None else tier.upto
    if not 0 <= tier.first < end <= segments:
        raise UsageError(
            "there is no such tail",
            got=f"from={tier.first} upto={end}",
            expected=f"0 ≤ from < upto ≤ {segments}",
        )
    if tier.upstream is not None and end == segments:
        raise UsageError("nothing is left for the next tier", got=f"upstream={tier.upstream}", remedy="upto=M")


def _answers(call: str) -> Callable[[TierReplica, bytes, Any], Awaitable[Message]]:
    """A method for a call. Ray gives the context to a parameter of this name."""

    async def answer(self: TierReplica, data: bytes, grpc_context: Any) -> Message:
        try:
            return Message(await self.calls[call](data, _Context(grpc_context)))
        except _EndedError as end:
            grpc_context.set_code(end.code)
            grpc_context.set_details(end.message)
            grpc_context.set_trailing_metadata([(ANSWERED, "1")])
            return Message(b"")

    return answer


class TierReplica:
    """Answers the calls of the protocol; its methods are named like them, as Ray wants it.

    A call takes the message's bytes and Ray's context of the call. Where its status is not OK the context has it, and
    the answer is empty.

    Args:
        tier: What to run.
        log: Where failures go.

    Attributes:
        calls: Bytes and a context to bytes, as grpc calls them, by name.

    Raises:
        BundleError, BackendError, UsageError: The bundle cannot be opened or run.
    """

    def __init__(self, tier: RayTier, log: Log | None = None) -> None:
        log = Log() if log is None else log
        bundle = Bundle.open(tier.bundle)
        check_tier(tier, bundle)
        tail = Tail.open(
            bundle,
            first=tier.first,
            upto=tier.upto,
            threads=tier.threads,
            target=tier.target,
            backend=tier.backend,
            shared_pool=True,
        )
        self._log = log
        self._tail = tail
        self._upstream = _upstream(tier, tail)
        self._connected = self._upstream is None
        self._executor = ThreadPoolExecutor(1, "segments")
        self._executor.submit(tail.warm_up).result()
        scheduler = Scheduler(
            tail,
            self._executor,
            delay_ms=tier.delay_ms,
            max_batch=tier.max_batch,
            max_queue_rows=tier.max_queue,
            tier=tier.name,
            onward=self._upstream,
            on_failure=lambda error: log.failure("scheduler", error),
        )
        limits = Limits(DEFAULT.message_bytes, min(DEFAULT.rows, tier.max_queue), DEFAULT.tensors)
        handler = TierService(scheduler, log=log, limits=limits).handler()
        self.calls: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
            call: handler.service(_Asked(f"/{SERVICE}/{call}")).unary_unary for call in CALLS
        }

    ServerLive = _answers("ServerLive")
    ServerReady = _answers("ServerReady")
    ServerMetadata = _answers("ServerMetadata")
    ModelReady = _answers("ModelReady")
    ModelMetadata = _answers("ModelMetadata")
    ModelInfer = _answers("ModelInfer")

    async def check_health(self) -> None:
        """Return when the worker has time again. Ray replaces a replica that does not return for long.

        Ray asks for the first time before any request comes: that is when the next tier is connected to.
        """
        if self._upstream is not None and not self._connected:
            self._connected = True
            if not await prepared(self._upstream, self._tail, timeout_s=CONNECTING_S):
                self._log.event("next tier not reached", timeout_s=CONNECTING_S)
        await asyncio.get_running_loop().run_in_executor(self._executor, _nothing)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is written already; Ray asks it for its bytes."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802
        """The bytes."""
        return self.data


class _Asked(NamedTuple):
    """What a handler of grpc wants to know of a call."""

    method: str
    invocation_metadata: tuple[()] = ()


class _EndedError(Exception):
    def __init__(self, code: Any, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class _Context:
    """As much of grpc's context as `TierService` uses, for a call that came by Ray."""

    def __init__(self, grpc_context: Any) -> None:
        self._metadata = grpc_context.invocation_metadata()

    def time_remaining(self) -> float | None:
        """Seconds, as the proxy saw it; None without a deadline or with a proxy that does not tell."""
        text = next((value for key, value in self._metadata if key == TIMEOUT_S), None)
        try:
            left_s = float(text) if isinstance(text, str) else nan
        except ValueError:
            return None
        return left_s if isfinite(left_s) else None

    async def abort(self, code: Any, message: str) -> NoReturn:
        """End the call."""
        raise _EndedError(code, message)


def _upstream(tier: RayTier, tail: Tail) -> Answerer | None:
    if tier.upstream is None:
        return None
    from edgeexit_runtime.offload.choice import Wishes
    from edgeexit_runtime.offload.opening import open_upstream
    from edgeexit_runtime.offload.upstream import UpstreamSettings

    return open_upstream(
        tier.upstream,
        tail.manifest,
        tail.policy,
        UpstreamSettings(wishes=Wishes(precision=tier.upstream_payload_precision), max_in_flight=tier.max_queue),
        ca=tier.upstream_ca,
        certificate=tier.upstream_cert,
        key=tier.upstream_key,
        token_file=tier.upstream_token_file,
    )


def _nothing() -> None:
    """Take the worker no time."""
