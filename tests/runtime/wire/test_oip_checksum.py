"""A message that was damaged on its way is refused, and one without a checksum is of somebody else's client."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import numpy as np

from edgeexit.manifest import TensorSpec
from edgeexit_runtime.wire.messages import Question, Reply, WireError
from edgeexit_runtime.wire.oip import decode_question, decode_reply, encode_question, encode_reply
from edgeexit_runtime.wire.oip_checksum import CHECKSUM

SPEC = TensorSpec(name="h", dtype="float32", shape=(3,))


def question() -> Any:
    return encode_question(Question("m__from_1", "7", {"h": np.arange(6, dtype=np.float32).reshape(2, 3)}, None))


def reply() -> Any:
    columns = np.array([1, 2]), np.ones(2, np.float32), np.array([1, 1]), np.ones(2, np.float32), np.zeros(2, np.bool_)
    return encode_reply(Reply(*columns, ("server", "server")), model="m__from_1", request_id="7")


def flip(contents: Any, byte: int) -> None:
    data = bytearray(contents[0])
    data[byte] ^= 1
    contents[0] = bytes(data)


@pytest.mark.parametrize("byte", [0, 11, 23])
def test_a_flipped_bit_of_a_tensor_is_found(byte: int) -> None:
    request = question()
    flip(request.raw_input_contents, byte)
    with pytest.raises(WireError, match="DATA_LOSS"):
        decode_question(request, lambda name: (SPEC,))


@pytest.mark.parametrize("byte", [0, 7, 15])
def test_a_flipped_bit_of_an_answer_is_found(byte: int) -> None:
    response = reply()
    flip(response.raw_output_contents, byte)
    with pytest.raises(WireError, match="DATA_LOSS"):
        decode_reply(response)


@pytest.mark.parametrize(("field", "value"), [("model_name", "m__from_2"), ("id", "8")])
def test_another_name_or_id_is_found(field: str, value: str) -> None:
    for message, decode in (
        (question(), lambda m: decode_question(m, lambda n: (SPEC,))),
        (reply(), decode_reply),
    ):
        setattr(message, field, value)
        with pytest.raises(WireError, match="DATA_LOSS"):
            decode(message)


def test_another_output_that_is_asked_for_is_found() -> None:
    request = question()
    request.outputs.add(name="label")
    with pytest.raises(WireError, match="DATA_LOSS"):
        decode_question(request, lambda name: (SPEC,))


def test_the_order_in_which_parameters_were_set_is_no_damage() -> None:
    sent, other = reply(), reply()
    other.parameters.clear()
    for name in sorted(sent.parameters, reverse=True):
        other.parameters[name].CopyFrom(sent.parameters[name])
    assert decode_reply(other).label.tolist() == [1, 2]


def test_another_tier_is_found() -> None:
    response = reply()
    response.parameters["tier"].string_param = "gateway"
    with pytest.raises(WireError, match="DATA_LOSS"):
        decode_reply(response)


def test_a_tier_of_ours_that_sends_no_checksum_is_not_believed() -> None:
    response = reply()
    del response.parameters[CHECKSUM]
    with pytest.raises(WireError, match="DATA_LOSS"):
        decode_reply(response)


def test_a_plain_client_needs_no_checksum() -> None:
    request = question()
    del request.parameters[CHECKSUM]
    assert decode_question(request, lambda name: (SPEC,)).rows == 2
