"""Archives: the arrays of an `.npz` file, with nothing in it trusted.

An `.npz` is a zip of `.npy` members. Every member's header is read and held against the member's
size before memory is taken, nothing is unpickled, and checksums are verified. Members stored
without compression (`np.savez`) are mapped from the file, so that they need no memory of their
own; compressed ones (`np.savez_compressed`) are unpacked whole.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

__all__ = ["Member", "load_member", "read_members"]

HEADER_LIMIT = 10_000  # bytes of text in a .npy header; NumPy's own limit
LOCAL_HEADER_SIZE = 30  # bytes of a zip's local file header before the name
DEFLATE_LIMIT = 1_032  # deflate never shrinks by more than this factor
CHUNK_SIZE = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class Member:
    """One array of an archive, as its header describes it."""

    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    header_size: int  # bytes before the data


def read_members(path: Path) -> dict[str, Member]:
    """The arrays of an archive by name; only headers are read.

    Raises:
        DataError: The file is not a zip, a member is not a plain numeric array, or its header does
            not agree with its size.
    """
    members: dict[str, Member] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename or name in members:
                    raise _malformed(
                        path, info.filename, "a foreign or repeated member", "each array once, as NAME.npy"
                    )
                _refuse_unpackable(path, info)
                with archive.open(info) as stream:
                    members[name] = _read_header(path, info, stream)
    except DataError:
        raise
    except Exception as error:  # zipfile and NumPy's header parser raise a dozen types on damaged files
        raise _unreadable(path, error) from error
    return members


def load_member(path: Path, member: Member) -> NDArray[Any]:
    """The array itself, read-only.

    Raises:
        DataError: The data are shorter than declared or their checksum is wrong.
    """
    stored = member.info.compress_type == zipfile.ZIP_STORED
    try:
        return _map(path, member) if stored else _unpack(path, member)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _refuse_unpackable(path: Path, info: zipfile.ZipInfo) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise _malformed(path, info.filename, "an encrypted or unusual compression", "none, or deflate")
    factor = DEFLATE_LIMIT if info.compress_type == zipfile.ZIP_DEFLATED else 1
    if info.compress_size > path.stat().st_size or info.file_size > factor * info.compress_size:
        raise _malformed(path, info.filename, f"{info.file_size:,} bytes declared", "a size that fits in the file")


def _read_header(path: Path, info: zipfile.ZipInfo, stream: IO[bytes]) -> Member:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise _malformed(path, info.filename, f".npy version {version}", "version 1.0 or 2.0")
    shape, fortran_order, dtype = readers[version](stream, max_header_size=HEADER_LIMIT)
    if dtype.hasobject:
        raise _malformed(path, info.filename, "an object array, which could run code", "numbers")
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise _malformed(path, info.filename, f"dtype {dtype}", "numbers")
    header_size = stream.tell()
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != info.file_size - header_size:
        got = f"shape {shape} of {dtype} in {info.file_size - header_size:,} bytes"
        raise _malformed(path, info.filename, got, f"{declared:,} bytes")
    return Member(info, dtype, shape, fortran_order, header_size)


def _map(path: Path, member: Member) -> NDArray[Any]:
    with path.open("rb") as file:
        file.seek(member.info.header_offset)
        name_size, extra_size = struct.unpack_from("<HH", file.read(LOCAL_HEADER_SIZE), 26)
        start = member.info.header_offset + LOCAL_HEADER_SIZE + name_size + extra_size
        file.seek(start)
        checksum = 0
        for piece in _pieces(file, member.info.file_size):
            checksum = zlib.crc32(piece, checksum)
    if checksum != member.info.CRC:
        raise zipfile.BadZipFile(f"wrong checksum of {member.info.filename}")
    if not math.prod(member.shape):
        return np.empty(member.shape, dtype=member.dtype)
    offset = start + member.header_size
    flat = np.memmap(
        path, dtype=np.uint8, mode="r", offset=offset, shape=(math.prod(member.shape) * member.dtype.itemsize,)
    )
    return _shaped(flat, member)


def _unpack(path: Path, member: Member) -> NDArray[Any]:
    flat = np.empty(member.info.file_size - member.header_size, dtype=np.uint8)
    with zipfile.ZipFile(path) as archive, archive.open(member.info) as stream:
        stream.read(member.header_size)
        start = 0
        for piece in _pieces(stream, len(flat)):
            flat[start : start + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
            start += len(piece)
        stream.read()  # the end of the stream is where zipfile compares the checksum
    flat.flags.writeable = False
    return _shaped(flat, member)


def _shaped(flat: NDArray[np.uint8], member: Member) -> NDArray[Any]:
    return flat.view(member.dtype).reshape(member.shape, order="F" if member.fortran_order else "C")


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = stream.read(min(left, CHUNK_SIZE))
        if not piece:
            raise EOFError(f"{left:,} bytes are missing")
        left -= len(piece)
        yield piece


def _malformed(path: Path, member: str, got: str, expected: str) -> DataError:
    return DataError(
        f"{path}: {member} cannot be used",
        got=got,
        expected=expected,
        remedy="write it with numpy.savez(path, x=…, y=…)",
    )


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as an .npz",
        got=f"{type(error).__name__}: {error}",
        expected="a whole archive as numpy.savez writes it",
        remedy="write or copy it again",
    )
