"""Samples that are nonsense in a message that is whole: numbers, precisions, scales, the policy's state."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np

from edgeexit.payload import OFFSET, SCALE, STATE, pack_all
from edgeexit_runtime.wire.oip_tensors import DATATYPES, fill
from hostile.honest import Honest

__all__ = ["NUMBERS", "PAYLOADS", "Mutation"]

Mutation = Callable[[Any, Random, Honest], None]
"""Changes a `ModelInferRequest` in place."""

NUMBERS = (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-45, -0.0)


def _numbers(request: Any, random: Random, honest: Honest) -> None:
    """NaN, infinities and the like into the payload."""
    for place, (tensor, content) in enumerate(zip(request.inputs, request.raw_input_contents, strict=False)):
        code = {"FP32": "<f", "FP16": "<e", "FP64": "<d"}.get(tensor.datatype)
        if code is not None and len(content) >= 16:
            size, found = struct.calcsize(code), bytearray(content)
            for _ in range(random.choice((1, 5, 100))):
                at = random.randrange(len(found) // size) * size
                value = random.choice(NUMBERS if code != "<e" else NUMBERS[:3])
                found[at : at + size] = struct.pack(code, value)
            request.raw_input_contents[place] = bytes(found)


def _noise(request: Any, random: Random, honest: Honest) -> None:
    """Any bytes for a payload: numbers of every kind."""
    contents = request.raw_input_contents
    if contents:
        place = random.randrange(len(contents))
        contents[place] = random.randbytes(min(1 << 20, len(contents[place])))


def _refilled(request: Any, arrays: Mapping[str, Any]) -> None:
    del request.inputs[:], request.raw_input_contents[:]
    fill(request.inputs, request.raw_input_contents, arrays)


def _half(request: Any, random: Random, honest: Honest) -> None:
    _refilled(request, pack_all(honest.arrays, "fp16"))


def _quantised(request: Any, random: Random, honest: Honest) -> None:
    """Eight-bit payloads whose scales and offsets are nonsense: values, types, shapes."""
    arrays = pack_all(honest.arrays, "uint8")
    names = [name for name in arrays if name.endswith((SCALE, OFFSET))]
    if names:
        name = random.choice(names)
        part = arrays[name]
        arrays[name] = random.choice(
            (
                lambda: np.full_like(part, random.choice((*NUMBERS, -1.0, 1e38, 0.0))),
                lambda: -part,
                lambda: part.astype(random.choice((np.float16, np.float64, np.int32))),
                lambda: np.repeat(part, 2, axis=1),
                lambda: part[:, :0] if random.random() < 0.2 else part[:, 0],
                lambda: part,
            )
        )()
        if random.random() < 0.2:
            del arrays[name]
    _refilled(request, arrays)


def _state(request: Any, random: Random, honest: Honest) -> None:
    """What the policy remembers, of another kind, missing, or where none belongs."""
    arrays = dict(honest.arrays)
    names = [name for name in arrays if name.startswith(STATE)]
    n = len(next(iter(arrays.values())))
    if not names or random.random() < 0.2:
        arrays[f"{STATE}{random.choice((0, 1, 7))}"] = np.full((n, 10), np.nan, np.float32)
    else:
        name = random.choice(names)
        part = arrays.pop(name)
        if random.random() < 0.8:
            dtype = random.choice((np.float16, np.float64, np.uint8, np.int64, part.dtype.type))
            with np.errstate(all="ignore"):
                arrays[name] = np.full(part.shape, random.choice((*NUMBERS, -1, 10**9)), np.float64).astype(dtype)
    _refilled(request, {name: array for name, array in arrays.items() if array.dtype in DATATYPES})


def _rows(request: Any, random: Random, honest: Honest) -> None:
    """More samples, the same bytes again and again; or one tensor has more of them than the others."""
    times = random.choice((2, 5, 70))
    arrays = {name: np.repeat(array, times, axis=0) for name, array in honest.arrays.items()}
    if sum(array.nbytes for array in arrays.values()) > 1 << 21:
        return
    if random.random() < 0.3:
        name = random.choice(list(arrays))
        arrays[name] = arrays[name][:-1]
    _refilled(request, arrays)


PAYLOADS: tuple[Mutation, ...] = (_numbers, _noise, _half, _quantised, _state, _rows)
