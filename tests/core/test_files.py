"""Small files that users name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeexit.errors import DeviceError
from edgeexit.files import read_small


def test_a_small_file_is_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" * 10)
    assert read_small(tmp_path / "a", "thing", 10, error=DeviceError) == b"\0" * 10


def test_a_larger_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" * 11)
    with pytest.raises(DeviceError, match="too large for a thing"):
        read_small(tmp_path / "a", "thing", 10, error=DeviceError)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DeviceError, match="is not a thing"):
            read_small(path, "thing", 10, error=DeviceError)


def test_what_is_not_there_is_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none", "thing", 10, error=DeviceError)
