"""Payloads: boundary tensors as they travel between tiers, in fewer bits where that is asked for.

A tensor travels as one array, or as three where it is quantised: the values and, under the same name with
`SCALE` and `OFFSET` behind it, what they are multiplied by and counted from. Only floating-point tensors are
rounded; pictures, token ids and the policy's state stay what they are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import TensorSpec

__all__ = [
    "MAX_CHANGED",
    "OFFSET",
    "PRECISIONS",
    "SCALE",
    "STATE",
    "pack",
    "pack_all",
    "packed_bytes",
    "packed_specs",
    "unpack",
    "unpack_all",
]

PRECISIONS = ("fp32", "fp16", "uint8")
"""From exact to small. `fp32` stands for the tensor's own type, whatever it is."""

MAX_CHANGED = 0.002
"""Of the samples, the share whose answer rounding may have changed at export, where nobody says which precision."""

SCALE = ".scale"
OFFSET = ".offset"
STATE = "policy.state."
"""What the names of the policy's state begin with. It is never rounded."""

_LARGEST_HALF = float(np.finfo(np.float16).max)
_LEVELS = 255
_SMALLEST_SPAN = 1e-30  # below it a channel counts as constant: 255 / span must stay finite


def pack(array: NDArray[Any], precision: str) -> dict[str, NDArray[Any]]:
    """A tensor of n samples as it travels.

    With `uint8`, value = offset + scale · q, where offset is the smallest value of the sample's channel and
    scale a 255th of its range, 0 where that is below 1e-30. Channels are axis 1; where no axis follows them, a
    sample is one channel.

    Args:
        array: (n, …), n ≥ 1. It is not copied where it stays what it is.
        precision: One of `PRECISIONS`. Beyond ±65504, `fp16` gives ±65504.

    Returns:
        Arrays by the suffix of their names. `""`: (n, …). With `uint8` also `SCALE` and `OFFSET`, float32 (n, C).

    Raises:
        UsageError: There is no such precision.
        DataError: `uint8` is asked of values that are not finite, or whose range is beyond float32.
    """
    if precision not in PRECISIONS:
        raise UsageError("there is no such precision of payloads", got=precision, expected=", ".join(PRECISIONS))
    if precision == "fp32" or array.dtype.kind != "f":
        return {"": array}
    if precision == "uint8":
        return _quantised(array)
    if array.dtype == np.float16:
        return {"": array}
    return {"": np.clip(array, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)}


def unpack(parts: Mapping[str, NDArray[Any]], spec: TensorSpec) -> NDArray[Any]:
    """A tensor as its segment takes it.

    Args:
        parts: What `pack` returned, by suffix, in any of the precisions.
        spec: The tensor's name, dtype and shape.

    Returns:
        (n, *spec.shape) of `spec.dtype`. It is the array given where nothing was rounded.

    Raises:
        DataError: A part is missing or not of `spec`, or its dtype or shape does not fit.
    """
    main = parts.get("")
    if main is None:
        raise DataError(f"the tensor {spec.name} is missing", got=", ".join(parts) or "nothing")
    dtype = np.dtype(spec.dtype)
    if main.ndim != len(spec.shape) + 1 or main.shape[1:] != spec.shape:
        raise _misfit(spec.name, main, spec.dtype, spec.shape)
    if main.dtype == np.uint8 and dtype.kind == "f":
        return _restored(main, parts, spec).astype(dtype, copy=False)
    if len(parts) > 1:
        raise DataError(f"the tensor {spec.name} is not quantised, but comes with a scale", got=", ".join(parts))
    if main.dtype == dtype:
        return main
    if main.dtype != np.float16 or dtype.kind != "f":
        raise _misfit(spec.name, main, spec.dtype, spec.shape)
    return _widened(main).astype(dtype, copy=False)


def pack_all(arrays: Mapping[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    """Tensors by name as they travel, by the names they travel under; the policy's state as it is.

    Raises:
        UsageError, DataError: As for `pack`; or two tensors would travel under one name.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        for suffix, part in pack(array, "fp32" if name.startswith(STATE) else precision).items():
            if name + suffix in found or (suffix and name + suffix in arrays):
                raise DataError("two tensors of the payload have one name", got=name + suffix)
            found[name + suffix] = part
    return found


def unpack_all(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Tensors by name as the segment takes them: what `pack_all` packed.

    Args:
        arrays: By the names that they travelled under, all of n samples.
        specs: What the segment takes.

    Raises:
        DataError: As for `unpack`; or a name belongs to no tensor, or tensors differ in their samples.
    """
    found, used, rows = {}, 0, None
    for spec in specs:
        parts = _parts(arrays, spec)
        tensor = unpack(parts, spec)
        if rows is not None and len(tensor) != rows:
            raise DataError(f"the tensor {spec.name} has other samples", got=len(tensor), expected=rows)
        rows = len(tensor)
        used += len(parts)
        found[spec.name] = tensor
    if used != len(arrays):
        raise DataError("a tensor was not asked for", got=sorted(arrays), expected=[spec.name for spec in specs])
    return found


def packed_specs(spec: TensorSpec, precision: str) -> tuple[TensorSpec, ...]:
    """The arrays that a tensor travels as."""
    dtype = np.dtype(spec.dtype)
    if precision == "fp32" or dtype.kind != "f" or spec.name.startswith(STATE):
        return (spec,)
    if precision == "fp16":
        return (TensorSpec(name=spec.name, dtype="float16", shape=spec.shape),)
    per_channel = (_channels(spec.shape),)
    return (
        TensorSpec(name=spec.name, dtype="uint8", shape=spec.shape),
        TensorSpec(name=spec.name + SCALE, dtype="float32", shape=per_channel),
        TensorSpec(name=spec.name + OFFSET, dtype="float32", shape=per_channel),
    )


def packed_bytes(spec: TensorSpec, precision: str) -> int:
    """Bytes of one sample of a tensor as it travels, without compression."""
    return sum(part.size_bytes for part in packed_specs(spec, precision))


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 and prod(shape[1:]) > 1 else 1


def _quantised(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    channels = _channels(array.shape[1:])
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(len(array), channels, -1)
    offset = values.min(axis=2, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        span = values.max(axis=2, keepdims=True) - offset
    if not np.isfinite(span).all():  # also where a value is NaN or infinite
        raise DataError("a tensor with such values cannot be quantised", got="NaN, infinity or a range beyond float32")
    constant = span < _SMALLEST_SPAN
    scale = np.where(constant, np.float32(0), span / np.float32(_LEVELS))
    steps = np.where(constant, np.float32(0), np.float32(_LEVELS) / np.where(constant, np.float32(1), span))
    levels = values - offset
    levels *= steps
    np.rint(levels, out=levels)
    np.minimum(levels, np.float32(_LEVELS), out=levels)
    return {
        "": levels.astype(np.uint8).reshape(array.shape),
        SCALE: scale.reshape(len(array), channels),
        OFFSET: offset.reshape(len(array), channels),
    }


def _restored(levels: NDArray[Any], parts: Mapping[str, NDArray[Any]], spec: TensorSpec) -> NDArray[np.float32]:
    if parts.keys() != {"", SCALE, OFFSET}:
        raise DataError(
            f"the tensor {spec.name} is quantised, and needs its scale and offset", got=", ".join(sorted(parts))
        )
    scale, offset = parts[SCALE], parts[OFFSET]
    channels = _channels(spec.shape)
    for suffix, part in ((SCALE, scale), (OFFSET, offset)):
        if part.dtype != np.float32 or part.shape != (len(levels), channels):
            raise _misfit(spec.name + suffix, part, "float32", (channels,))
        if not np.isfinite(part).all():
            raise DataError(f"the tensor {spec.name + suffix} is not finite")
    values = levels.reshape(len(levels), channels, -1).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values *= scale[:, :, None]
        values += offset[:, :, None]
    return values.reshape(levels.shape)


@functools.cache
def _halves() -> NDArray[np.float32]:
    """The value of each of the 65,536 halves."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _widened(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Looked up: NumPy converts halves one at a time on x86-64, which takes eight times as long."""
    return _halves().take(np.ascontiguousarray(halves).view(np.uint16), mode="clip")


def _parts(arrays: Mapping[str, NDArray[Any]], spec: TensorSpec) -> dict[str, NDArray[Any]]:
    """What travelled of a tensor, by suffix."""
    main = arrays.get(spec.name)
    if main is None:
        return {}
    if main.dtype != np.uint8 or np.dtype(spec.dtype).kind != "f" or spec.name.startswith(STATE):
        if spec.name.startswith(STATE) and main.dtype != spec.dtype:
            raise _misfit(spec.name, main, spec.dtype, spec.shape)
        return {"": main}
    names = {suffix: spec.name + suffix for suffix in ("", SCALE, OFFSET)}
    return {suffix: arrays[name] for suffix, name in names.items() if name in arrays}


def _misfit(name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"the tensor {name} has the wrong type or shape",
        got=f"{array.dtype} {list(array.shape)}",
        expected=f"{dtype} {['n', *shape]}",
    )
