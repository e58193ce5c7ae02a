"""Addresses to listen at, and the rule that nobody listens to a network in the clear by mistake."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from edgeexit.errors import UsageError

__all__ = ["Address", "check_exposure"]


class Address(NamedTuple):
    """A host, by name or number, and a port; 0 for any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Out of HOST:PORT, or [HOST]:PORT for a host with colons.

        Raises:
            UsageError: It is neither.
        """
        host, _, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not bare or (":" in bare) != (bare != host) or not port.isascii() or not port.isdigit():
            raise UsageError("that is no address", got=text, expected="HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001")
        if int(port) > 65535:
            raise UsageError("there is no such port", got=port, expected="0 to 65535")
        return cls(bare, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_exposure(address: Address, *, tls: bool, insecure: bool, what: str = "the server") -> None:
    """Refuse to listen where others than this machine could read along.

    Raises:
        UsageError: The address is no loopback address, and there is neither TLS nor the word that this is meant.
    """
    if not (tls or insecure or address.loopback):
        raise UsageError(
            f"{what} would listen to the network without TLS",
            got=str(address),
            expected="a loopback address such as 127.0.0.1",
            remedy="--tls-cert FILE --tls-key FILE, or --insecure if the network is trusted",
        )
