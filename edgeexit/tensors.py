"""Named tensors as safetensors bytes, written canonically and read with every size checked.

The layout is in `docs/bundle-format.md`. Files of ours are readable by the safetensors library;
of its format only what a bundle needs is accepted: the data types of `DTYPES`, no metadata, no
empty tensors, no holes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError

__all__ = ["DTYPES", "MAX_HEADER_BYTES", "MAX_RANK", "load_tensors", "save_tensors"]

DTYPES: dict[str, np.dtype[Any]] = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in {
        "U64": "uint64",
        "I64": "int64",
        "F64": "float64",
        "F32": "float32",
        "U32": "uint32",
        "I32": "int32",
        "F16": "float16",
        "U16": "uint16",
        "I16": "int16",
        "I8": "int8",
        "U8": "uint8",
        "BOOL": "bool",
    }.items()
}
"""Storage code → NumPy data type, in the order in which tensors are stored."""

MAX_HEADER_BYTES = 1 << 20
MAX_RANK = 8

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_CODES = {dtype.name: code for code, dtype in DTYPES.items()}
_RANKS = {code: rank for rank, code in enumerate(DTYPES)}


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def load_tensors(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Read tensors out of safetensors bytes.

    Args:
        data: The whole file. Arrays are views of it wherever their alignment allows.
        name: The file's name, for messages.

    Returns:
        Read-only arrays by name, in the order of storage.

    Raises:
        BundleError: The header is malformed, or a data type, shape or offset does not fit the bytes.
    """
    entries, start = _load_header(data, name)
    tensors = {}
    position = 0
    for tensor, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != position:
            raise BundleError(f"{name}: tensor {tensor!r} leaves a hole or overlaps", got=begin, expected=position)
        if end - begin != _size_bytes(entry, tensor, name) or end > len(data) - start:
            raise BundleError(
                f"{name}: tensor {tensor!r} does not fit its bytes",
                got=f"{entry.dtype} {list(entry.shape)} at bytes {begin} to {end} of {len(data) - start}",
            )
        tensors[tensor] = _view(data, start + begin, entry, tensor, name)
        position = end
    if position != len(data) - start:
        raise BundleError(f"{name}: bytes behind the last tensor", got=len(data) - start, expected=position)
    return tensors


def save_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Write tensors as safetensors bytes. Equal tensors give equal bytes, whatever their order.

    Raises:
        BundleError: A tensor is empty, has too many axes, or a data type that is not in `DTYPES`.
    """
    for name, array in tensors.items():
        if not name or array.dtype.name not in _CODES or array.size == 0 or array.ndim > MAX_RANK:
            raise BundleError(
                f"tensor {name!r} cannot be stored",
                got=f"{array.dtype.name} {list(array.shape)}",
                expected=f"a name, at most {MAX_RANK} axes, at least one element, and {', '.join(_CODES)}",
            )
    codes = {name: _CODES[array.dtype.name] for name, array in tensors.items()}
    header: dict[str, _Entry] = {}
    body: list[bytes] = []
    position = 0
    for name in sorted(tensors, key=lambda name: (_RANKS[codes[name]], name.encode())):
        array, code = tensors[name], codes[name]
        body.append(array.astype(DTYPES[code], copy=False).tobytes())
        end = position + len(body[-1])
        header[name] = _Entry(dtype=code, shape=array.shape, data_offsets=(position, end))
        position = end
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise BundleError("too many tensors for one file", got=f"a header of {len(text)} bytes")
    return b"".join([_LENGTH.pack(len(text)), text, *body])


def _load_header(data: bytes, name: str) -> tuple[dict[str, _Entry], int]:
    if len(data) < _LENGTH.size:
        raise BundleError(f"{name}: too short for a safetensors file", got=f"{len(data)} bytes")
    (length,) = _LENGTH.unpack_from(data)
    if length > min(MAX_HEADER_BYTES, len(data) - _LENGTH.size):
        raise BundleError(
            f"{name}: the header's length does not fit",
            got=length,
            expected=f"at most {MAX_HEADER_BYTES}, inside a file of {len(data)} bytes",
        )
    start = _LENGTH.size + length
    try:
        return msgspec.json.decode(data[_LENGTH.size : start], type=dict[str, _Entry]), start
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(f"{name}: the header cannot be read", got=error) from error


def _size_bytes(entry: _Entry, tensor: str, name: str) -> int:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise BundleError(
            f"{name}: tensor {tensor!r} has a data type that bundles do not use",
            got=entry.dtype,
            expected=", ".join(DTYPES),
        )
    if len(entry.shape) > MAX_RANK or any(axis < 1 for axis in entry.shape):
        raise BundleError(
            f"{name}: tensor {tensor!r} has an unusable shape",
            got=str(entry.shape)[:200],
            expected=f"at most {MAX_RANK} axes, each at least 1",
        )
    return math.prod(entry.shape) * dtype.itemsize


def _view(data: bytes, offset: int, entry: _Entry, tensor: str, name: str) -> NDArray[Any]:
    dtype = DTYPES[entry.dtype]
    count = math.prod(entry.shape)
    if dtype.kind == "b" and np.frombuffer(data, np.uint8, count, offset).max() > 1:
        raise BundleError(f"{name}: tensor {tensor!r} holds a truth value that is neither 0 nor 1")
    array = np.frombuffer(data, dtype, count, offset)
    if not (array.flags.aligned and dtype.isnative):
        array = array.astype(dtype.newbyteorder("="))
        array.flags.writeable = False
    return array.reshape(entry.shape)
