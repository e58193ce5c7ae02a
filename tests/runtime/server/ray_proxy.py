"""As much of Ray Serve's gRPC proxy as a tier meets, and calls to it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import grpc.aio
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.tails import model_name, tail_name
from edgeexit_runtime.wire.messages import Question
from edgeexit_runtime.wire.oip import encode_question

SAFETY_S = 20.0


class Carried:
    """A call's context as Ray carries it to a replica and back: copies, and nothing of the deadline."""

    def __init__(self, context: Any) -> None:
        self._metadata = list(context.invocation_metadata())
        self._code: Any = None
        self._details = ""
        self._trailing: list[tuple[str, str]] = [("request_id", "1")]

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._metadata

    def set_code(self, code: Any) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self._trailing += metadata

    def put_on(self, context: Any) -> None:
        if self._code:
            context.set_code(self._code)
        if self._details:
            context.set_details(self._details)
        context.set_trailing_metadata(self._trailing)


Replica = Callable[[str, bytes, Carried], Any]
"""Answers a call: its name, its message, its context."""


class RaysProxy:
    """Puts its own way to a replica in the place of every handler, as Ray's proxies do.

    Args:
        server: grpc's.
        replica: Where the calls go.

    Attributes:
        server: As given.
    """

    def __init__(self, server: Any, replica: Replica) -> None:
        self.server = server
        self._replica = replica

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        (handler,) = handlers
        handler._method_handlers = {
            method: found._replace(response_serializer=None, unary_unary=self._routed(method))
            for method, found in handler._method_handlers.items()
        }
        self.server.add_generic_rpc_handlers(handlers)

    def _routed(self, method: str) -> Any:
        call = method.rpartition("/")[2]

        async def unary_unary(request: bytes, context: Any) -> bytes:
            carried = Carried(context)
            answer, code, details = b"", grpc.StatusCode.OK, ""
            try:
                message = await self._replica(call, pickle.loads(pickle.dumps(request)), carried)
                carried.put_on(context)
                answer = message.SerializeToString()
            except RaysError as error:
                code, details = error.code, str(error)
            if not context.code():
                context.set_code(code)
            if not context.details():
                context.set_details(details)
            return answer

        return unary_unary


class RaysError(Exception):
    """Ray could not bring a call to a replica or back."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        super().__init__(message)


@contextmanager
def proxied(add: Callable[[object, Any], None], replica: Replica) -> Iterator[str]:
    """A proxy with the handlers of an ingress, in a thread of its own; its HOST:PORT."""
    ready = Event()
    found: list[Any] = []

    async def run() -> None:
        stop, server = asyncio.Event(), grpc.aio.server()
        add(None, RaysProxy(server, replica))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        found.extend((f"127.0.0.1:{port}", asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await server.stop(0)

    thread = Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(SAFETY_S)
    address, loop, stop = found
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SAFETY_S)
    assert not thread.is_alive()


def infer_request(bundle: Path, batch: NDArray[Any], model: str | None = None) -> Any:
    name = Bundle.open(bundle).manifest.inputs[0].name
    return encode_question(Question(model or tail_of(bundle, 0), "7", {name: batch}, None))


def tail_of(bundle: Path, k: int) -> str:
    return tail_name(model_name(Bundle.open(bundle).manifest), k)


def bare_call(address: str, data: bytes, *, timeout_s: float | None = SAFETY_S, metadata: Any = None) -> Any:
    """One call with nothing but grpcio: the answer, and the call itself."""
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return infer.with_call(data, timeout=timeout_s, metadata=metadata)


def refused(address: str, data: bytes = b"") -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        bare_call(address, data)
    return caught.value
