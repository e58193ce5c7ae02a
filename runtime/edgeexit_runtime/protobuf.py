"""The wire format of protocol buffers: as much of it as editing an ONNX graph by its bytes takes.

A message is a row of fields. A field is a key, which holds its number and how its content is written, and the
content. What is not looked into is copied byte by byte, so fields that nobody here has heard of survive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Field", "WireError", "contents", "fields", "length_delimited", "number"]

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10


class WireError(ValueError):
    """Bytes that are no message; to be translated by whoever knows the file."""


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: Which field of the message it is.
        wire_type: How the content is written; 2 is bytes, text or a message.
        whole: The field's bytes, key included.
        content: The bytes behind the key, and behind the length where there is one.
    """

    number: int
    wire_type: int
    whole: memoryview
    content: memoryview


def fields(message: bytes | memoryview) -> Iterator[Field]:
    """The fields of a message, in order. Nothing is copied.

    Raises:
        WireError: The bytes are no message. Groups, which proto3 does not have, count as none.
    """
    view, start = memoryview(message), 0
    while start < len(view):
        key, begin = _varint(view, start)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has the number 0")
        if wire_type == VARINT:
            end = _varint(view, begin)[1]
        elif wire_type == LENGTH_DELIMITED:
            length, begin = _varint(view, begin)
            end = begin + length
        elif wire_type in _FIXED_BYTES:
            end = begin + _FIXED_BYTES[wire_type]
        else:
            raise WireError(f"a field has the wire type {wire_type}")
        if end > len(view):
            raise WireError("a field ends behind its message")
        yield Field(number, wire_type, view[start:end], view[begin:end])
        start = end


def contents(message: bytes | memoryview, *numbers: int) -> Iterator[memoryview]:
    """The contents of all length-delimited fields with one of these numbers, in order.

    Raises:
        WireError: The bytes are no message.
    """
    for field in fields(message):
        if field.wire_type == LENGTH_DELIMITED and field.number in numbers:
            yield field.content


def length_delimited(number: int, content: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return _encoded(number << 3 | LENGTH_DELIMITED) + _encoded(len(content)) + content


def number(field: int, value: int) -> bytes:
    """A field that holds a number, 0 or more."""
    return _encoded(field << 3 | VARINT) + _encoded(value)


def _varint(view: memoryview, start: int) -> tuple[int, int]:
    """A number of 7 bits a byte, low bits first, and where it ends."""
    value = 0
    for i, byte in enumerate(view[start : start + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, start + i + 1
    raise WireError("a number has no end")


def _encoded(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
