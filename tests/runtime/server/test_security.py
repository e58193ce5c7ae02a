"""Who has no certificate or token that is known gets nothing, and nobody listens in the clear by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import grpc
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from edgeexit.errors import UsageError
from edgeexit_runtime.server.addresses import Address, check_exposure
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.security import Certificates, Tokens
from edgeexit_runtime.server.serving import ServerSettings, TierServer
from runtime.server.certificates import DAY, Authority
from runtime.server.tiers import SAFETY_S, fake_tail, serving

TOKEN, ANOTHER = "correct-horse-battery", "staple-staple-staple"
LIVE = "/inference.GRPCInferenceService/ServerLive"


def live(server: TierServer, credentials: Any = None, metadata: tuple[tuple[str, str], ...] = ()) -> bool:
    """One call, on a channel of its own."""
    target, options = str(server.address), [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.insecure_channel(target, options)
        if credentials is None
        else grpc.secure_channel(target, credentials, options)
    )
    with channel:
        return bool(pb.ServerLiveResponse.FromString(channel.unary_unary(LIVE)(b"", SAFETY_S, metadata)).live)


def status(server: TierServer, credentials: Any = None, metadata: tuple[tuple[str, str], ...] = ()) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        live(server, credentials, metadata)
    name: str = caught.value.code().name  # type: ignore[attr-defined]
    return name


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TierServer]:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"# devices\n{TOKEN}\n\nsha256:{sha256(ANOTHER.encode()).hexdigest()}\n")
    with serving(fake_tail(), tokens=Tokens.read(path)) as server:
        yield server


@pytest.mark.parametrize("token", [TOKEN, ANOTHER])
def test_a_token_of_the_file_is_let_in_whether_it_stands_there_or_its_hash(guarded: TierServer, token: str) -> None:
    assert live(guarded, metadata=bearer(token))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer(""),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer(sha256(ANOTHER.encode()).hexdigest()),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
        (*bearer(TOKEN), *bearer("x" * 20)),
    ],
)
def test_whoever_has_no_known_token_is_refused_at_every_call(
    guarded: TierServer, metadata: tuple[tuple[str, str], ...]
) -> None:
    before = guarded.scheduler.counts.requests["UNAUTHENTICATED"]
    assert status(guarded, metadata=metadata) == "UNAUTHENTICATED"
    assert guarded.scheduler.counts.requests["UNAUTHENTICATED"] == before + 1


@given(header=st.one_of(st.none(), st.text(max_size=40), st.binary(max_size=40)))
def test_no_header_but_the_right_one_is_let_in(header: str | bytes | None) -> None:
    tokens = Tokens([sha256(TOKEN.encode()).digest()])
    assert not tokens.allow(header)
    assert tokens.allow(f"bearer {TOKEN}")
    assert tokens.allow(f"Bearer {TOKEN}".encode())


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "two words in a token\n", "sha256:abc\n"])
def test_a_token_file_that_would_let_in_anybody_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(UsageError):
        Tokens.read(path)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="token file"):
        Tokens.read(tmp_path / "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def tls(authority: Authority) -> Iterator[TierServer]:
    with serving(fake_tail(), certificates=Certificates(*authority.sign("server"), authority.path)) as server:
        yield server


def credentials(trusted: Path, pair: tuple[Path, Path] | None = None) -> Any:
    cert, key = (None, None) if pair is None else (path.read_bytes() for path in pair)
    return grpc.ssl_channel_credentials(trusted.read_bytes(), key, cert)


def test_a_client_with_a_certificate_of_the_authority_is_let_in(tls: TierServer, authority: Authority) -> None:
    assert live(tls, credentials(authority.path, authority.sign("client")))


def test_clients_without_a_certificate_or_with_another_or_one_that_is_over_are_refused(
    tls: TierServer, authority: Authority, folder: Path
) -> None:
    for pair in (None, Authority(folder, "stranger").sign("clientless"), authority.sign("late", lasts=-DAY)):
        assert status(tls, credentials(authority.path, pair)) == "UNAVAILABLE"
    assert status(tls) == "UNAVAILABLE"  # in the clear


def test_certificates_that_cannot_be_used_are_refused_before_anything_listens(
    authority: Authority, folder: Path
) -> None:
    (cert, key), (_, other) = authority.sign("a"), authority.sign("b")
    broken = folder / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    for certificates in (
        Certificates(cert, other),
        Certificates(folder / "none.pem", key),
        Certificates(broken, key),
        Certificates(cert, key, broken),
    ):
        with pytest.raises(UsageError, match="certificates"):
            certificates.credentials()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
        ("server.example:65535", ("server.example", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert Address.parse(text) == address
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "8001", ":8001", "host", "host:", "host:x", "host:65536", "::1:80", "[a]:1", "h:²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "server.example"])
def test_nobody_listens_to_a_network_without_tls_unless_told_to(host: str) -> None:
    address = Address(host, 8001)
    with pytest.raises(UsageError, match="without TLS"):
        check_exposure(address, tls=False, insecure=False)
    with pytest.raises(UsageError, match="metrics"):
        ServerSettings(listen=Address("127.0.0.1", 0), metrics=address)
    check_exposure(address, tls=True, insecure=False)
    assert ServerSettings(listen=address, insecure=True).open_addresses == (address,)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_own_machine_is_listened_to_freely(host: str) -> None:
    assert ServerSettings(listen=Address(host, 0)).open_addresses == ()


def test_a_second_server_at_the_same_port_is_refused(guarded: TierServer) -> None:
    second = TierServer(fake_tail(), ServerSettings(listen=guarded.address), log=Log(StringIO()))
    with pytest.raises(UsageError, match="listened at"):
        asyncio.run(second.run(asyncio.Event()))
