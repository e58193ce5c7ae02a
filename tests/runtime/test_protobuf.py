"""The wire format of protocol buffers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from edgeexit_runtime.protobuf import WireError, contents, fields, length_delimited


def test_every_kind_of_field_is_told_apart() -> None:
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x25" + bytes(4)
    found = [(field.number, field.wire_type, bytes(field.content)) for field in fields(message)]
    assert found == [(1, 0, b"\x96\x01"), (2, 1, bytes(8)), (3, 2, b"hi"), (4, 5, bytes(4))]
    assert b"".join(field.whole for field in fields(message)) == message


def test_names_of_a_real_message_are_found() -> None:
    tensor = TensorProto(name="weights", dims=[2, 3], raw_data=bytes(24))
    assert [bytes(name) for name in contents(tensor.SerializeToString(), 8)] == [b"weights"]


@given(st.integers(1, 2**29 - 1), st.binary(max_size=300))
def test_what_was_written_is_read(number: int, content: bytes) -> None:
    (field,) = fields(length_delimited(number, content))
    assert (field.number, bytes(field.content)) == (number, content)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x00\x00", "the number 0"),
        (b"\x0b", "the wire type 3"),
        (b"\x0f", "the wire type 7"),
        (b"\x08", "no end"),
        (b"\x08" + b"\xff" * 10, "no end"),
        (b"\x0a\x05abc", "ends behind its message"),
        (b"\x09abc", "ends behind its message"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends behind its message"),
    ],
)
def test_bytes_that_are_no_message_say_why(message: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        list(fields(message))


@given(st.binary(max_size=100))
def test_fields_are_all_of_the_message_or_an_error(message: bytes) -> None:
    with contextlib.suppress(WireError):
        assert b"".join(field.whole for field in fields(message)) == message
