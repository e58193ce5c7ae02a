"""A transport over gRPC: the Open Inference Protocol v2 on one channel, with or without TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from edgeexit.errors import MissingPartError, UsageError
from edgeexit_runtime.offload.addresses import Address, Tls
from edgeexit_runtime.offload.transport import TRANSIENT, TransportError
from edgeexit_runtime.wire.limits import DEFAULT, Limits
from edgeexit_runtime.wire.messages import ModelMetadata, Question, Reply, WireError

try:
    import grpc
    import grpc.aio
    from tritonclient.grpc import service_pb2

    from edgeexit_runtime.wire.oip import decode_reply, encode_question, parse_reply, read_metadata
except ImportError as error:
    raise MissingPartError.package("handing samples on to another tier", "edgeexit-runtime[tiers]") from error

__all__ = ["GrpcTransport"]

_SERVICE = "/inference.GRPCInferenceService/"
_RESETS = ("rst_stream", "stream removed", "connection reset", "socket closed", "goaway")
_TOO_LARGE = "larger than max"
_SILENT = 3  # as many questions in a row without a word: the connection is taken for dead
_MOST = 0.95
_LINGER_S = 10.0
_DETAIL_CHARS = 200
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),  # retries are the caller's, with a budget
    ("grpc.enable_http_proxy", 0),
)


class GrpcTransport:
    """Asks a server that speaks the Open Inference Protocol: ours, Triton, Ray Serve.

    The connection is made with the first question, on the event loop that asks it. It is made anew when several
    questions in a row heard nothing, since a dead connection may look alive for minutes.

    Args:
        url: `grpc://HOST:PORT` or `grpcs://HOST:PORT`.
        tls: Certificates, with `grpcs` only.
        token: A bearer token. It is not sent over `grpc` unless to this machine.
        limits: Of messages, both ways.

    Raises:
        UsageError: The URL is no such address, or TLS or a token does not go with it.
    """

    def __init__(self, url: str, *, tls: Tls | None = None, token: str | None = None, limits: Limits = DEFAULT) -> None:
        self.address = Address.parse(url)
        if tls is not None and not self.address.secure:
            raise UsageError("certificates go with TLS", got=url, expected=f"grpcs://{self.address.target}")
        if token is not None and not (self.address.secure or self.address.loopback):
            raise UsageError(
                "a token would cross the network in the clear", got=url, expected=f"grpcs://{self.address.target}"
            )
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise UsageError("that is no token", expected="printable ASCII characters")
        self._tls = tls or Tls()
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._limits = limits
        self._channel: grpc.aio.Channel | None = None
        self._infer: Any = None
        self._silent = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def ask(self, question: Question, timeout_s: float, *, compress: bool = False) -> Reply:
        """See `Transport.ask`."""
        request = encode_question(question)
        if request.ByteSize() > self._limits.message_bytes:
            raise TransportError(False, "INVALID_ARGUMENT", f"the question has {request.ByteSize()} bytes")
        compression = grpc.Compression.Gzip if compress else None
        self._connect()
        timeout_s = max(timeout_s, 0.0)
        call = self._infer(request, timeout=timeout_s, metadata=self._metadata, compression=compression)
        answer = await self._heard(call, timeout_s)
        try:
            response = parse_reply(answer, self._limits)
            return decode_reply(response, request_id=question.request_id, model=question.model, limits=self._limits)
        except WireError as error:
            damaged = error.status == "DATA_LOSS"
            raise TransportError(damaged, "DATA_LOSS", error.message) from None

    async def ready(self, timeout_s: float = 1.0) -> bool:
        """See `Transport.ready`."""
        try:
            response = await self._call("ServerReady", service_pb2.ServerReadyRequest(), timeout_s)
            return bool(service_pb2.ServerReadyResponse.FromString(response).ready)
        except Exception:
            return False

    async def metadata(self, model: str, timeout_s: float = 5.0) -> ModelMetadata:
        """See `Transport.metadata`."""
        response = await self._call("ModelMetadata", service_pb2.ModelMetadataRequest(name=model), timeout_s)
        try:
            return read_metadata(service_pb2.ModelMetadataResponse.FromString(response))
        except WireError as error:
            raise TransportError(False, "DATA_LOSS", error.message) from None
        except Exception:
            raise TransportError(False, "DATA_LOSS", "the metadata cannot be parsed") from None

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        for task in self._closing:
            task.cancel()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_LINGER_S)

    async def _call(self, method: str, request: Any, timeout_s: float) -> bytes:
        method_call = self._connect().unary_unary(_SERVICE + method, request_serializer=type(request).SerializeToString)
        timeout_s = max(timeout_s, 0.0)
        return await self._heard(method_call(request, timeout=timeout_s, metadata=self._metadata), timeout_s)

    async def _heard(self, call: Any, timeout_s: float) -> bytes:
        """The bytes that a call brings.

        Raises:
            TransportError: It brings none.
        """
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            answer: bytes = await call
        except grpc.RpcError as error:
            status: str = error.code().name
            self._count_silence(status == "DEADLINE_EXCEEDED")
            raise _failure(status, (error.details() or "")[:_DETAIL_CHARS]) from None
        except asyncio.CancelledError:
            if loop.time() - started_s >= _MOST * timeout_s:  # whoever asked saw the end of the time first
                self._count_silence(True)
            raise
        self._count_silence(False)
        return answer

    def _connect(self) -> grpc.aio.Channel:
        if self._closed:
            raise TransportError(False, "CANCELLED", "the transport is closed")
        if self._channel is None:
            options = [*_OPTIONS, *self._limits.grpc_options()]
            self._channel = _channel(self.address, self._tls, options)
            self._infer = self._channel.unary_unary(
                _SERVICE + "ModelInfer", request_serializer=service_pb2.ModelInferRequest.SerializeToString
            )
        return self._channel

    def _count_silence(self, silent: bool) -> None:
        self._silent = self._silent + 1 if silent else 0
        if self._silent >= _SILENT:
            self._silent = 0
            self._leave()

    def _leave(self) -> None:
        """Let the next question open a new connection; those under way may still be answered on this one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close(grace=_LINGER_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _failure(status: str, detail: str) -> TransportError:
    reset = status in ("INTERNAL", "UNKNOWN") and any(word in detail.lower() for word in _RESETS)
    if reset or status == "CANCELLED":  # not by this side: the server has more calls than it can look at
        status = "UNAVAILABLE"
    if status == "RESOURCE_EXHAUSTED" and _TOO_LARGE in detail:
        return TransportError(False, "OUT_OF_RANGE", detail)
    return TransportError(status in TRANSIENT, status, detail)


def _channel(address: Address, tls: Tls, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
    if not address.secure:
        return grpc.aio.insecure_channel(address.target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.aio.secure_channel(address.target, credentials, options=options)
