"""A spooled sample as a file.

MAGIC, the SHA-256 of what follows (64 hexadecimal digits), and safetensors: the sample's input tensors under
`input.NAME`, each with a batch axis of 1, and `note`, uint8, a JSON document of the fields of `Note`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.digest import sha256
from edgeexit.errors import BundleError
from edgeexit.tensors import load_tensors, save_tensors

__all__ = ["MAGIC", "Note", "Spooled", "decode", "encode"]

MAGIC = b"edgeexit-spool-1\n"

_INPUT = "input."
_NOTE = "note"
_DIGEST_END = len(MAGIC) + 64


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a sample that was not answered upstream."""

    name: str  # of the input: a file's name or a row of an archive
    reason: str  # why it was not answered upstream
    label: int  # the local answer, a class index
    probability: float  # of that label
    exit: int  # index of the exit that gave it
    unix_s: float  # when, in seconds since 1970


@dataclass(frozen=True, eq=False)
class Spooled:
    """A sample out of the spool; `arrays` are (1, …) by the names of the model's inputs."""

    number: int
    arrays: Mapping[str, NDArray[Any]]
    note: Note


def encode(arrays: Mapping[str, NDArray[Any]], note: Note) -> bytes:
    """The bytes of a sample's file.

    Raises:
        BundleError: An array cannot be stored; see `edgeexit.tensors.save_tensors`.
    """
    text = np.frombuffer(msgspec.json.encode(note), np.uint8)
    body = save_tensors({**{_INPUT + name: array for name, array in arrays.items()}, _NOTE: text})
    return MAGIC + sha256(body).encode() + body


def decode(data: bytes, number: int) -> Spooled:
    """What a file of these bytes holds. Its digest is compared before anything is parsed.

    Raises:
        BundleError: It is not as it was written.
    """
    name, body = f"sample {number}", data[_DIGEST_END:]
    if not data.startswith(MAGIC) or data[len(MAGIC) : _DIGEST_END] != sha256(body).encode():
        raise BundleError(f"{name} is damaged, or not of a spool")
    tensors = load_tensors(body, name)
    try:
        note = msgspec.json.decode(tensors.pop(_NOTE).tobytes(), type=Note)
    except (KeyError, msgspec.MsgspecError, ValueError) as error:
        raise BundleError(f"{name} has no note that can be read") from error
    arrays = {key.removeprefix(_INPUT): array for key, array in tensors.items() if key.startswith(_INPUT)}
    if not arrays or len(arrays) != len(tensors) or any(array.shape[:1] != (1,) for array in arrays.values()):
        raise BundleError(f"{name} does not hold one sample")
    return Spooled(number, arrays, note)
