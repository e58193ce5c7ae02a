"""What is Ray Serve's own affair stays there, and what it leaves out is told."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import grpc

from edgeexit_runtime.server.ray import (
    add_tier_to_server,
    add_tier_to_server_insecurely,
)
from edgeexit_runtime.server.ray.ingress import CALLS, TIMEOUT_S, ProxiedContext, is_local
from edgeexit_runtime.server.ray.replica import Message
from edgeexit_runtime.wire.limits import Limits
from runtime.server.ray_proxy import SAFETY_S, Carried, RaysError, bare_call, proxied, refused


def told_by_the_proxy(**call: Any) -> dict[str, Any]:
    """What a replica hears of a call."""
    heard: list[Any] = []

    async def answer(name: str, data: bytes, context: Carried) -> Any:
        heard.append((name, data, context.invocation_metadata()))
        return Message(b"answer")

    with proxied(add_tier_to_server, answer) as address:
        assert bare_call(address, b"question", **call)[0] == b"answer"
    ((name, data, metadata),) = heard
    assert (name, data) == ("ModelInfer", b"question")
    return dict(metadata)


def test_the_replica_is_told_what_is_left_of_the_deadline() -> None:
    assert 0 < float(told_by_the_proxy(timeout_s=SAFETY_S)[TIMEOUT_S]) <= 1.1 * SAFETY_S  # grpc rounds it up
    assert TIMEOUT_S not in told_by_the_proxy(timeout_s=None)


def test_a_client_cannot_say_what_the_proxy_says() -> None:
    assert TIMEOUT_S not in told_by_the_proxy(timeout_s=None, metadata=((TIMEOUT_S, "1e9"),))


def test_the_application_is_edgeexit_unless_the_client_names_another() -> None:
    assert told_by_the_proxy()["application"] == "edgeexit"
    assert told_by_the_proxy(metadata=(("application", "other"),))["application"] == "other"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("INTERNAL", "UNAVAILABLE"),
        ("UNKNOWN", "UNAVAILABLE"),
        ("UNAVAILABLE", "UNAVAILABLE"),
        ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        ("NOT_FOUND", "NOT_FOUND"),
    ],
)
def test_where_ray_fails_the_client_learns_whether_to_try_again_and_no_more(said: str, told: str) -> None:
    async def answer(name: str, data: bytes, context: Carried) -> Any:
        raise RaysError(grpc.StatusCode[said], "actor 0f3a on 10.1.2.3 died, see /tmp/ray/session")

    with proxied(add_tier_to_server, answer) as address:
        error = refused(address)
    assert error.code().name == told
    assert not any(word in error.details() for word in ("actor", "10.1.2.3", "/tmp"))


def test_where_the_proxy_itself_breaks_the_client_may_try_again() -> None:
    async def answer(name: str, data: bytes, context: Carried) -> Any:
        raise ValueError("no such file: /tmp/ray/session")

    with proxied(add_tier_to_server, answer) as address:
        error = refused(address)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "ray" not in error.details()


def test_without_ray_around_it_no_call_is_answered() -> None:
    with proxied(lambda _, proxy: add_tier_to_server(None, proxy.server), never) as address:
        assert refused(address).code() == grpc.StatusCode.UNIMPLEMENTED


async def never(name: str, data: bytes, context: Carried) -> Any:
    raise AssertionError("nobody calls this")


def test_a_message_that_is_too_large_goes_to_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(name: str, data: bytes, context: Carried) -> Any:
        return Message(data)

    monkeypatch.setattr(sys.modules[add_tier_to_server.__module__], "DEFAULT", Limits(message_bytes=10))
    with proxied(add_tier_to_server, answer) as address:
        assert bare_call(address, b"0123456789")[0] == b"0123456789"
        assert refused(address, b"0123456789+").code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:5000", True),
        ("ipv4:127.1.2.3:5000", True),
        ("ipv6:%5B::1%5D:5000", True),
        ("ipv6:[::ffff:127.0.0.1]:5000", True),
        ("unix:", True),
        ("ipv4:10.0.0.7:5000", False),
        ("ipv6:%5B2001:db8::1%5D:5000", False),
        ("ipv6:[::ffff:10.0.0.7]:5000", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
def test_only_loopback_is_of_this_machine(peer: str, local: bool) -> None:
    assert is_local(peer) is local


class Abroad:
    """grpc's context of a call from another machine."""

    def __init__(self) -> None:
        self.aborted: Any = None

    def peer(self) -> str:
        return "ipv4:10.0.0.7:5000"

    def invocation_metadata(self) -> Any:
        return ()

    def time_remaining(self) -> None:
        return None

    async def abort(self, code: Any, details: str) -> None:
        self.aborted = code
        raise asyncio.CancelledError


@pytest.mark.parametrize("add", [add_tier_to_server, add_tier_to_server_insecurely])
def test_a_client_of_another_machine_is_taken_only_where_that_was_meant(add: Any) -> None:
    handlers: list[Any] = []
    add(None, SimpleNamespace(add_generic_rpc_handlers=handlers.extend))
    (found,) = handlers

    async def routed(data: bytes, context: Any) -> bytes:
        return data

    found._method_handlers = {name: handler._replace(unary_unary=routed) for name, handler in routes(found)}
    for name, _ in routes(found):
        call, context = found.service(SimpleNamespace(method=name)).unary_unary, Abroad()
        if add is add_tier_to_server_insecurely:
            assert asyncio.run(call(b"x", context)) == b"x"
        else:
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(call(b"x", context))
            assert context.aborted == grpc.StatusCode.PERMISSION_DENIED


def routes(handlers: Any) -> list[tuple[str, Any]]:
    found = list(handlers._method_handlers.items())
    assert len(found) == len(CALLS)
    return found


def test_other_calls_are_not_implemented() -> None:
    handlers: list[Any] = []
    add_tier_to_server(None, SimpleNamespace(add_generic_rpc_handlers=handlers.extend))
    assert handlers[0].service(SimpleNamespace(method="/inference.GRPCInferenceService/RepositoryModelLoad")) is None


def test_the_proxys_context_has_what_grpcs_has() -> None:
    assert ProxiedContext(Abroad()).peer() == "ipv4:10.0.0.7:5000"
