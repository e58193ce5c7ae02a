"""Whoever connects and does not speak as agreed stops nobody, learns nothing, and leaves no words in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")
pytest.importorskip("websockets", reason="needs edgeexit-runtime[websocket]")

from websockets.sync.client import connect

from edgeexit_runtime.server import metrics, websocket
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.security import Certificates, Tokens
from edgeexit_runtime.server.serving import ServerSettings, TierServer
from runtime.server.certificates import Authority
from runtime.server.test_websocket import connected, message, received
from runtime.server.tiers import SAFETY_S, fake_tail, serving

ANY = Address("127.0.0.1", 0)
UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[TierServer]:
    with serving(fake_tail(), metrics=ANY, websocket=ANY) as server:
        yield server


def opened(address: Address | None) -> socket.socket:
    assert address is not None
    return socket.create_connection((address.host, address.port), SAFETY_S)


def answer(address: Address | None, data: bytes) -> bytes:
    """All that comes until the server closes."""
    with closing(opened(address)) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /metrics HTTP/1.1", b"200"),
        (b"GET /metrics?name[]=x HTTP/1.0", b"200"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET //[ HTTP/1.1", b"404"),
        (b"\xff\xfe /\xff HTTP/1.1", b"404"),
        (b"", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
    ],
)
def test_the_metrics_port_has_one_page_and_says_nothing_of_itself(
    server: TierServer, line: bytes, status: bytes
) -> None:
    headers = b"Accept: application/openmetrics-text; version=zz\r\nHost: x"
    found = answer(server.metrics_address, line + b"\r\n" + headers + b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 " + status)
    assert (b"edgeexit_requests" in found) == (status == b"200")
    assert b"Server:" not in found
    assert b"Python" not in found


def test_a_request_for_metrics_without_an_end_is_not_read_for_ever(server: TierServer) -> None:
    with closing(opened(server.metrics_address)) as connection, suppress(ConnectionResetError):
        connection.sendall(b"x" * 4 * metrics.REQUEST_BYTES)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("tls", [False, True])
def test_idle_connections_keep_neither_the_metrics_nor_the_end_of_the_server_waiting(tmp_path: Path, tls: bool) -> None:
    import ssl

    authority = Authority(tmp_path)
    certificates = Certificates(*authority.sign("server")) if tls else None
    context = ssl.create_default_context(cafile=str(authority.path)) if tls else None
    with ExitStack() as stack, serving(fake_tail(), metrics=ANY, certificates=certificates) as server:
        for _ in range(3):
            stack.enter_context(closing(opened(server.metrics_address)))
        url = f"http{'s' * tls}://{server.metrics_address}/metrics"
        with urlopen(url, timeout=SAFETY_S, context=context) as page:
            assert page.status == 200


def test_more_connections_for_metrics_than_anybody_needs_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "AT_ONCE", 2)
    with ExitStack() as stack, serving(fake_tail(), metrics=ANY) as server:
        first, second, third = (stack.enter_context(closing(opened(server.metrics_address))) for _ in range(3))
        assert third.recv(1) == b""
        first.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        second.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert first.recv(12) == second.recv(12) == b"HTTP/1.1 200"


def test_connections_without_a_request_do_not_hold_up_the_end_of_the_server() -> None:
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with ExitStack() as stack, serving(fake_tail(), websocket=ANY, grace_s=1e6) as server:
        for data in (b"", greeting[:9], greeting):
            stack.enter_context(closing(opened(server.address))).sendall(data)
        stack.enter_context(closing(opened(server.websocket_address))).sendall(b"GET /")


@pytest.mark.parametrize("path", ["//[", "/[", "http://[/", "/%ff", "/?timeout_ms=1;2"])
def test_a_path_that_is_no_tail_is_not_found(server: TierServer, path: str) -> None:
    assert answer(server.websocket_address, UPGRADE.format(path).encode()).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("data", [b"\xff" * 99, b"GET /\xff HTTP/1.1\r\n\r\n", b"POST / HTTP/1.0\r\n\r\n", b"GET /"])
def test_what_is_no_websocket_leaves_no_words(
    server: TierServer, data: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), closing(opened(server.websocket_address)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass
    assert [record for record in caplog.records if "websockets" in record.name or record.exc_info] == []
    assert capfd.readouterr().err == ""


def test_more_websockets_than_there_is_room_for_are_refused(
    server: TierServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CONNECTIONS", 1)
    with serving(fake_tail(), websocket=ANY) as small, connected(small):
        path = f"/{small.models[0]}"
        assert answer(small.websocket_address, UPGRADE.format(path).encode()).startswith(b"HTTP/1.1 503")
    with connect(f"ws://{server.websocket_address}/{server.models[0]}", proxy=None):
        pass


def test_a_message_that_cannot_be_read_is_refused_in_our_own_words(server: TierServer) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(16)
    with connected(server) as connection:
        connection.send(data)
        refusal = received(connection)
        assert refusal["error"] == "INVALID_ARGUMENT"
        assert "Expected" not in refusal["reason"]
        connection.send(message(0))
        assert received(connection)["row"] == 0


def test_what_goes_wrong_in_the_event_loop_is_an_event_too(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise OSError(24, "Too many open files")

    async def story() -> None:
        stop, lines = asyncio.Event(), StringIO()
        server = TierServer(fake_tail(), ServerSettings(listen=ANY), log=Log(lines))
        running = asyncio.ensure_future(server.run(stop))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(fails)
        while "event loop" not in lines.getvalue():
            await asyncio.sleep(0)
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(story(), SAFETY_S))
    assert capfd.readouterr().err == ""


def test_a_header_that_is_no_unicode_lets_nobody_in() -> None:
    assert not Tokens([bytes(32)]).allow("Bearer \udcff")
