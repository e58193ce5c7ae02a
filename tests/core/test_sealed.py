"""Sealed documents: JSON that begins with its own digest."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import DeviceError
from edgeexit.sealed import seal, unseal


def opened(data: bytes) -> bytes:
    return unseal(data, "a.json", "profile", error=DeviceError, remedy="write it again")


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53) | st.text(max_size=9), min_size=1))
def test_what_was_sealed_is_read(document: dict[str, object]) -> None:
    assert json.loads(opened(seal(json.dumps(document).encode()))) == document


def test_a_sealed_document_is_one_json_document_with_its_digest_first() -> None:
    data = seal(b'{"a":1}')
    assert data == b'{"sha256": "' + hashlib.sha256(b'  "a": 1\n}\n').hexdigest().encode() + b'",\n  "a": 1\n}\n'
    assert list(json.loads(data)) == ["sha256", "a"]


def test_another_beginning_and_another_content_are_told_apart() -> None:
    data = seal(b'{"a":1}')
    with pytest.raises(DeviceError, match=r"a\.json does not begin as an EdgeExit profile does"):
        opened(b" " + data)
    with pytest.raises(DeviceError, match=r"a\.json does not match its digest") as refused:
        opened(data.replace(b"1\n", b"2\n"))
    assert refused.value.remedy == "write it again"
