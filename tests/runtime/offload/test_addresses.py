from __future__ import annotations

import pytest

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.addresses import Address, Tls


@pytest.mark.parametrize(
    ("url", "target", "secure", "loopback"),
    [
        ("grpc://127.0.0.1:8001", "127.0.0.1:8001", False, True),
        ("grpc://localhost:8001/", "localhost:8001", False, True),
        ("grpcs://gateway.local:443", "gateway.local:443", True, False),
        ("grpc://[::1]:8001", "[::1]:8001", False, True),
        ("grpc://10.0.0.1:1", "10.0.0.1:1", False, False),
    ],
)
def test_an_address_is_a_host_and_a_port(url: str, target: str, secure: bool, loopback: bool) -> None:
    address = Address.parse(url)
    assert (address.target, address.secure, address.loopback) == (target, secure, loopback)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8001",
        "http://localhost:8001",
        "grpc://localhost",
        "grpc://:8001",
        "grpc://host:70000",
        "grpc://user@host:1",
        "grpc://host:1/path",
        "grpc://host:1?x=1",
        "grpc://[::1:8001",
        "",
    ],
)
def test_anything_else_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        Address.parse(url)


def test_a_certificate_without_its_key_is_refused_and_neither_is_printed() -> None:
    with pytest.raises(UsageError):
        Tls(certificate=b"pem")
    assert "pem" not in repr(Tls(b"pem", b"pem", b"pem"))
