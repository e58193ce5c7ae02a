"""gRPC servers to test the transport with: the protocol's own stubs, on a loopback port that the system chooses."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from edgeexit_runtime.wire.oip import decode_question, encode_reply, metadata
from runtime.offload.upstreams import boundary, reply_to

T = TypeVar("T")

Infer = Callable[[Any, Any], "Awaitable[Any]"]


def specs(width: int = 4) -> Any:
    from edgeexit.manifest import TensorSpec

    return (TensorSpec(name="h", dtype="float32", shape=(width,)),)


async def answered(request: Any, context: Any, *, model: str | None = None, request_id: str | None = None) -> Any:
    """The right answer, unless it shall be of another model or to another request."""
    question = decode_question(request, lambda name: specs(request.inputs[0].shape[1]))
    return encode_reply(reply_to(question), model=model or request.model_name, request_id=request_id or request.id)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with a coroutine function of request and context."""

    def __init__(self, infer: Infer = answered) -> None:
        self.infer = infer
        self.peers: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.remaining_s: list[float] = []

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.peers.add(context.peer())
        self.headers.append({key: value for key, value in context.invocation_metadata()})
        self.remaining_s.append(context.time_remaining())
        return await self.infer(request, context)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if "__from_" not in request.name:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return metadata(request.name, specs(len(boundary()["h"][0])))


@asynccontextmanager
async def serving(servicer: Servicer, credentials: Any = None, port: int = 0, **options: Any) -> AsyncIterator[int]:
    """The port of a server that runs as long as the context."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options.items()])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{port}"
    found = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield found
    finally:
        await server.stop(0)


def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop of its own; the time is a safety net."""
    return asyncio.run(asyncio.wait_for(work, seconds))


@dataclass(frozen=True)
class Identity:
    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "test authority") -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        ca = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(self._name, self._key.public_key()).add_extension(ca, critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self._certificate.public_bytes(Encoding.PEM)

    def identity(self, name: str = "localhost") -> Identity:
        """A certificate for this machine."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = self._builder(subject, key.public_key()).add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(certificate.public_bytes(Encoding.PEM), private)

    def _builder(self, subject: Any, public_key: Any) -> Any:
        from cryptography import x509

        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
