"""The calls of the Open Inference Protocol that a tier answers, on grpc's event loop.

A call ends with an answer or with a status of the protocol: whatever goes wrong inside is told to the log, and
to the client only that it did. Calls that are not here are UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

from edgeexit import __version__
from edgeexit.errors import MissingPartError
from edgeexit.manifest import TensorSpec
from edgeexit.tails import model_name, tail_name
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.wire.limits import DEFAULT, Limits
from edgeexit_runtime.wire.messages import WireError
from edgeexit_runtime.wire.oip import decode_question, encode_reply, metadata, parse_question

try:
    import grpc
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2
except ImportError as error:
    raise MissingPartError.package("edgeexit serve", "edgeexit-runtime[tiers]") from error

__all__ = ["SERVICE", "TierService"]

SERVICE = "inference.GRPCInferenceService"
LONGEST_S = 60.0
"""How long a request may take that comes without a deadline, or with a longer one."""

_Answer = Callable[[bytes, Any], Awaitable[bytes]]


class TierService:
    """A scheduler's tails as models of the protocol, one for each segment to begin with.

    Args:
        scheduler: Runs them.
        limits: Of a message.
        longest_s: How long a request may take, in seconds, whatever its deadline.
        log: Where failures go.
        clock: The scheduler's.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        log: Log,
        limits: Limits = DEFAULT,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        tail = scheduler.tail
        name = model_name(tail.manifest)
        self._scheduler = scheduler
        self._limits = limits
        self._longest_s = longest_s
        self._log = log
        self._clock = clock
        self._segments = {tail_name(name, k): k for k in range(tail.first, tail.last + 1)}
        self._takes = {model: tail.takes(k) for model, k in self._segments.items()}

    @property
    def segments(self) -> Mapping[str, int]:
        """The names of the tails, and the segment that each begins with."""
        return self._segments

    def handler(self) -> Any:
        """What a grpc server needs to answer the calls."""
        calls: dict[str, _Answer] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._guarded(name, answer)) for name, answer in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _guarded(self, name: str, answer: _Answer) -> _Answer:
        """An answer, or a status of the protocol."""
        requests = self._scheduler.counts.requests
        counted = name == "ModelInfer"

        async def call(data: bytes, context: Any) -> bytes:
            try:
                found = await answer(data, context)
            except WireError as error:
                status, message = error.status, error.message
            except DecodeError:
                status, message = "INVALID_ARGUMENT", "the message cannot be parsed"
            except Exception as error:
                self._log.failure(name, error)
                status, message = "INTERNAL", "the server failed on this request"
            except asyncio.CancelledError:  # the client is gone, or its deadline is over
                if counted:
                    requests["CANCELLED"] += 1
                raise
            else:
                if counted:
                    requests["OK"] += 1
                return found
            if counted:
                requests[status] += 1
            return await _aborted(context, status, message)

        return call

    async def _infer(self, data: bytes, context: Any) -> bytes:
        remaining_s = context.time_remaining()
        timeout_s = self._longest_s if remaining_s is None else min(remaining_s, self._longest_s)
        deadline_s = self._clock() + timeout_s
        self._scheduler.refuse_the_hopeless(deadline_s)
        request = parse_question(data, self._limits)
        question = decode_question(request, self._lookup, timeout_s=timeout_s, limits=self._limits)
        reply = await self._scheduler.submit(self._segments[question.model], question.arrays, deadline_s)
        response = encode_reply(reply, model=question.model, request_id=question.request_id, outputs=question.outputs)
        found: bytes = response.SerializeToString()
        return found

    async def _live(self, data: bytes, context: Any) -> bytes:
        service_pb2.ServerLiveRequest.FromString(data)
        return _bytes(service_pb2.ServerLiveResponse(live=True))

    async def _ready(self, data: bytes, context: Any) -> bytes:
        service_pb2.ServerReadyRequest.FromString(data)
        return _bytes(service_pb2.ServerReadyResponse(ready=not self._scheduler.stopping))

    async def _server_metadata(self, data: bytes, context: Any) -> bytes:
        service_pb2.ServerMetadataRequest.FromString(data)
        return _bytes(service_pb2.ServerMetadataResponse(name="edgeexit", version=__version__))

    async def _model_ready(self, data: bytes, context: Any) -> bytes:
        request = service_pb2.ModelReadyRequest.FromString(data)
        ready = request.name in self._takes and not self._scheduler.stopping
        return _bytes(service_pb2.ModelReadyResponse(ready=ready))

    async def _model_metadata(self, data: bytes, context: Any) -> bytes:
        request = service_pb2.ModelMetadataRequest.FromString(data)
        takes = self._lookup(request.name)
        if takes is None:
            raise WireError("NOT_FOUND", f"there is no model {request.name[:100]!r} here")
        return _bytes(metadata(request.name, takes))

    def _lookup(self, model: str) -> Sequence[TensorSpec] | None:
        return self._takes.get(model)


async def _aborted(context: Any, status: str, message: str) -> NoReturn:
    await context.abort(grpc.StatusCode[status], message)
    raise AssertionError("abort raises")


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
