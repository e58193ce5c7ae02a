"""Who may ask: certificates and bearer tokens."""

from __future__ import annotations

import hmac
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgeexit.errors import MissingPartError, UsageError

try:
    import grpc
except ImportError as error:
    raise MissingPartError.package("edgeexit serve", "edgeexit-runtime[tiers]") from error

__all__ = ["Certificates", "TokenInterceptor", "Tokens"]

SHORTEST_TOKEN = 16
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")


class Tokens:
    """Bearer tokens that are let in; only their hashes are kept.

    Args:
        digests: SHA-256 of each token.
    """

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._digests = tuple(digests)

    @classmethod
    def read(cls, path: str | Path) -> Tokens:
        """Out of a file: a line a token, as it is or as `sha256:` and 64 hexadecimal digits; # begins a comment.

        Raises:
            UsageError: The file cannot be read, is empty, or has a token that is too short.
        """
        lines = [line.strip() for line in _read(path, "the token file").decode(errors="replace").splitlines()]
        tokens = [line for line in lines if line and not line.startswith("#")]
        if not tokens:
            raise UsageError(f"the token file {path} has no tokens", expected="a token a line")
        return cls([_digest(token, path) for token in tokens])

    def allow(self, header: str | bytes | None) -> bool:
        """Whether an `authorization` header holds one of the tokens. It takes as long whichever it is."""
        text = header.decode("latin-1") if isinstance(header, bytes) else header or ""
        scheme, _, token = text.partition(" ")
        given = sha256(token.strip().encode(errors="replace")).digest()
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == "bearer"


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends every call without a token before anything of it is read: strangers take no memory.

    Args:
        tokens: Those that are let in.
        refused: Called for each call that is not let in.
    """

    def __init__(self, tokens: Tokens, refused: Callable[[], None] = lambda: None) -> None:
        self._tokens = tokens
        self._refused = refused
        self._refusal = grpc.stream_unary_rpc_method_handler(self._refuse)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        headers = [value for key, value in handler_call_details.invocation_metadata or () if key == "authorization"]
        if len(headers) == 1 and self._tokens.allow(headers[0]):
            return await continuation(handler_call_details)
        return self._refusal

    async def _refuse(self, messages: Any, context: Any) -> None:
        self._refused()
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a bearer token is needed that this server knows")


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server shows, and what it asks of its clients.

    Attributes:
        cert: Path of its certificate chain, PEM.
        key: Path of its private key, PEM, not encrypted.
        client_ca: Path of the certificates that clients' are signed with; None to ask for none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For servers on Python's own sockets.

        Raises:
            UsageError: A file cannot be read, or the key is not the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(str(path) for path in (self.cert, self.key, self.client_ca) if path is not None)
            raise UsageError(
                "the certificates cannot be used", got=f"{files}: {error}", expected="PEM files, the key not encrypted"
            ) from error
        return context

    def credentials(self) -> Any:
        """For grpc.

        Raises:
            UsageError: As for `context`.
        """
        self.context()  # grpc itself says nothing of what is wrong
        authority = None if self.client_ca is None else _read(self.client_ca, "the clients' authority")
        pair = (_read(self.key, "the key"), _read(self.cert, "the certificate"))
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _digest(token: str, path: str | Path) -> bytes:
    found = _HASH.fullmatch(token)
    if found is not None:
        return bytes.fromhex(found[1])
    if len(token) < SHORTEST_TOKEN or not token.isascii() or " " in token:
        raise UsageError(
            f"a token in {path} cannot be used",
            got=f"{len(token)} characters",
            expected=f"at least {SHORTEST_TOKEN} ASCII characters without spaces, or sha256:… of such",
        )
    return sha256(token.encode()).digest()


def _read(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{what} cannot be read", got=f"{path}: {error.strerror}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")
