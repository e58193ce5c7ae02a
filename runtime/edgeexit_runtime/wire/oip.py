"""Questions and replies as messages of the Open Inference Protocol v2."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.manifest import TensorSpec
from edgeexit.payload import unpack_all
from edgeexit_runtime.wire.limits import DEFAULT, MAX_TEXT_CHARS, Limits
from edgeexit_runtime.wire.messages import Question, Reply, WireError
from edgeexit_runtime.wire.oip_checksum import CHECKSUM, check_signed, sign
from edgeexit_runtime.wire.oip_metadata import LOGITS, OUTPUTS, VERSION, metadata, read_metadata
from edgeexit_runtime.wire.oip_tensors import arrays_of, check_text, fill, parsed, service_pb2

__all__ = [
    "LOGITS",
    "OUTPUTS",
    "VERSION",
    "TailLookup",
    "decode_question",
    "decode_reply",
    "encode_question",
    "encode_reply",
    "metadata",
    "parse_question",
    "parse_reply",
    "read_metadata",
]

TailLookup = Callable[[str], "Sequence[TensorSpec] | None"]
"""What the tail of that name takes, as `Tail.takes` says; None where there is no such tail."""

_MALFORMED_REPLY = "INTERNAL"
_REASON_CHARS = 500
_TIER = "tier"
_ALL = tuple(OUTPUTS)
_DTYPES = {
    "label": np.dtype(np.int64),
    "probability": np.dtype(np.float32),
    "exit": np.dtype(np.int64),
    "score": np.dtype(np.float32),
    "degraded": np.dtype(np.bool_),
}


def encode_question(question: Question) -> Any:
    """A question as a `ModelInferRequest`. How long it may take is the call's deadline, not in the message.

    Raises:
        UsageError: An array's dtype is not the protocol's.
    """
    request = service_pb2.ModelInferRequest(model_name=question.model, id=question.request_id)
    fill(request.inputs, request.raw_input_contents, question.arrays)
    for name in question.outputs or ((LOGITS,) if question.wants_logits else ()):
        request.outputs.add(name=name)
    sign(request)
    return request


def parse_question(data: bytes, limits: Limits = DEFAULT) -> Any:
    """A `ModelInferRequest` out of its bytes, so that hostile ones take no more memory than honest ones.

    Raises:
        WireError: The bytes are no such message, or beyond the limits.
    """
    return parsed(data, service_pb2.ModelInferRequest, limits)


def decode_question(
    request: Any,
    tail_lookup: TailLookup,
    *,
    timeout_s: float | None = None,
    limits: Limits = DEFAULT,
    outputs: Collection[str] = tuple(OUTPUTS),
) -> Question:
    """The question in a `ModelInferRequest`, complete and fit for its tail.

    Args:
        request: The message.
        tail_lookup: What a tail takes, by its name.
        timeout_s: What is left of the call's deadline; None for no deadline.
        limits: Of this side. Restored to their own types, the tensors have to fit `message_bytes` too.
        outputs: What may be asked for.

    Returns:
        The arrays are by the names and in the dtypes of the tail: rounded ones are restored.

    Raises:
        WireError: NOT_FOUND without such a tail; RESOURCE_EXHAUSTED beyond the limits; otherwise INVALID_ARGUMENT.
    """
    check_text("the request's id", request.id, "INVALID_ARGUMENT")
    specs = tail_lookup(request.model_name)
    if specs is None:
        raise WireError("NOT_FOUND", f"there is no model {request.model_name[:100]!r} here")
    if request.model_version not in ("", VERSION):
        raise WireError("NOT_FOUND", f"there is no version {request.model_version[:20]!r} here, only {VERSION}")
    if set(request.parameters) - {CHECKSUM}:
        raise WireError("INVALID_ARGUMENT", f"parameters of a request are not taken, other than {CHECKSUM}")
    asked = _asked(request.outputs, outputs)
    arrays = arrays_of(request.inputs, request.raw_input_contents, limits, "INVALID_ARGUMENT")
    question = Question(request.model_name, request.id, arrays, timeout_s, LOGITS in asked, asked)
    size_bytes = question.rows * sum(spec.size_bytes for spec in specs)
    if size_bytes > limits.message_bytes:
        raise WireError("RESOURCE_EXHAUSTED", f"the tensors take {size_bytes} bytes, more than {limits.message_bytes}")
    try:
        restored = unpack_all(arrays, specs)
    except DataError as error:
        raise WireError("INVALID_ARGUMENT", " ".join(str(error).split())) from None
    if CHECKSUM in request.parameters:
        check_signed(request)
    return Question(question.model, question.request_id, restored, timeout_s, question.wants_logits, asked)


def encode_reply(reply: Reply, *, model: str, request_id: str = "", outputs: Sequence[str] = ()) -> Any:
    """A reply as a `ModelInferResponse`.

    Args:
        reply: The answer. Its tiers' names have no comma.
        model: The question's.
        request_id: The question's.
        outputs: Which were asked for; empty for all that there are: the logits where the reply has them, else
            `OUTPUTS`.
    """
    response = service_pb2.ModelInferResponse(model_name=model, model_version=VERSION, id=request_id)
    names = outputs or (_ALL if reply.logits is None else (LOGITS,))
    fill(response.outputs, response.raw_output_contents, {name: getattr(reply, name) for name in names})
    parameters = response.parameters
    tiers = reply.tier[:1] if len(set(reply.tier)) == 1 else reply.tier
    parameters["tier"].string_param = ",".join(tiers)
    parameters["server_ms"].double_param = reply.server_ms
    if reply.reason is not None:
        parameters["reason"].string_param = reply.reason[:_REASON_CHARS]
    if reply.rows == 1 and reply.logits is None:
        parameters["exit"].int64_param = int(reply.exit[0])
        parameters["score"].double_param = float(reply.score[0])
    sign(response)
    return response


def parse_reply(data: bytes, limits: Limits = DEFAULT) -> Any:
    """A `ModelInferResponse` out of its bytes; see `parse_question`."""
    return parsed(data, service_pb2.ModelInferResponse, limits)


def decode_reply(
    response: Any, *, request_id: str | None = None, model: str | None = None, limits: Limits = DEFAULT
) -> Reply:
    """The reply in a `ModelInferResponse`. Its form is checked, and not yet whether it fits the question.

    Args:
        response: The message.
        request_id: The question's; None to take any.
        model: The question's; None to take any.
        limits: Of this side.

    Raises:
        WireError: INTERNAL, or RESOURCE_EXHAUSTED beyond the limits.
    """
    if request_id is not None and response.id != request_id:
        raise WireError(_MALFORMED_REPLY, "the reply is to another request")
    if model is not None and response.model_name != model:
        raise WireError(_MALFORMED_REPLY, "the reply is of another model")
    arrays = arrays_of(response.outputs, response.raw_output_contents, limits, _MALFORMED_REPLY)
    server_ms = _server_ms(response)
    if arrays.keys() == {LOGITS}:
        logits = arrays[LOGITS]
        if logits.dtype != np.float32 or logits.ndim != 3:
            raise WireError(_MALFORMED_REPLY, "the logits are not FP32 of three axes")
        reply = Reply.of_logits(logits, tier=_tiers(response, 1)[0], server_ms=server_ms)
    else:
        _check_outputs(arrays)
        tiers = _tiers(response, len(arrays["label"]))
        reply = Reply(**arrays, tier=tiers, reason=_text(response, "reason"), server_ms=server_ms)
    if CHECKSUM in response.parameters or _TIER in response.parameters:  # a tier of ours always sends one
        check_signed(response)
    return reply


def _asked(requested: Any, outputs: Collection[str]) -> tuple[str, ...]:
    if len(requested) > len(outputs):
        raise WireError("INVALID_ARGUMENT", f"{len(requested)} outputs asked for; there are {len(outputs)}")
    for output in requested:
        if output.name not in outputs or output.parameters:
            raise WireError(
                "INVALID_ARGUMENT",
                f"output {output.name[:50]!r}: without parameters there are {', '.join(outputs)}",
            )
    return tuple(dict.fromkeys(output.name for output in requested))


def _check_outputs(arrays: dict[str, NDArray[Any]]) -> None:
    if arrays.keys() != OUTPUTS.keys():
        raise WireError(_MALFORMED_REPLY, f"the outputs are {', '.join(arrays)}, not {', '.join(OUTPUTS)}")
    for name, dtype in _DTYPES.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise WireError(_MALFORMED_REPLY, f"output {name} is not {OUTPUTS[name]} of one axis")


def _tiers(response: Any, rows: int) -> tuple[str, ...]:
    text = _text(response, "tier")
    names = ("upstream",) if text is None else tuple(text.split(","))
    if len(names) not in (1, rows) or "" in names:
        raise WireError(_MALFORMED_REPLY, f"{len(names)} names of tiers for {rows} rows")
    return names if len(names) == rows else names * rows


def _text(response: Any, name: str) -> str | None:
    if name not in response.parameters:
        return None
    text: str = response.parameters[name].string_param
    check_text(f"the parameter {name}", text, _MALFORMED_REPLY, MAX_TEXT_CHARS)
    return text


def _server_ms(response: Any) -> float:
    """The parameter `server_ms`, as a number or as text; 0 where there is none."""
    if "server_ms" not in response.parameters:
        return 0.0
    parameter = response.parameters["server_ms"]
    kind = parameter.WhichOneof("parameter_choice")
    try:
        value = float(getattr(parameter, kind)) if kind else 0.0
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value >= 0):
        raise WireError(_MALFORMED_REPLY, "the parameter server_ms is no time")
    return value
