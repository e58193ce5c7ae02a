"""The digest: the same as everybody's, with or without OpenSSL."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.digest import running_sha256, sha256


@given(st.binary(max_size=300))
def test_a_digest_is_that_of_hashlib(data: bytes) -> None:
    assert sha256(data) == hashlib.sha256(data).hexdigest()


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_bytes_may_come_in_pieces(pieces: list[bytes]) -> None:
    digest = running_sha256(100)
    for piece in pieces:
        digest.update(piece)
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.parametrize(("size", "loaded"), [(100, False), (9_000_000, True)])
def test_openssl_is_loaded_for_large_files_only(size: int, loaded: bool) -> None:
    program = f"import sys; from edgeexit.digest import sha256; print(sha256(bytes({size})), '_hashlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert found == [hashlib.sha256(bytes(size)).hexdigest(), str(loaded)]
