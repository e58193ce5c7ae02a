"""Questions and replies as messages of the Open Inference Protocol."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

from edgeexit.errors import UsageError
from edgeexit.manifest import TensorSpec
from edgeexit.payload import PRECISIONS, STATE, pack_all
from edgeexit_runtime.wire.limits import Limits
from edgeexit_runtime.wire.messages import PLATFORM, Question, Reply, WireError
from edgeexit_runtime.wire.oip import (
    LOGITS,
    OUTPUTS,
    decode_question,
    decode_reply,
    encode_question,
    encode_reply,
    metadata,
    parse_question,
    parse_reply,
    read_metadata,
)
from edgeexit_runtime.wire.oip_tensors import service_pb2

TAIL = "net__from_1"
TAKES = (
    TensorSpec(name="map", dtype="float32", shape=(3, 4, 4)),
    TensorSpec(name="mask", dtype="bool", shape=(2,)),
    TensorSpec(name=STATE + "0", dtype="float32", shape=(10,)),
)
SMALL = Limits(message_bytes=1 << 16, rows=8, tensors=16)


def lookup(name: str) -> tuple[TensorSpec, ...] | None:
    return TAKES if name == TAIL else None


def tensors(n: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {spec.name: (rng.normal(size=(n, *spec.shape)) > 0).astype(spec.dtype) for spec in TAKES}


def question(n: int = 2, precision: str = "fp32", **changes: Any) -> Question:
    asked = Question(TAIL, "id-7", pack_all(tensors(n), precision), None)
    return replace(asked, **changes)


def reply(n: int = 2, **changes: Any) -> Reply:
    found = Reply(
        label=np.arange(n, dtype=np.int64),
        probability=np.linspace(0.5, 1, n, dtype=np.float32),
        exit=np.full(n, 2, np.int64),
        score=np.linspace(-1, 1, n, dtype=np.float32),
        degraded=np.arange(n) % 2 == 1,
        tier=("server",) * n,
        server_ms=1.5,
    )
    return replace(found, **changes)


def asked(change: Callable[[Any], object], n: int = 2) -> Question:
    """Decode a request that something was done to."""
    request = encode_question(question(n))
    change(request)
    return decode_question(request, lookup, limits=SMALL)


def answered(change: Callable[[Any], object], n: int = 2) -> Reply:
    response = encode_reply(reply(n), model=TAIL, request_id="id-7")
    change(response)
    return decode_reply(response, request_id="id-7", model=TAIL, limits=SMALL)


def same_reply(one: Reply, other: Reply) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in OUTPUTS
    ) and (one.tier, one.reason, one.server_ms) == (other.tier, other.reason, other.server_ms)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("n", [1, 5])
def test_a_question_arrives_in_the_types_of_its_tail(precision: str, n: int) -> None:
    data = encode_question(question(n, precision)).SerializeToString()
    found = decode_question(parse_question(data), lookup, timeout_s=0.5)
    assert (found.model, found.request_id, found.timeout_s, found.wants_logits) == (TAIL, "id-7", 0.5, False)
    assert list(found.arrays) == [spec.name for spec in TAKES]
    for name, array in tensors(n).items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_allclose(found.arrays[name].astype(float), array.astype(float), atol=1e-3)


def test_what_was_not_rounded_arrives_as_a_view_of_the_message() -> None:
    found = decode_question(encode_question(question()), lookup)
    assert not any(array.flags.owndata or array.flags.writeable for array in found.arrays.values())


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("reason", [None, "deadline"])
def test_a_reply_survives_a_round_trip(n: int, reason: str | None) -> None:
    sent = reply(n, reason=reason, tier=tuple(f"tier{i % 2}" for i in range(n)))
    data = encode_reply(sent, model=TAIL, request_id="a").SerializeToString()
    assert same_reply(decode_reply(parse_reply(data), request_id="a", model=TAIL), sent)


def test_one_sample_says_its_exit_and_score_in_the_parameters_too() -> None:
    parameters = encode_reply(reply(1), model=TAIL).parameters
    assert (parameters["tier"].string_param, parameters["exit"].int64_param) == ("server", 2)
    assert parameters["score"].double_param == -1
    assert "exit" not in encode_reply(reply(2), model=TAIL).parameters


def test_only_the_outputs_asked_for_are_sent() -> None:
    found = decode_question(encode_question(question(outputs=("label",))), lookup)
    response = encode_reply(reply(), model=TAIL, outputs=found.outputs)
    assert [output.name for output in response.outputs] == ["label"]


def test_logits_are_asked_for_and_answered_by_name() -> None:
    request = encode_question(question(wants_logits=True))
    assert decode_question(request, lookup, outputs=[LOGITS]).wants_logits
    logits = np.zeros((2, 3, 10), np.float32)
    found = decode_reply(encode_reply(Reply.of_logits(logits), model=TAIL))
    assert found.logits is not None
    assert (found.logits.shape, found.label.tolist(), found.exit.tolist()) == ((2, 3, 10), [-1, -1], [-1, -1])


def test_a_reply_without_parameters_is_taken() -> None:
    found = answered(lambda response: response.ClearField("parameters"))
    assert (found.tier, found.reason, found.server_ms) == (("upstream", "upstream"), None, 0.0)


def test_an_array_that_the_protocol_has_no_type_for_is_not_sent() -> None:
    with pytest.raises(UsageError, match="no such data type"):
        encode_question(question(arrays={"x": np.zeros((1, 2), np.complex64)}))


def test_the_metadata_of_a_tail_tell_what_it_takes_and_gives() -> None:
    found = read_metadata(metadata(TAIL, TAKES))
    assert (found.name, found.platform, found.inputs) == (TAIL, PLATFORM, TAKES)
    assert [spec.name for spec in found.outputs] == list(OUTPUTS)
    assert found.ours
    assert not found.logits_only


def test_the_metadata_of_a_server_without_a_policy_tell_of_logits_alone() -> None:
    response = service_pb2.ModelMetadataResponse(name=TAIL, platform="onnxruntime_onnx")
    response.inputs.add(name="map", datatype="FP32", shape=[-1, 3, 4, 4])
    response.outputs.add(name=LOGITS, datatype="FP32", shape=[-1, 3, 10])
    found = read_metadata(response)
    assert not found.ours
    assert found.logits_only


@pytest.mark.parametrize(
    ("datatype", "shape"), [("BYTES", [-1, 3]), ("FP32", []), ("FP32", [-1, 0]), ("FP32", [1] * 10)]
)
def test_unusable_metadata_are_refused(datatype: str, shape: list[int]) -> None:
    response = service_pb2.ModelMetadataResponse(name=TAIL)
    response.inputs.add(name="map", datatype=datatype, shape=shape)
    with pytest.raises(WireError, match="INTERNAL"):
        read_metadata(response)


def set_shape(tensor: Any, *shape: int) -> None:
    del tensor.shape[:]
    tensor.shape.extend(shape)


REFUSED = {
    "another model": (lambda r: setattr(r, "model_name", "net__from_9"), "NOT_FOUND: there is no model"),
    "another version": (lambda r: setattr(r, "model_version", "2"), "NOT_FOUND: there is no version"),
    "an endless id": (lambda r: setattr(r, "id", "i" * 300), "INVALID_ARGUMENT: the request's id"),
    "parameters": (lambda r: r.parameters["sequence_id"].MergeFrom(type(r.parameters["x"])(int64_param=1)), "INVALID"),
    "shared memory": (lambda r: r.inputs[0].parameters["shared_memory_region"], "INVALID_ARGUMENT: tensor 'map'"),
    "typed contents": (lambda r: r.inputs[0].contents.fp32_contents.append(1), "INVALID_ARGUMENT: tensor 'map'"),
    "an unknown output": (lambda r: r.outputs.add(name="secrets"), "INVALID_ARGUMENT: output 'secrets'"),
    "a tensor too few": (lambda r: (r.inputs.pop(), r.raw_input_contents.pop()), "INVALID_ARGUMENT: the tensor policy"),
    "a content too few": (lambda r: r.raw_input_contents.pop(), "INVALID_ARGUMENT: 3 tensors and 2 raw"),
    "a name twice": (lambda r: setattr(r.inputs[1], "name", "map"), "INVALID_ARGUMENT: the name 'map'"),
    "no name": (lambda r: setattr(r.inputs[1], "name", ""), "INVALID_ARGUMENT: the name ''"),
    "an endless name": (lambda r: setattr(r.inputs[1], "name", "n" * 300), "INVALID_ARGUMENT: the name of a tensor"),
    "a type of bytes": (
        lambda r: setattr(r.inputs[0], "datatype", "BYTES"),
        "INVALID_ARGUMENT: tensor 'map': the data",
    ),
    "no axis": (lambda r: set_shape(r.inputs[0]), "INVALID_ARGUMENT: tensor 'map': 1 to 9 axes"),
    "too many axes": (lambda r: set_shape(r.inputs[0], *[1] * 10), "INVALID_ARGUMENT: tensor 'map': 1 to 9 axes"),
    "no rows": (lambda r: set_shape(r.inputs[0], 0, 3, 4, 4), "INVALID_ARGUMENT: tensor 'map': 1 to 9 axes"),
    "rows below zero": (lambda r: set_shape(r.inputs[0], -2, -3, 4, 4), "INVALID_ARGUMENT: tensor 'map': 1 to 9 axes"),
    "too many rows": (lambda r: set_shape(r.inputs[0], 9, 3, 4, 4), "RESOURCE_EXHAUSTED: tensor 'map' has 9 rows"),
    "fewer bytes": (lambda r: r.raw_input_contents.__setitem__(0, b"1234"), "INVALID_ARGUMENT: tensor 'map' should"),
    "other rows": (
        lambda r: (set_shape(r.inputs[1], 1, 2), r.raw_input_contents.__setitem__(1, b"\0\1")),
        "INVALID_ARGUMENT: tensor 'mask' has 1 rows",
    ),
    "a truth of 2": (lambda r: r.raw_input_contents.__setitem__(1, b"\0\1\2\0"), "INVALID_ARGUMENT: tensor 'mask'"),
    "another shape": (lambda r: set_shape(r.inputs[0], 2, 4, 4, 3), "INVALID_ARGUMENT: the tensor map has the wrong"),
    "another type": (lambda r: setattr(r.inputs[0], "datatype", "INT32"), "INVALID_ARGUMENT: the tensor map has the"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_question_is_refused_by_its_status(name: str) -> None:
    change, expected = REFUSED[name]
    with pytest.raises(WireError) as caught:
        asked(change)
    assert str(caught.value).startswith(expected)


def test_a_shape_of_a_million_million_elements_takes_no_memory() -> None:
    request = encode_question(question())
    set_shape(request.inputs[0], 1, 10**6, 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="should have 4000000000000 bytes"):
            decode_question(request, lookup)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_shape_whose_product_overflows_64_bits_is_refused() -> None:
    with pytest.raises(WireError, match="should have"):
        asked(lambda request: set_shape(request.inputs[0], 1, 2**62, 4, 4))


def test_a_message_of_countless_empty_descriptions_is_refused_unparsed() -> None:
    data = b"\x2a\x00" * 1_000_000  # field 5, empty
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="describes too much"):
            parse_question(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_message_beyond_the_limit_is_refused_unparsed() -> None:
    with pytest.raises(WireError, match="RESOURCE_EXHAUSTED"):
        parse_question(bytes(SMALL.message_bytes + 1), SMALL)


def test_small_numbers_that_grow_beyond_the_limit_are_refused_before_they_do() -> None:
    wide = TensorSpec(name="x", dtype="float64", shape=(1000,))
    arrays = pack_all({"x": np.ones((8, 1000))}, "uint8")
    request = encode_question(Question(TAIL, "", arrays, None))
    assert decode_question(request, lambda name: (wide,), limits=replace(SMALL, message_bytes=64_000)).rows == 8
    with pytest.raises(WireError, match="RESOURCE_EXHAUSTED: the tensors take 64000"):
        decode_question(request, lambda name: (wide,), limits=replace(SMALL, message_bytes=63_999))


def test_a_message_for_the_other_side_is_short_whatever_came() -> None:
    names = {"x" * 250 + str(i): np.zeros((1, 1), np.float32) for i in range(16)}
    with pytest.raises(WireError) as caught:
        decode_question(encode_question(Question(TAIL, "", names, None)), lookup)
    assert len(caught.value.message) <= 400


MALFORMED = {
    "another request": lambda r: setattr(r, "id", "id-8"),
    "another model": lambda r: setattr(r, "model_name", "net__from_2"),
    "a missing output": lambda r: (r.outputs.pop(), r.raw_output_contents.pop()),
    "another type": lambda r: setattr(r.outputs[0], "datatype", "UINT64"),
    "two axes": lambda r: set_shape(r.outputs[0], 2, 1),
    "other rows": lambda r: (set_shape(r.outputs[0], 1), r.raw_output_contents.__setitem__(0, bytes(8))),
    "too many tiers": lambda r: setattr(r.parameters["tier"], "string_param", "a,b,c"),
    "a nameless tier": lambda r: setattr(r.parameters["tier"], "string_param", ""),
    "a time below zero": lambda r: setattr(r.parameters["server_ms"], "double_param", -1),
    "a time without end": lambda r: setattr(r.parameters["server_ms"], "string_param", "nan"),
    "an endless reason": lambda r: setattr(r.parameters["reason"], "string_param", "r" * 70_000),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_reply_is_refused(name: str) -> None:
    with pytest.raises(WireError, match="INTERNAL"):
        answered(MALFORMED[name])


STATUSES = {"DATA_LOSS", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL"}


def read_question(data: bytes) -> Question | str:
    """The question in these bytes, or the status they are refused with."""
    try:
        return decode_question(parse_question(data, SMALL), lookup, limits=SMALL)
    except WireError as error:
        return error.status


def read_reply(data: bytes) -> Reply | str:
    """The reply in these bytes, or the status they are refused with."""
    try:
        return decode_reply(parse_reply(data, SMALL), limits=SMALL)
    except WireError as error:
        return error.status


@given(st.binary(max_size=400))
def test_arbitrary_bytes_give_nothing_but_wire_errors(data: bytes) -> None:
    found = [read_question(data), read_reply(data)]
    assert all(isinstance(outcome, (Question, Reply)) or outcome in STATUSES for outcome in found)


QUESTION_BYTES = encode_question(question(2, "uint8")).SerializeToString()
REPLY_BYTES = encode_reply(reply(2, reason="deadline"), model=TAIL, request_id="a").SerializeToString()


def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some overwritten, inserted and cut, mostly among the descriptions."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(found), 200)))
        found[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(found[: draw(st.integers(0, len(found)))]) if draw(st.integers(0, 4)) == 0 else bytes(found)


@settings(max_examples=300)
@given(st.data())
def test_mutated_questions_give_arrays_of_the_tail_or_wire_errors(data: st.DataObject) -> None:
    changed = data.draw(st.composite(lambda draw: mutated(draw, QUESTION_BYTES))())
    found = read_question(changed)
    if isinstance(found, str):
        assert found in STATUSES - {"INTERNAL"}
    else:
        shapes = {name: (str(array.dtype), array.shape) for name, array in found.arrays.items()}
        assert shapes == {spec.name: (spec.dtype, (found.rows, *spec.shape)) for spec in TAKES}


@settings(max_examples=300)
@given(st.data())
def test_mutated_replies_give_whole_replies_or_wire_errors(data: st.DataObject) -> None:
    changed = data.draw(st.composite(lambda draw: mutated(draw, REPLY_BYTES))())
    found = read_reply(changed)
    if isinstance(found, str):
        assert found in STATUSES - {"NOT_FOUND"}
    else:
        assert {len(getattr(found, name)) for name in OUTPUTS} == {found.rows} == {len(found.tier)}


def test_a_questions_bytes_are_those_that_older_tiers_know() -> None:
    arrays = {"x": np.array([[1.0, -2.0]], np.float16), STATE + "0": np.array([[0.5]], np.float32)}
    assert encode_question(Question(TAIL, "7", arrays, 1.0)).SerializeToString() == (
        b"\x0a\x0bnet__from_1\x1a\x017"
        b"\x22\x0f\x0a\x05crc32\x12\x06\x10\xc5\x89\xa3\xb7\x08"
        b"\x2a\x0d\x0a\x01x\x12\x04FP16\x1a\x02\x01\x02"
        b"\x2a\x1a\x0a\x0epolicy.state.0\x12\x04FP32\x1a\x02\x01\x01"
        b"\x3a\x04\x00\x3c\x00\xc0"
        b"\x3a\x04\x00\x00\x00\x3f"
    )


def test_a_reply_of_another_tier_is_understood_from_these_bytes() -> None:
    data = (
        b"\x0a\x0bnet__from_1\x1a\x017"
        b"\x22\x0f\x0a\x05crc32\x12\x06\x10\xa0\xe4\x83\xe7\x06"
        b"\x22\x0e\x0a\x04tier\x12\x06\x1a\x04edge"
        b"\x2a\x11\x0a\x05label\x12\x05INT64\x1a\x01\x01"
        b"\x2a\x16\x0a\x0bprobability\x12\x04FP32\x1a\x01\x01"
        b"\x2a\x10\x0a\x04exit\x12\x05INT64\x1a\x01\x01"
        b"\x2a\x10\x0a\x05score\x12\x04FP32\x1a\x01\x01"
        b"\x2a\x13\x0a\x08degraded\x12\x04BOOL\x1a\x01\x01"
        b"\x32\x08\x03\x00\x00\x00\x00\x00\x00\x00"
        b"\x32\x04\x00\x00\x40\x3f"
        b"\x32\x08\x02\x00\x00\x00\x00\x00\x00\x00"
        b"\x32\x04\x00\x00\x00\xbf"
        b"\x32\x01\x01"
    )
    found = decode_reply(parse_reply(data), request_id="7", model=TAIL)
    assert (found.label.tolist(), found.probability.tolist(), found.exit.tolist()) == ([3], [0.75], [2])
    assert (found.score.tolist(), found.degraded.tolist(), found.tier) == ([-0.5], [True], ("edge",))
