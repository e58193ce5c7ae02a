"""Where a server is, and whom both sides trust."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from edgeexit.errors import UsageError

__all__ = ["Address", "Tls"]


@dataclass(frozen=True)
class Address:
    """Where a server is: `grpc://HOST:PORT`, or `grpcs://` with TLS."""

    host: str
    port: int
    secure: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL.

        Raises:
            UsageError: It is none of the two, or holds more than a host and a port.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        else:
            if parts.scheme not in ("grpc", "grpcs") or parts.path not in ("", "/") or "@" in parts.netloc:
                host = None
            if parts.query or parts.fragment:
                host = None
        if not host or not port:
            raise UsageError(
                "that is no address of a server", got=url, expected="grpc://HOST:PORT or grpcs://HOST:PORT"
            )
        return cls(host, port, parts.scheme == "grpcs")

    @property
    def target(self) -> str:
        """The address as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether it is this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class Tls:
    """Certificates, as PEM. Not printed.

    Attributes:
        ca: Whom to trust; the system's when None.
        certificate, key: This side's, for mutual TLS; both or none.
    """

    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UsageError("a certificate and its key belong together", got="one of the two")
