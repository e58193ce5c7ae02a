"""The calls of the Open Inference Protocol as Ray Serve's gRPC proxies take them.

Ray calls one of the two functions here in each of its proxies, and puts its own way to the replicas in the place
of every handler that it gets. The handlers here go around that way: they leave messages as bytes, since those of
tritonclient's stubs cannot be pickled; they tell the replica how much time the client left, which Ray does not; they
refuse clients of other machines, since Ray's proxies listen to the whole network; and where Ray itself fails, they
give the client a status that says whether to try again, and no more than that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from math import isfinite
from typing import Any
from urllib.parse import unquote

from edgeexit.errors import MissingPartError
from edgeexit_runtime.wire.limits import DEFAULT

try:
    import grpc
    import grpc.aio
except ImportError as error:
    raise MissingPartError.package("a tier on Ray Serve", "edgeexit-runtime[ray]") from error

from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.service import SERVICE

__all__ = [
    "ANSWERED",
    "APPLICATION",
    "CALLS",
    "DEFAULT_APPLICATION",
    "TIMEOUT_S",
    "ProxiedContext",
    "add_tier_to_server",
    "add_tier_to_server_insecurely",
    "is_local",
]

CALLS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")

TIMEOUT_S = "edgeexit-timeout-s"
"""Metadata from the proxy to the replica: what is left of the deadline."""
ANSWERED = "edgeexit-answered"
"""Metadata from the replica to the proxy: the status is the replica's own."""
APPLICATION = "application"
"""Metadata from the client to Ray: which application is meant, where there are several."""
DEFAULT_APPLICATION = "edgeexit"
"""Which one it is when the client does not say."""

_Call = Callable[[bytes, Any], Awaitable[bytes]]

_OF_RAY = {
    grpc.StatusCode.CANCELLED: (grpc.StatusCode.CANCELLED, "the request was given up"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (grpc.StatusCode.DEADLINE_EXCEEDED, "the request took too long"),
    grpc.StatusCode.NOT_FOUND: (grpc.StatusCode.NOT_FOUND, "there is no such application here"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (grpc.StatusCode.RESOURCE_EXHAUSTED, "all replicas are busy"),
}
"""What to make of a status that no replica gave. Any other: the replica is gone, and the next may answer."""
_GONE = (grpc.StatusCode.UNAVAILABLE, "no replica answered")


def add_tier_to_server(servicer: object, server: Any) -> None:
    """Take calls of this machine alone.

    Args:
        servicer: Ray's; not used.
        server: Ray's.
    """
    server.add_generic_rpc_handlers((_Handlers(local_only=True),))


def add_tier_to_server_insecurely(servicer: object, server: Any) -> None:
    """Take calls of everybody who reaches the proxy, without TLS; see `add_tier_to_server`."""
    server.add_generic_rpc_handlers((_Handlers(local_only=False),))


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handlers that Ray may replace, and what goes around them."""

    def __init__(self, *, local_only: bool) -> None:
        self._local_only = local_only
        self._log = Log()
        handler = grpc.unary_unary_rpc_method_handler(_unrouted)
        self._method_handlers = {f"/{SERVICE}/{call}": handler for call in CALLS}  # Ray knows them by this name

    def service(self, handler_call_details: Any) -> Any:
        """See `grpc.GenericRpcHandler`."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        return grpc.unary_unary_rpc_method_handler(self._around(handler.unary_unary))

    def _around(self, inner: _Call) -> _Call:
        async def call(data: bytes, context: Any) -> bytes:
            if self._local_only and not is_local(context.peer()):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only clients of the same machine are taken")
            if len(data) > DEFAULT.message_bytes:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the message is larger than max")
            seen = ProxiedContext(context)
            try:
                answer = await inner(data, seen)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                self._log.failure("ray", error)
                await context.abort(*_GONE)
            return answer if seen.finish() else b""

        return call


class ProxiedContext:
    """A call's context as Ray's proxy is to see it. What it says of the status is kept until `finish`.

    Args:
        context: grpc's.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._code: Any = None
        self._details = ""
        self._answered = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, Any]]:
        """The client's, with the application and with what is left of the deadline."""
        found = [(key, value) for key, value in self._context.invocation_metadata() or () if key != TIMEOUT_S]
        if all(key != APPLICATION for key, _ in found):
            found.append((APPLICATION, DEFAULT_APPLICATION))
        left_s = self._context.time_remaining()
        return found if left_s is None or not isfinite(left_s) else [*found, (TIMEOUT_S, f"{left_s:.6f}")]

    def trailing_metadata(self) -> tuple[()]:
        """None so far."""
        return ()

    def code(self) -> Any:
        """What `set_code` was told last."""
        return self._code

    def details(self) -> str:
        """What `set_details` was told last."""
        return self._details

    def set_code(self, code: Any) -> None:
        """Take a status of Ray's or of the replica's."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Take what it says."""
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Note whether the replica answered; nothing of it goes to the client."""
        self._answered |= any(key == ANSWERED for key, _ in trailing_metadata)

    def finish(self) -> bool:
        """Give the status to the client; True if it is OK."""
        if self._code in (None, 0, grpc.StatusCode.OK):
            return True
        code, details = (self._code, self._details) if self._answered else _OF_RAY.get(self._code, _GONE)
        self._context.set_code(code)
        self._context.set_details(details)
        return False


def is_local(peer: str) -> bool:
    """Whether a peer, as grpc names it, is on this machine."""
    kind, _, address = unquote(peer).partition(":")
    if kind == "unix":
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (found if mapped is None else mapped).is_loopback


async def _unrouted(data: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server is not Ray Serve")
    return b""
