"""A server's counts for Prometheus, on their own port. They are put together when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeexit.errors import MissingPartError, UsageError
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.counts import Buckets
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.server.security import Certificates

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError as error:
    raise MissingPartError.package("edgeexit serve --metrics", "edgeexit-runtime[tiers]") from error

__all__ = ["MetricsServer", "SchedulerCollector"]


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
    """Serves `/metrics`.

    Args:
        scheduler: Whose counts.
        address: Where.
        certificates: For https; None for http.

    Attributes:
        address: Where it listens, with the port that was free.

    Raises:
        UsageError: The address cannot be listened at.
    """

    def __init__(self, scheduler: Scheduler, address: Address, certificates: Certificates | None = None) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(SchedulerCollector(scheduler))
        try:
            self._server, self._thread = start_http_server(address.port, address.host, registry, **_tls(certificates))
        except OSError as error:
            raise UsageError(
                "the metrics cannot be served there", got=f"{address}: {error.strerror or error}"
            ) from error
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _tls(certificates: Certificates | None) -> dict[str, Any]:
    if certificates is None:
        return {}
    certificates.context()  # says what is wrong with the files
    files: dict[str, Any] = {"certfile": str(certificates.cert), "keyfile": str(certificates.key)}
    if certificates.client_ca is not None:
        files |= {"client_cafile": str(certificates.client_ca), "client_auth_required": True}
    return files


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
