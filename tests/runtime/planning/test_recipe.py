"""The commands that put a plan to work."""

from __future__ import annotations

from dataclasses import replace

from edgeexit_runtime.planning import Link, Scenario, evaluate
from edgeexit_runtime.planning.recipe import recipe
from runtime.planning.scenarios import scenario, tier

OF = scenario()
INPUT, BOUNDARY = OF.payloads[1]


def three() -> Scenario:
    return replace(OF, tiers=(OF.tiers[0], tier("gateway", 1, 1, 1), OF.tiers[1]), links=(Link(1, 1), Link(1, 1)))


def test_a_split_starts_a_server_and_a_device() -> None:
    assert recipe("a b", OF, evaluate(OF, (1,), (BOUNDARY,))) == {
        "device": "edgeexit run 'a b' PATH… --upto 1 --offload grpc://SERVER:8001 --payload boundary "
        "--payload-precision fp16",
        "server": "edgeexit serve 'a b' --from 1",
    }


def test_a_server_that_gets_inputs_serves_from_the_start() -> None:
    found = recipe("m", OF, evaluate(OF, (1,), (INPUT,)))
    assert found["server"] == "edgeexit serve m --from 0"
    assert found["device"].endswith("--payload input")


def test_all_on_the_device_needs_no_server() -> None:
    assert recipe("m", OF, evaluate(OF, (3,), (None,))) == {"device": "edgeexit run m PATH…"}


def test_all_on_the_server_needs_no_device() -> None:
    assert recipe("m", OF, evaluate(OF, (0,), OF.payloads[0])) == {"server": "edgeexit serve m --from 0"}


def test_a_gateway_hands_on_to_the_server() -> None:
    found = recipe("m", three(), evaluate(three(), (1, 2), (BOUNDARY, BOUNDARY)))
    assert found["gateway"] == "edgeexit serve m --from 1 --upto 2 --upstream grpc://SERVER:8001"


def test_a_gateway_without_segments_is_passed_by() -> None:
    found = recipe("m", three(), evaluate(three(), (1, 1), (BOUNDARY, BOUNDARY)))
    assert found.keys() == {"device", "server"}
    assert "grpc://SERVER:8001" in found["device"]
