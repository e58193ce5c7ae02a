"""Requests that are messages, and mean nonsense: one thing changed at a time, by name."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from edgeexit_runtime.wire.oip_checksum import CHECKSUM, sign
from edgeexit_runtime.wire.oip_tensors import DTYPES
from hostile.honest import Honest
from hostile.marks import mark
from hostile.payloads import NUMBERS, PAYLOADS, Mutation

__all__ = ["MUTATIONS", "mutated"]

INT64_MAX, INT64_MIN = 2**63 - 1, -(2**63)
AXES = (-1, 0, 1, 2, 3, 255, 256, 257, 1024, 1025, 2**31 - 1, 2**31, 2**32, 10**12, 2**62, INT64_MAX, INT64_MIN)
WORDS = (
    "", " ", "\0", "\n", "../../etc/passwd", "%s%n%d", "{0.__class__}", "'; --", "x" * 255, "x" * 257, "x" * 20_000,
    "é" * 300, "\U0001f600" * 200, "policy.state.0", "policy.state.99", "logits", "label", "crc32", "a.scale",
)  # fmt: skip


def mutated(honest: Honest, random: Random) -> tuple[str, bytes]:
    """A request changed in one to three ways; what was done to it, and its bytes.

    It has a mark of its own. Now and then its checksum is made to fit what became of it.
    """
    request = type(honest.message).FromString(honest.unsigned)
    request.id = mark(random)
    names = random.choices(list(MUTATIONS), k=random.choice((1, 1, 1, 2, 3)))
    for name in names:
        MUTATIONS[name](request, random, honest)
    if random.random() < 0.1 and CHECKSUM not in request.parameters:
        sign(request)
    return "+".join(names), request.SerializeToString()


def _word(random: Random) -> str:
    return random.choice((*WORDS, mark(random)))


def _model(request: Any, random: Random, honest: Honest) -> None:
    stem, _, k = honest.model.rpartition("_")
    others = (f"{stem}_{int(k) + 1}", f"{stem}_-1", f"{stem}_99999999999", stem, honest.model.upper())
    request.model_name = random.choice((*others, _word(random), honest.model + _word(random)))


def _version(request: Any, random: Random, honest: Honest) -> None:
    request.model_version = random.choice(("0", "2", "1.0", "latest", "\u0661", _word(random)))


def _id(request: Any, random: Random, honest: Honest) -> None:
    request.id = random.choice((_word(random), mark(random) * 40, "z" * 500_000))


def _tensor(request: Any, random: Random) -> Any:
    return random.choice(request.inputs) if request.inputs else request.inputs.add(name=mark(random))


def _place(request: Any, random: Random) -> int | None:
    return random.randrange(len(request.raw_input_contents)) if request.raw_input_contents else None


def _name(request: Any, random: Random, honest: Honest) -> None:
    _tensor(request, random).name = _word(random)


def _datatype(request: Any, random: Random, honest: Honest) -> None:
    strange = ("BYTES", "BF16", "", "fp32", "FP128", "float32", "O", "|S100000", _word(random))
    _tensor(request, random).datatype = random.choice((*DTYPES, *strange))


def _axis(request: Any, random: Random, honest: Honest) -> None:
    shape = _tensor(request, random).shape
    if shape:
        shape[random.randrange(len(shape))] = random.choice(AXES)
    else:
        shape.append(random.choice(AXES))


def _shape(request: Any, random: Random, honest: Honest) -> None:
    tensor = _tensor(request, random)
    tensor.shape[:] = random.choice(
        (
            (),
            (0,),
            (10**6, 10**6),
            (1, 10**12),
            (2**32, 2**32),
            (INT64_MAX,) * 8,
            (INT64_MIN, INT64_MIN),
            (2**63 // 3, 3, 2),
            (1,) * 9,
            (1,) * 60,
            (1,) * 2000,
            (0, *tensor.shape),
            (1, *tensor.shape),
            tuple(tensor.shape)[::-1],
            tuple(random.choice(AXES) for _ in range(random.randrange(1, 9))),
        )
    )


def _missing(request: Any, random: Random, honest: Honest) -> None:
    place = _place(request, random)
    if place is not None and place < len(request.inputs):
        del request.inputs[place]
        if random.random() < 0.8:
            del request.raw_input_contents[place]


def _twice(request: Any, random: Random, honest: Honest) -> None:
    place = _place(request, random)
    if place is not None and place < len(request.inputs):
        request.inputs.add().CopyFrom(request.inputs[place])
        request.raw_input_contents.append(request.raw_input_contents[place])


def _extra(request: Any, random: Random, honest: Honest) -> None:
    for _ in range(random.choice((1, 2, 255, 256, 257))):
        request.inputs.add(name=_word(random), datatype="UINT8", shape=[1])
        request.raw_input_contents.append(b"\0")


def _many_empty(request: Any, random: Random, honest: Honest) -> None:
    for _ in range(random.choice((1000, 20_000))):
        request.inputs.add()


def _swapped(request: Any, random: Random, honest: Honest) -> None:
    contents = list(request.raw_input_contents)
    random.shuffle(contents)
    request.raw_input_contents[:] = contents


def _raw_length(request: Any, random: Random, honest: Honest) -> None:
    place = _place(request, random)
    if place is not None:
        content = request.raw_input_contents[place]
        request.raw_input_contents[place] = random.choice(
            (b"", content[:-1], content[:1], content + b"\0", content * 2, content[: len(content) // 2])
        )


def _raw_count(request: Any, random: Random, honest: Honest) -> None:
    if random.random() < 0.5 and request.raw_input_contents:
        del request.raw_input_contents[-1]
    else:
        request.raw_input_contents.extend([random.randbytes(random.choice((0, 1, 1000)))] * random.choice((1, 300)))


def _large(request: Any, random: Random, honest: Honest) -> None:
    request.raw_input_contents.append(bytes(random.choice((1 << 18, 1 << 20, 1 << 22))))


def _contents(request: Any, random: Random, honest: Honest) -> None:
    tensor = _tensor(request, random)
    kind = random.choice(("fp32_contents", "int64_contents", "bool_contents", "bytes_contents", "uint_contents"))
    value = b"\xff" if kind == "bytes_contents" else 1
    getattr(tensor.contents, kind).extend([value] * random.choice((1, 100, 5000)))
    if random.random() < 0.5:
        del request.raw_input_contents[:]


def _parameter(parameter: Any, random: Random) -> None:
    kind = random.choice(("bool", "int64", "double", "string", "uint64"))
    values = {"bool": True, "int64": INT64_MIN, "double": random.choice(NUMBERS), "uint64": 2**64 - 1}
    setattr(parameter, f"{kind}_param", values.get(kind, _word(random)))


def _tensor_parameter(request: Any, random: Random, honest: Honest) -> None:
    key = random.choice(("binary_data_size", "shared_memory_region", "shared_memory_byte_size", mark(random)))
    _parameter(_tensor(request, random).parameters[key], random)


def _request_parameter(request: Any, random: Random, honest: Honest) -> None:
    keys = ("timeout", "priority", "sequence_id", "sequence_start", "tier", "server_ms", "reason", _word(random))
    for key in random.choices(keys, k=random.choice((1, 2, 400))):
        _parameter(request.parameters[key], random)


def _checksum(request: Any, random: Random, honest: Honest) -> None:
    parameter = request.parameters[CHECKSUM]
    random.choice(
        (
            lambda: _parameter(parameter, random),
            lambda: None,
            lambda: setattr(parameter, "int64_param", random.choice((0, -1, 2**32, INT64_MIN, random.getrandbits(32)))),
        )
    )()


def _outputs(request: Any, random: Random, honest: Honest) -> None:
    for _ in range(random.choice((1, 1, 2, 300))):
        output = request.outputs.add(name=random.choice(("label", "logits", _word(random))))
        if random.random() < 0.3:
            _parameter(output.parameters[random.choice(("classification", "binary_data", mark(random)))], random)


MUTATIONS: Mapping[str, Mutation] = {
    function.__name__[1:]: function
    for function in (
        _model, _version, _id, _name, _datatype, _axis, _shape, _missing, _twice, _extra, _many_empty, _swapped,
        _raw_length, _raw_count, _large, _contents, _tensor_parameter, _request_parameter, _checksum, _outputs,
        *PAYLOADS,
    )
}  # fmt: skip
"""By name."""
