"""Certificates and tokens that are not right let nobody in, over gRPC, the WebSocket and the metrics' port alike."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.request import urlopen

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")
pytest.importorskip("websockets", reason="needs edgeexit-runtime[websocket]")
pytest.importorskip("cryptography", reason="needs cryptography")

import grpc
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.security import Certificates, Tokens
from edgeexit_runtime.server.serving import TierServer
from faults.certificates import write_certificate
from hostile import frames as h2
from hostile.sockets import said
from runtime.server.certificates import DAY, Authority
from runtime.server.tiers import SAFETY_S, fake_tail, serving

ANY = Address("127.0.0.1", 0)
TOKEN = "correct-horse-battery"
READY = b"/inference.GRPCInferenceService/ServerReady"

Pair = tuple[Path, Path]
Maker = Callable[[Authority, Path], "Pair | None"]


def itself(authority: Authority, folder: Path) -> Pair:
    """A certificate that nobody signed but itself."""
    folder = folder / "self-signed"
    folder.mkdir(exist_ok=True)
    return write_certificate(folder)


def stranger(authority: Authority, folder: Path) -> Pair:
    """One that another authority signed, whose name is the same."""
    folder = folder / "stranger"
    folder.mkdir(exist_ok=True)
    return Authority(folder).sign("server")


WRONG: dict[str, Maker] = {
    "expired": lambda authority, _: authority.sign("expired", lasts=-DAY),
    "not yet valid": lambda authority, _: authority.sign("early", begins=DAY, lasts=2 * DAY),
    "self-signed": itself,
    "another authority's": stranger,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("papers")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


def grpc_lets_in(server: TierServer, authority: Authority, pair: Pair | None = None) -> bool:
    """Whether it says that it is ready."""
    certificate, key = (None, None) if pair is None else (path.read_bytes() for path in pair)
    credentials = grpc.ssl_channel_credentials(authority.path.read_bytes(), key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with suppress(grpc.RpcError), grpc.secure_channel(str(server.address), credentials, options) as channel:
        return bool(channel.unary_unary(READY.decode())(b"", timeout=SAFETY_S))
    return False


def context_for(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def websocket_lets_in(server: TierServer, authority: Authority, pair: Pair | None = None) -> bool:
    """Whether a ping comes back; with TLS 1.3 a client learns only then that its certificate was refused."""
    url = f"wss://{server.websocket_address}/{server.models[0]}"
    context = context_for(authority, pair)
    with suppress(OSError, WebSocketException), connect(url, ssl=context, proxy=None) as connection:
        return connection.ping().wait(SAFETY_S)
    return False


def metrics_let_in(server: TierServer, authority: Authority, pair: Pair | None = None) -> bool:
    """Whether the page comes."""
    url, context = f"https://{server.metrics_address}/metrics", context_for(authority, pair)
    with suppress(OSError), urlopen(url, context=context) as page:
        return bool(page.status == 200)
    return False


WAYS = (grpc_lets_in, websocket_lets_in, metrics_let_in)


@pytest.mark.parametrize("kind", [*WRONG, "of another host"])
def test_a_client_speaks_to_no_server_whose_certificate_is_not_right(
    authority: Authority, folder: Path, kind: str
) -> None:
    pair = authority.sign("elsewhere", host="127.0.0.9") if kind not in WRONG else WRONG[kind](authority, folder)
    assert pair is not None
    with serving(fake_tail(), certificates=Certificates(*pair), websocket=ANY, metrics=ANY) as server:
        assert [way(server, authority) for way in WAYS] == [False] * 3


def test_a_client_speaks_to_a_server_whose_certificate_is_right(authority: Authority) -> None:
    with serving(
        fake_tail(), certificates=Certificates(*authority.sign("right")), websocket=ANY, metrics=ANY
    ) as server:
        assert [way(server, authority) for way in WAYS] == [True] * 3


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[TierServer]:
    certificates = Certificates(*authority.sign("mutual"), authority.path)
    with serving(fake_tail(), certificates=certificates, websocket=ANY, metrics=ANY) as server:
        yield server


@pytest.mark.parametrize("kind", ["none", *WRONG])
def test_with_mutual_tls_nobody_talks_without_a_certificate_that_is_right(
    mutual: TierServer, authority: Authority, folder: Path, kind: str
) -> None:
    pair = None if kind == "none" else WRONG[kind](authority, folder)
    assert [way(mutual, authority, pair) for way in WAYS] == [False] * 3


def test_with_mutual_tls_whoever_has_a_certificate_that_is_right_talks(
    mutual: TierServer, authority: Authority
) -> None:
    pair = authority.sign("client")
    assert [way(mutual, authority, pair) for way in WAYS] == [True] * 3


def test_where_tls_is_spoken_nothing_in_the_clear_is_answered(mutual: TierServer) -> None:
    assert mutual.websocket_address is not None
    assert mutual.metrics_address is not None
    for address in (mutual.address, mutual.websocket_address, mutual.metrics_address):
        answer = said((address.host, address.port), b"GET /metrics HTTP/1.1\r\n\r\n", b"edgeexit")
        assert b"200" not in answer
        assert b"edgeexit" not in answer


@pytest.fixture(scope="module")
def guarded() -> Iterator[TierServer]:
    with serving(fake_tail(), tokens=Tokens([sha256(TOKEN.encode()).digest()]), websocket=ANY) as server:
        yield server


HEADERS: dict[str, tuple[bytes, ...]] = {
    "missing": (),
    "empty": (b"",),
    "no token": (b"Bearer",),
    "an empty token": (b"Bearer ",),
    "one letter less": (f"Bearer {TOKEN[:-1]}".encode(),),
    "one letter more": (f"Bearer {TOKEN}x".encode(),),
    "one letter other": (f"Bearer {TOKEN[:-1]}z".encode(),),
    "upper case": (f"Bearer {TOKEN.upper()}".encode(),),
    "its hash": (f"Bearer {sha256(TOKEN.encode()).hexdigest()}".encode(),),
    "another scheme": (f"Basic {TOKEN}".encode(),),
    "no scheme": (TOKEN.encode(),),
    "two, one of them right": (f"Bearer {TOKEN}".encode(), b"Bearer x"),
    "beyond ASCII": (f"Bearer {TOKEN}".encode() + b"\xc3\xa9",),
    "no text": (b"Bearer \xff\xfe\x80",),
    "long": (b"Bearer " + b"x" * 6000,),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_no_token_but_the_right_one_is_let_in_over_grpc(guarded: TierServer, kind: str) -> None:
    more = [(b"authorization", value) for value in HEADERS[kind]]
    answer = called(guarded, more)
    assert b"grpc-status\x0216" in answer or refused_by_grpc(kind, answer)
    assert b"grpc-status\x010" not in answer


def refused_by_grpc(kind: str, answer: bytes) -> bool:
    """Whether gRPC itself took the header for none."""
    return kind in ("beyond ASCII", "no text") and b"grpc-status" in answer


def called(server: TierServer, more: list[tuple[bytes, bytes]]) -> bytes:
    """One call, byte by byte: gRPC's own client would not send such headers."""
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(READY, more))
    body = h2.frame(h2.DATA, h2.END_STREAM, 1, h2.grpc_message(b""))
    return said((server.address.host, server.address.port), h2.HELLO + headers + body, b"grpc-message")


def test_the_right_token_is_let_in_over_grpc(guarded: TierServer) -> None:
    assert b"grpc-status\x010" in called(guarded, [(b"authorization", f"Bearer {TOKEN}".encode())])


def test_whoever_has_no_token_is_refused_before_the_message_comes(guarded: TierServer) -> None:
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers())
    part = h2.frame(h2.DATA, 0, 1, h2.grpc_message(bytes(10), claimed=10_000))
    address = (guarded.address.host, guarded.address.port)
    assert b"grpc-status\x0216" in said(address, h2.HELLO + headers + part, b"grpc-message")


@pytest.mark.parametrize("kind", HEADERS)
def test_no_token_but_the_right_one_is_let_in_over_the_websocket(guarded: TierServer, kind: str) -> None:
    assert guarded.websocket_address is not None
    lines = [b"Authorization: " + value for value in HEADERS[kind]]
    assert upgraded(guarded, lines).startswith(b"HTTP/1.1 401 ")


def test_the_right_token_is_let_in_over_the_websocket(guarded: TierServer) -> None:
    assert upgraded(guarded, [f"Authorization: Bearer {TOKEN}".encode()]).startswith(b"HTTP/1.1 101 ")


def upgraded(server: TierServer, lines: list[bytes]) -> bytes:
    """What comes back when a connection wants to be a WebSocket."""
    assert server.websocket_address is not None
    head = (
        f"GET /{server.models[0]} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    )
    data = b"\r\n".join((head.encode(), *lines)) + b"\r\n\r\n"
    return said((server.websocket_address.host, server.websocket_address.port), data, b"\r\n\r\n")
