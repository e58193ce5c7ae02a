"""A tier as a server: scheduler, protocol, certificates, tokens and metrics, until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeexit.errors import MissingPartError, UsageError
from edgeexit_runtime.offload.answerer import CONNECTING_S, Answerer, prepared
from edgeexit_runtime.server.addresses import Address, check_exposure
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.metrics import MetricsServer
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.server.security import Certificates, TokenInterceptor, Tokens
from edgeexit_runtime.server.service import TierService
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.limits import DEFAULT, Limits, check_tier_name

if TYPE_CHECKING:
    from edgeexit_runtime.server.websocket import WebSocketServer

try:
    import grpc
except ImportError as error:
    raise MissingPartError.package("edgeexit serve", "edgeexit-runtime[tiers]") from error

__all__ = ["ServerSettings", "TierServer"]

DESCRIPTION_BYTES = 1 << 18
"""Of a message, for names and shapes."""

PING_INTERVAL_MS = 5_000
"""How often an idle client may ask whether the connection still stands: links to devices are cut without a word."""

GREETING_MS = 10_000
"""How long a new connection may take until it is one of gRPC's."""

PENDING = 128
"""Calls that may wait inside gRPC, where nobody sees them or their deadlines; beyond, it ends some, and then all."""

SILENT_MS = 60_000
"""After so long without a word from a client the server asks whether it is still there."""

LAST_ANSWERS_S = 1.0
"""How long the last answers may take on their way when the server stops; who has no request then is not waited for."""


@dataclass(frozen=True)
class ServerSettings:
    """How a tier is served.

    Attributes:
        listen: Where.
        tier: Its name, for the answers; without a comma.
        certificates: For TLS; None for none.
        tokens: Bearer tokens that are let in; None to let everybody in.
        insecure: Whether it may listen to a network without TLS.
        metrics: Where to serve metrics; None for nowhere.
        websocket: Where to stream answers; None for nowhere.
        origins: Web pages whose scripts may use the WebSocket.
        delay_ms, max_batch, max_queue_rows: See `Scheduler`.
        limits: Of a message.
        grace_s: How long requests may take that are there when the server stops.
    """

    listen: Address
    tier: str = "server"
    certificates: Certificates | None = None
    tokens: Tokens | None = None
    insecure: bool = False
    metrics: Address | None = None
    websocket: Address | None = None
    origins: tuple[str, ...] = ()
    delay_ms: float = 2.0
    max_batch: int = 64
    max_queue_rows: int = 256
    limits: Limits = DEFAULT
    grace_s: float = 10.0
    open_addresses: tuple[Address, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_tier_name(self.tier)
        if self.max_batch < 1 or self.max_queue_rows < 1 or not self.delay_ms >= 0:
            raise UsageError("a batch and a queue hold at least one sample, and a delay is 0 ms or more")
        tls = self.certificates is not None
        listeners = {"the server": self.listen, "the metrics' server": self.metrics, "the WebSocket": self.websocket}
        addresses = {what: address for what, address in listeners.items() if address is not None}
        for what, address in addresses.items():
            check_exposure(address, tls=tls, insecure=self.insecure, what=what)
        object.__setattr__(self, "open_addresses", tuple(a for a in addresses.values() if not (tls or a.loopback)))


class TierServer:
    """A tail behind the Open Inference Protocol. To be used on one event loop.

    Args:
        tail: The segments.
        settings: See `ServerSettings`.
        onward: The next tier; None for none.
        log: Where events go.

    Attributes:
        address, metrics_address, websocket_address: Where it listens, once started, with the ports that were free.
        scheduler: Runs the tail.
    """

    def __init__(
        self, tail: Tail, settings: ServerSettings, *, onward: Answerer | None = None, log: Log | None = None
    ) -> None:
        self.settings = settings
        self.address = settings.listen
        self.metrics_address = settings.metrics
        self.websocket_address = settings.websocket
        self._log = Log() if log is None else log
        self._onward = onward
        self._executor = ThreadPoolExecutor(1, "segments")
        self.scheduler = Scheduler(
            tail,
            self._executor,
            delay_ms=settings.delay_ms,
            max_batch=settings.max_batch,
            max_queue_rows=settings.max_queue_rows,
            tier=settings.tier,
            onward=onward,
            on_failure=lambda error: self._log.failure("scheduler", error),
        )
        self._limits = _limits(tail, settings)
        self._service = TierService(self.scheduler, log=self._log, limits=self._limits)
        self._server: Any = None
        self._metrics: MetricsServer | None = None
        self._websocket: WebSocketServer | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the tails."""
        return tuple(self._service.segments)

    async def warm_up(self) -> None:
        """Run every segment once on zeros and connect to the next tier, for the first request's sake.

        Where the next tier cannot be reached it is not waited for long.

        Raises:
            BackendError: The device failed.
        """
        tail = self.scheduler.tail
        await asyncio.get_running_loop().run_in_executor(self._executor, tail.warm_up)
        if self._onward is not None and not await prepared(self._onward, tail, timeout_s=CONNECTING_S):
            self._log.event("next tier not reached", timeout_s=CONNECTING_S)

    async def start(self) -> None:
        """Listen.

        Raises:
            UsageError: An address cannot be listened at, or the certificates cannot be used.
        """
        settings = self.settings
        counts = self.scheduler.counts.requests
        interceptors = []
        if settings.tokens is not None:
            interceptors.append(TokenInterceptor(settings.tokens, lambda: counts.update(UNAUTHENTICATED=1)))
        self._server = grpc.aio.server(
            handlers=[self._service.handler()],
            interceptors=interceptors,
            options=[
                *self._limits.grpc_options(),
                ("grpc.so_reuseport", 0),  # or a second server could listen at the same port, and share its clients
                ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.server_handshake_timeout_ms", GREETING_MS),
                ("grpc.keepalive_time_ms", SILENT_MS),
                ("grpc.server.max_pending_requests", PENDING),
                ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING),
            ],
            maximum_concurrent_rpcs=2 * (settings.max_queue_rows + settings.max_batch),
        )
        self.address = Address(settings.listen.host, self._bound())
        await self._server.start()
        if settings.metrics is not None:
            self._metrics = MetricsServer(self.scheduler)
            self.metrics_address = await self._metrics.start(settings.metrics, settings.certificates)
        if settings.websocket is not None:
            await self._start_websocket(settings.websocket)
        for address in settings.open_addresses:
            self._log.event("insecure", address=str(address))
        self._log.event("listening", address=str(self.address), models=list(self.models), tls=self._tls)

    async def stop(self) -> None:
        """Take no more requests, answer those that are there, and close."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.settings.grace_s
        self._log.event("draining", requests=self.scheduler.open_requests)
        drained = asyncio.ensure_future(self.scheduler.drain())
        stopped = asyncio.ensure_future(self._stopped(self.settings.grace_s))
        await asyncio.wait([drained], timeout=self.settings.grace_s)
        drained.cancel()
        await self._stopped(max(0.0, min(LAST_ANSWERS_S, until_s - loop.time())))
        await stopped
        if self._websocket is not None:
            await self._websocket.close()
        if self._metrics is not None:
            await self._metrics.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._log.event("stopped", requests=dict(self.scheduler.counts.requests))

    async def run(self, stop: asyncio.Event, ready: Callable[[TierServer], None] = lambda server: None) -> None:
        """Serve until told to stop.

        Args:
            stop: Set to stop.
            ready: Called when the server listens.

        Raises:
            UsageError: As for `start`.
        """
        asyncio.get_running_loop().set_exception_handler(self._unexpected)
        try:
            await self.start()
            ready(self)
            await stop.wait()
        finally:
            await self.stop()

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the event loop would write to standard error, such as that there are no more file descriptors."""
        self._log.failure("event loop", context.get("exception") or RuntimeError(context["message"]))

    async def _stopped(self, grace_s: float) -> None:
        """Take no more calls. Those that are there end within the shortest grace that was given."""
        if self._server is not None:
            await self._server.stop(grace_s)

    async def _start_websocket(self, address: Address) -> None:
        from edgeexit_runtime.server.websocket import WebSocketServer  # it needs a package that others do not

        settings = self.settings
        self._websocket = WebSocketServer(
            self.scheduler,
            self._service.segments,
            self._limits,
            self._log,
            tokens=settings.tokens,
            origins=settings.origins,
        )
        self.websocket_address = await self._websocket.start(address, settings.certificates)

    @property
    def _tls(self) -> bool:
        return self.settings.certificates is not None

    def _bound(self) -> int:
        text, certificates = str(self.settings.listen), self.settings.certificates
        try:
            if certificates is None:
                port: int = self._server.add_insecure_port(text)
            else:
                port = self._server.add_secure_port(text, certificates.credentials())
        except RuntimeError as error:
            raise UsageError("the address cannot be listened at", got=text, remedy="another port; 0 is any") from error
        return port


def _limits(tail: Tail, settings: ServerSettings) -> Limits:
    """No more samples than a queue holds, and no larger messages than those need."""
    rows = min(settings.limits.rows, settings.max_queue_rows)
    sample_bytes = max(sum(spec.size_bytes for spec in tail.takes(k)) for k in range(tail.first, tail.last + 1))
    message_bytes = min(settings.limits.message_bytes, rows * sample_bytes + DESCRIPTION_BYTES)
    return Limits(message_bytes, rows, settings.limits.tensors)
