"""A server's counts for Prometheus, on their own port. They are put together when somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from edgeexit.errors import MissingPartError, UsageError
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.counts import Buckets
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.server.security import Certificates

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError as error:
    raise MissingPartError.package("edgeexit serve --metrics", "edgeexit-runtime[tiers]") from error

__all__ = ["MetricsServer", "SchedulerCollector"]

REQUEST_BYTES = 8192
PATIENCE_S = 10.0
"""How long a connection may take for its request, and as long again for the answer."""
LAST_WORDS_S = 1.0
AT_ONCE = 32
"""Connections that are listened to; others are closed."""

_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class SchedulerCollector:
    """Reads a scheduler's counts; nothing is added to while requests are answered."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Any]:
        """See `prometheus_client.registry.Collector`."""
        scheduler, counts = self._scheduler, self._scheduler.counts
        exits = scheduler.tail.manifest.exits
        yield _counter(
            "edgeexit_samples",
            "Answered samples, by the exit and the tier that answered.",
            ("exit", "tier"),
            {(exits[k].name, tier): n for (k, tier), n in dict(counts.rows).items()},
        )
        yield _counter("edgeexit_samples_degraded", "Answered samples that no exit was sure of.", (), counts.degraded)
        yield _counter(
            "edgeexit_samples_dropped", "Samples not run to the end: their request had ended.", (), scheduler.dropped
        )
        yield _counter(
            "edgeexit_requests",
            "Requests, by how they ended.",
            ("status",),
            {(status,): n for status, n in dict(counts.requests).items()},
        )
        waiting = GaugeMetricFamily("edgeexit_queue_rows", "Samples in front of each segment.", labels=("segment",))
        for k, rows in scheduler.waiting.items():
            waiting.add_metric((str(k),), rows)
        yield waiting
        yield GaugeMetricFamily("edgeexit_requests_open", "Requests not answered yet.", scheduler.open_requests)
        sizes = HistogramMetricFamily("edgeexit_batch_rows", "Samples in a batch.", labels=("segment",))
        for k, buckets in counts.batches.items():
            sizes.add_metric((str(k),), _cumulative(buckets), buckets.total)
        yield sizes
        latency = HistogramMetricFamily("edgeexit_request_seconds", "From a request's acceptance to its answer.")
        latency.add_metric((), _cumulative(counts.latency_s), counts.latency_s.total)
        yield latency


class MetricsServer:
    """Serves `/metrics` on the event loop: one request a connection, and nothing that waits for ever.

    Args:
        scheduler: Whose counts.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(SchedulerCollector(scheduler))
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def start(self, address: Address, certificates: Certificates | None = None) -> Address:
        """Listen: https with certificates, else http. The address, with the port that was free.

        Raises:
            UsageError: The address cannot be listened at, or the certificates cannot be used.
        """
        tls: dict[str, Any] = {}
        if certificates is not None:
            tls = {"ssl": certificates.context(), "ssl_handshake_timeout": PATIENCE_S}
        try:
            self._server = await asyncio.start_server(
                self._connected, address.host, address.port, limit=REQUEST_BYTES, **tls
            )
        except OSError as error:
            raise UsageError(
                "the metrics cannot be served there", got=f"{address}: {error.strerror or error}"
            ) from error
        return Address(address.host, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
            for writer in self._open.values():
                writer.transport.abort()
            if self._open:
                await asyncio.wait(self._open)
            with suppress(asyncio.TimeoutError):  # who has not even shaken hands is not waited for
                await asyncio.wait_for(self._server.wait_closed(), LAST_WORDS_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            if len(self._open) <= AT_ONCE:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                writer.write(self._answer(head))
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), PATIENCE_S)
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            pass  # nobody who asks for metrics does this
        finally:
            del self._open[task]
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            status, body = b"404 Not Found", b"not found\n"
        elif method != b"GET":
            status, body = b"405 Method Not Allowed", b"GET only\n"
        else:
            status, body = b"200 OK", generate_latest(self._registry)
        fields = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        return fields % (status, _CONTENT_TYPE, len(body)) + body


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int] | int) -> Any:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in (values if isinstance(values, Mapping) else {(): values}).items():
        family.add_metric(key, value)
    return family


def _cumulative(buckets: Buckets) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound, count in zip((*map(str, map(float, buckets.bounds)), "+Inf"), buckets.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
