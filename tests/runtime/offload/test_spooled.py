from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import BundleError
from edgeexit_runtime.offload.spooled import Note, decode, encode

NOTE = Note(name="cat.jpg", reason="deadline", label=2, probability=0.25, exit=1, unix_s=1.5)


def test_the_bytes_of_a_sample_are_as_documented() -> None:
    data = encode({"x": np.array([[1.0, 2.0]], np.float32)}, NOTE)
    note = b'{"name":"cat.jpg","reason":"deadline","label":2,"probability":0.25,"exit":1,"unix_s":1.5}'
    header = b'{"input.x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
    header += b'"note":{"dtype":"U8","shape":[%d],"data_offsets":[8,%d]}}' % (len(note), 8 + len(note))
    header += b" " * (-len(header) % 8)
    body = len(header).to_bytes(8, "little") + header + b"\0\0\x80?\0\0\0@" + note
    assert data == b"edgeexit-spool-1\n" + hashlib.sha256(body).hexdigest().encode() + body


def test_the_next_version_of_the_format_is_refused() -> None:
    data = encode({"x": np.zeros((1, 4), np.float32)}, NOTE)
    with pytest.raises(BundleError):
        decode(data.replace(b"edgeexit-spool-1", b"edgeexit-spool-2"), 1)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_do_more_than_be_refused(junk: bytes, signed: bool) -> None:
    data = b"edgeexit-spool-1\n" + hashlib.sha256(junk).hexdigest().encode() + junk if signed else junk
    with pytest.raises(BundleError):
        decode(data, 1)
