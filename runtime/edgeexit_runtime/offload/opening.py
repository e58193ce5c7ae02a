"""Opening an upstream from a URL and the files that go with it."""

from __future__ import annotations

from pathlib import Path

from edgeexit.errors import UsageError
from edgeexit.files import read_small
from edgeexit.manifest import Manifest
from edgeexit.policies import Policy
from edgeexit_runtime.offload.addresses import Tls
from edgeexit_runtime.offload.upstream import DEFAULTS, Upstream, UpstreamSettings
from edgeexit_runtime.wire.limits import DEFAULT, Limits

__all__ = ["MAX_CREDENTIAL_BYTES", "open_upstream"]

MAX_CREDENTIAL_BYTES = 1 << 20


def open_upstream(
    url: str,
    manifest: Manifest,
    policy: Policy,
    settings: UpstreamSettings = DEFAULTS,
    *,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    token_file: str | Path | None = None,
    limits: Limits = DEFAULT,
) -> Upstream:
    """The next tier at a URL. Nothing is sent yet.

    Args:
        url: `grpc://HOST:PORT` or `grpcs://HOST:PORT`.
        manifest: The bundle's, the same as the server's.
        policy: The bundle's.
        settings: How it is asked.
        ca: A PEM file of whom to trust; the system's certificates when None.
        certificate: A PEM file of this side's certificate, for mutual TLS.
        key: A PEM file of its key.
        token_file: A file of one line, the bearer token.
        limits: Of messages.

    Raises:
        UsageError: The URL is none, a file cannot be read or used, or the files do not go with the URL.
        MissingPartError: gRPC is not installed.
    """
    from edgeexit_runtime.offload.grpc_transport import GrpcTransport

    pem = [_read(path, what) for path, what in ((ca, "certificate"), (certificate, "certificate"), (key, "key"))]
    tls = Tls(*pem) if any(part is not None for part in pem) else None
    transport = GrpcTransport(url, tls=tls, token=_token(token_file), limits=limits)
    return Upstream(transport, manifest, policy, settings)


def _token(path: str | Path | None) -> str | None:
    data = _read(path, "file of a token")
    if data is None:
        return None
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{path} holds no token", expected="one line of printable ASCII characters") from None


def _read(path: str | Path | None, what: str) -> bytes | None:
    if path is None:
        return None
    try:
        return read_small(Path(path), what, MAX_CREDENTIAL_BYTES, error=UsageError)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read", got=getattr(error, "strerror", error), expected=what) from error
