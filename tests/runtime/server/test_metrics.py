"""The counts say what happened, and events are lines of JSON."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from urllib.request import urlopen

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import grpc
from prometheus_client.parser import text_string_to_metric_families

from edgeexit.errors import UsageError
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.counts import Buckets
from edgeexit_runtime.server.logs import QUIET_S, Log
from edgeexit_runtime.server.metrics import MetricsServer
from edgeexit_runtime.server.serving import TierServer
from runtime.cascades import batch_of
from runtime.server.test_service import bare_call, request
from runtime.server.tiers import Clock, fake_tail, serving

ANY = Address("127.0.0.1", 0)


def scraped(server: TierServer) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and the values of its labels."""
    with urlopen(f"http://{server.metrics_address}/metrics") as page:
        families = text_string_to_metric_families(page.read().decode())
    return {(s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_metrics_count_exits_tiers_batches_requests_and_latency() -> None:
    with serving(fake_tail(upto=2), metrics=ANY, tier="edge", max_queue_rows=4) as server:
        model = server.models[0]
        bare_call(server, request(batch_of(0, 1, 2), model).SerializeToString())
        for data in (b"\xff", request(batch_of(*[0] * 5), model).SerializeToString()):
            with pytest.raises(grpc.RpcError):
                bare_call(server, data)
        found = scraped(server)
    assert found["edgeexit_samples_total", ("exit0", "edge")] == 1
    assert found["edgeexit_samples_total", ("exit1", "edge")] == 2
    assert found["edgeexit_samples_degraded_total", ()] == 1
    requests = {labels[0]: value for (name, labels), value in found.items() if name == "edgeexit_requests_total"}
    assert requests == {"OK": 1, "INVALID_ARGUMENT": 1, "RESOURCE_EXHAUSTED": 1}
    assert found["edgeexit_queue_rows", ("0",)] == found["edgeexit_requests_open", ()] == 0
    assert found["edgeexit_batch_rows_bucket", ("2.0", "0")] == 0
    assert found["edgeexit_batch_rows_bucket", ("4.0", "0")] == 1
    assert found["edgeexit_batch_rows_sum", ("1",)] == 2
    assert found["edgeexit_request_seconds_count", ()] == 1


def test_a_port_that_is_taken_is_refused() -> None:
    with serving(fake_tail(), metrics=ANY) as server:
        assert server.metrics_address is not None
        with pytest.raises(UsageError, match="metrics"):
            asyncio.run(MetricsServer(server.scheduler).start(server.metrics_address))


def test_a_value_belongs_to_the_first_bound_that_is_not_below_it() -> None:
    buckets = Buckets((1, 2, 4))
    for value in (0.5, 1, 2, 3, 4, 5):
        buckets.add(value)
    assert buckets.counts == [2, 1, 2, 1]
    assert buckets.total == 15.5


def test_an_event_is_a_line_of_json_with_its_time() -> None:
    stream = StringIO()
    Log(stream, wall=lambda: 1.5).event("listening", address="127.0.0.1:1")
    assert json.loads(stream.getvalue()) == {
        "time": "1970-01-01T00:00:01.500+00:00",
        "event": "listening",
        "address": "127.0.0.1:1",
    }


def test_failures_of_one_kind_do_not_fill_the_log() -> None:
    stream, clock = StringIO(), Clock()
    log = Log(stream, clock=clock)
    for _ in range(100):
        log.failure("scheduler", ValueError("no"))
    log.failure("scheduler", TypeError("no"))
    clock.now_s = QUIET_S + 1
    log.failure("scheduler", ValueError("no"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["error"], line["unwritten"]) for line in lines] == [
        ("ValueError", 0),
        ("TypeError", 0),
        ("ValueError", 99),
    ]
