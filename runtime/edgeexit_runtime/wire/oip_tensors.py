"""Tensors of the Open Inference Protocol: descriptions on one side, raw contents on the other.

Names, counts, data types and sizes are checked in Python's integers before NumPy sees anything; arrays are
then views of the bytes that came. Stubs are those of `tritonclient`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import MissingPartError, UsageError
from edgeexit.tensors import MAX_RANK
from edgeexit_runtime.protobuf import WireError as NoMessageError
from edgeexit_runtime.protobuf import fields
from edgeexit_runtime.wire.limits import MAX_NAME_CHARS, Limits
from edgeexit_runtime.wire.messages import WireError

try:
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2
except ImportError as error:
    raise MissingPartError.package("handing samples on to another tier", "edgeexit-runtime[tiers]") from error

__all__ = ["DATATYPES", "DTYPES", "arrays_of", "check_text", "fill", "parsed", "service_pb2"]

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""The protocol's data types. Raw contents are little-endian."""

_ON_THE_WIRE = {
    datatype: np.dtype(np.uint8) if datatype == "BOOL" else dtype.newbyteorder("<")
    for datatype, dtype in DTYPES.items()
}

DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

_HEADER_BYTES = 1 << 16  # of a message without its raw contents: they cost many times their bytes once parsed
_FIELDS_PER_TENSOR = 4


def parsed(data: bytes, message: Any, limits: Limits) -> Any:
    """A message out of its bytes, whose memory is a small multiple of them.

    Empty descriptions take two bytes each on the wire and a hundred in memory, so what is not raw contents is
    measured before it is parsed.

    Args:
        data: The message's bytes.
        message: `ModelInferRequest` or `ModelInferResponse`.
        limits: Of this side.

    Raises:
        WireError: The bytes are no message, or beyond the limits.
    """
    if len(data) > limits.message_bytes:
        raise WireError("RESOURCE_EXHAUSTED", f"the message has {len(data)} bytes, more than {limits.message_bytes}")
    try:
        if len(data) > _HEADER_BYTES:
            _measure(data, message.DESCRIPTOR.fields_by_name[_RAW[message]].number, limits)
        return message.FromString(data)
    except (NoMessageError, DecodeError):
        raise WireError("INVALID_ARGUMENT", "the message cannot be parsed") from None


def fill(descriptions: Any, raw: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Describe arrays in a message, and add their bytes.

    Args:
        descriptions: The message's repeated field of names, data types and shapes.
        raw: The message's repeated field of bytes.
        arrays: By name.

    Raises:
        UsageError: An array's dtype is not the protocol's.
    """
    for name, array in arrays.items():
        datatype = DATATYPES.get(array.dtype)
        if datatype is None:
            raise UsageError("the protocol has no such data type", got=array.dtype, expected=", ".join(DTYPES))
        descriptions.add(name=name, datatype=datatype, shape=array.shape)
        raw.append(_little_endian(array).tobytes())


def arrays_of(descriptions: Any, raw: Any, limits: Limits, status: str) -> dict[str, NDArray[Any]]:
    """The arrays of a message, by name: read-only views of its raw contents, each of as many rows.

    Args:
        descriptions: The message's repeated field of names, data types and shapes.
        raw: The message's repeated field of bytes.
        limits: Of this side.
        status: What a malformed message is called: INVALID_ARGUMENT of a question, INTERNAL of a reply.

    Raises:
        WireError: `status`, or RESOURCE_EXHAUSTED beyond the limits.
    """
    if len(descriptions) > limits.tensors:
        raise WireError("RESOURCE_EXHAUSTED", f"{len(descriptions)} tensors, more than {limits.tensors}")
    if len(descriptions) != len(raw):
        raise WireError(
            status, f"{len(descriptions)} tensors and {len(raw)} raw contents; give every tensor as raw contents"
        )
    found: dict[str, NDArray[Any]] = {}
    rows = 0
    for description, content in zip(descriptions, raw, strict=True):
        name = description.name
        check_text("the name of a tensor", name, status)
        if not name or name in found:
            raise WireError(status, f"the name {name!r} is empty or given twice")
        if description.parameters or description.HasField("contents"):
            raise WireError(status, f"tensor {name!r}: neither parameters nor typed contents are taken, only raw ones")
        array = _array(name, description.datatype, tuple(description.shape), content, limits, status)
        if found and len(array) != rows:
            raise WireError(status, f"tensor {name!r} has {len(array)} rows, and others {rows}")
        found[name], rows = array, len(array)
    return found


def check_text(what: str, text: str, status: str, limit: int = MAX_NAME_CHARS) -> None:
    """Refuse text that is too long.

    Raises:
        WireError: `status`.
    """
    if len(text) > limit:
        raise WireError(status, f"{what} has {len(text)} characters, more than {limit}")


def _measure(data: bytes, raw: int, limits: Limits) -> None:
    """Refuse a message that has many fields, or large ones other than its raw contents."""
    header_bytes = 0
    for count, field in enumerate(fields(data), start=1):
        header_bytes += 0 if field.number == raw else len(field.whole)
        if count > _FIELDS_PER_TENSOR * limits.tensors or header_bytes > _HEADER_BYTES:
            raise WireError("RESOURCE_EXHAUSTED", "the message describes too much")


def _array(
    name: str, datatype: str, shape: tuple[int, ...], content: bytes, limits: Limits, status: str
) -> NDArray[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise WireError(status, f"tensor {name!r}: the data type {datatype[:20]!r} is not taken")
    if not 1 <= len(shape) <= MAX_RANK + 1 or min(shape) < 1:
        raise WireError(status, f"tensor {name!r}: 1 to {MAX_RANK + 1} axes are taken, each at least 1 long")
    if shape[0] > limits.rows:
        raise WireError("RESOURCE_EXHAUSTED", f"tensor {name!r} has {shape[0]} rows, more than {limits.rows}")
    size_bytes = prod(shape) * dtype.itemsize
    if size_bytes != len(content):
        raise WireError(status, f"tensor {name!r} should have {size_bytes} bytes, and has {len(content)}")
    array: NDArray[Any] = np.ndarray(shape, _ON_THE_WIRE[datatype], content)
    if datatype == "BOOL":
        if array.max() > 1:
            raise WireError(status, f"tensor {name!r} has a BOOL other than 0 and 1")
        array = array.view(np.bool_)
    return array if sys.byteorder == "little" else array.astype(dtype)


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("<"))


_RAW = {service_pb2.ModelInferRequest: "raw_input_contents", service_pb2.ModelInferResponse: "raw_output_contents"}
