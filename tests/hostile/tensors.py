"""Messages for the WebSocket that are nearly safetensors."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from edgeexit.tensors import save_tensors
from hostile.flips import damaged
from hostile.honest import Honest
from hostile.marks import mark

__all__ = ["nearly"]

SHAPES: tuple[Any, ...] = (
    [10**12], [10**6, 10**6], [2**63 - 1] * 8, [-1], [0], [], [1] * 9, [1] * 5000, [2**64], [1.5], ["4"], None, {}, "x",
)  # fmt: skip
OFFSETS: tuple[Any, ...] = ([0, 0], [0, 2**62], [-5, 5], [10, 5], [0], [], None, [0, 2**64], [1, 2, 3], ["0", "1"])
DTYPES: tuple[Any, ...] = ("F32", "F16", "U8", "BOOL", "F8_E4M3", "BF16", "", "x" * 5000, None, 7)
HEADERS = (b"", b"{", b"[]", b"null", b"{}", b'{"a":1}', b"\xff" * 40, b"[" * 100_000, b'{"__metadata__":{"a":"b"}}')


def nearly(honest: Honest, random: Random) -> tuple[str, bytes | str]:
    """A message of a kind, and the kind's name."""
    data = save_tensors(honest.arrays)
    kind = random.choice(("damaged", "damaged", "field", "field", "field", "header", "length", "text", "many"))
    if kind == "damaged":
        return kind, damaged(data, random)[1]
    if kind == "text":
        return kind, random.choice(("", mark(random), "{}", "\U0001f600" * 1000, '{"inputs": []}'))
    if kind == "length":
        return kind, struct.pack("<Q", random.choice((0, 1, 2**20 + 1, 2**32, 2**63, 2**64 - 1))) + data[8:]
    if kind == "header":
        text = random.choice(HEADERS)
        return kind, struct.pack("<Q", len(text)) + text + random.randbytes(40)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    if kind == "many":
        more = {f"{mark(random)}{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(3000)}
        header = random.choice((more, {**header, **more}))
    else:
        entry = header[random.choice(list(header))]
        key = random.choice(("shape", "data_offsets", "dtype", "name", "more"))
        if key == "name":
            header[random.choice(("", mark(random), "policy.state.0", "x" * 5000))] = entry
        else:
            entry[key] = random.choice({"shape": SHAPES, "data_offsets": OFFSETS, "dtype": DTYPES}.get(key, (1,)))
    text = json.dumps(header).encode()
    return kind, struct.pack("<Q", len(text)) + text + data[8 + length :]
