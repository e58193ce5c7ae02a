"""The `.eexit` form: a stored zip with exactly one byte sequence for given contents.

Nothing is taken from the zip's own structures. The manifest says which files follow and how long
they are; every header is derived from that and from the content, and compared byte by byte.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping

from edgeexit.bundle.files import read_exactly
from edgeexit.bundle.layout import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    STATISTICS_FILE,
    check_content,
    check_streamed,
    names,
)
from edgeexit.errors import BundleError
from edgeexit.manifest import FileEntry, Manifest

__all__ = ["ARCHIVE_START", "MAX_ARCHIVE_BYTES", "ArchiveSource", "archive_size_bytes", "pack"]

MAX_ARCHIVE_BYTES = (1 << 32) - 2  # beyond it a zip needs the ZIP64 records, which we do not write

ARCHIVE_START = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 10  # needed to extract: stored files, nothing else
_MADE_BY = 3 << 8 | _VERSION  # Unix, so that the attributes below are understood
_DATE = 0x0021  # 1 January 1980
_ATTRIBUTES = 0o100644 << 16  # regular file, rw-r--r--


def pack(contents: Mapping[str, bytes]) -> Iterator[bytes]:
    """The archive's bytes, piece by piece. `contents` is in the order of `layout.names`."""
    directory = _Directory()
    for name, data in contents.items():
        yield directory.add(name, zlib.crc32(data), len(data))
        yield data
    yield directory.close()


def archive_size_bytes(sizes: Mapping[str, int]) -> int:
    """Size of the archive of files with these names and sizes."""
    return _END.size + sum(_LOCAL.size + _CENTRAL.size + 2 * len(name) + size for name, size in sizes.items())


class ArchiveSource:
    """Reads a bundle out of an open archive, front to back.

    Args:
        descriptor: Of the file, at its start; the caller closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size_bytes = os.fstat(descriptor).st_size
        self._directory = _Directory()
        self._manifest_bytes = 0

    def manifest(self) -> bytes:
        """Bytes of manifest.json, unchecked; the bytes before it are canonical.

        Raises:
            BundleError: The file is no archive of ours, or the manifest is too large.
        """
        header = read_exactly(self._descriptor, _LOCAL.size + len(MANIFEST_FILE))
        if not header.startswith(ARCHIVE_START):
            raise BundleError(
                "not a bundle", got=f"a file that begins with {header[:8]!r}", expected="a folder or .eexit"
            )
        if len(header) < _LOCAL.size + len(MANIFEST_FILE):
            raise BundleError("the archive is cut short in front of manifest.json", remedy="copy it again")
        crc, size_bytes = _LOCAL.unpack_from(header)[6:8]
        if header != self._directory.add(MANIFEST_FILE, crc, size_bytes):
            raise _foreign(MANIFEST_FILE)
        if size_bytes > min(MAX_MANIFEST_BYTES, self._size_bytes):
            raise BundleError(
                f"{MANIFEST_FILE} is too large",
                got=f"{size_bytes} bytes in a file of {self._size_bytes}",
                expected=f"at most {MAX_MANIFEST_BYTES} bytes",
            )
        data = read_exactly(self._descriptor, size_bytes)
        if zlib.crc32(data) != crc:
            raise BundleError(f"{MANIFEST_FILE} does not match its checksum, so it was altered or damaged")
        self._manifest_bytes = len(data)
        return data

    def contents(self, manifest: Manifest) -> dict[str, bytes]:
        """Every listed file, hash-checked, by path. Statistics are checked and not kept.

        `manifest()` must have been called before.

        Raises:
            BundleError: Any byte of the archive differs from what the manifest and the contents imply.
        """
        entries = {entry.path: entry for entry in manifest.files()}
        sizes = {MANIFEST_FILE: self._manifest_bytes, **{path: e.size_bytes for path, e in entries.items()}}
        if self._size_bytes != archive_size_bytes(sizes) or self._size_bytes > MAX_ARCHIVE_BYTES:
            raise BundleError(
                "the archive has the wrong size, so it was cut short, extended, or a file is missing or extra",
                got=f"{self._size_bytes} bytes",
                expected=f"{archive_size_bytes(sizes)} bytes, for: {', '.join(names(manifest))}",
                remedy="copy or export the bundle again",
            )
        contents = {}
        for path in names(manifest)[1:]:
            header = read_exactly(self._descriptor, _LOCAL.size + len(path))
            if path == STATISTICS_FILE:
                crc = check_streamed(entries[path], self._descriptor)
            else:
                contents[path] = read_exactly(self._descriptor, sizes[path])
                check_content(entries[path], contents[path])
                crc = zlib.crc32(contents[path])
            if header != self._directory.add(path, crc, sizes[path]):
                raise _foreign(path)
        expected = self._directory.close()
        if read_exactly(self._descriptor, len(expected) + 1) != expected:
            raise _foreign("the directory at its end")
        return contents

    def read(self, manifest: Manifest, entry: FileEntry) -> bytes:
        """One listed file, hash-checked. `manifest()` must have been called before.

        Raises:
            BundleError: It is not what the manifest says.
        """
        sizes = {MANIFEST_FILE: self._manifest_bytes, **{e.path: e.size_bytes for e in manifest.files()}}
        order = names(manifest)
        before = order[: order.index(entry.path)]
        headers = sum(_LOCAL.size + len(name) for name in (*before, entry.path))
        os.lseek(self._descriptor, headers + sum(sizes[name] for name in before), os.SEEK_SET)
        data = read_exactly(self._descriptor, entry.size_bytes)
        check_content(entry, data)
        return data


class _Directory:
    """Headers of the files so far, and the central directory that belongs to them."""

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self._position = 0

    def add(self, name: str, crc: int, size: int) -> bytes:
        """The local header of the next file."""
        path = name.encode("ascii")
        common = (_VERSION, 0, 0, 0, _DATE, crc, size, size, len(path), 0)
        record = _CENTRAL.pack(b"PK\x01\x02", _MADE_BY, *common, 0, 0, 0, _ATTRIBUTES, self._position)
        self._records.append(record + path)
        self._position += _LOCAL.size + len(path) + size
        return _LOCAL.pack(ARCHIVE_START, *common) + path

    def close(self) -> bytes:
        """The central directory and its end record."""
        directory = b"".join(self._records)
        count = len(self._records)
        return directory + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), self._position, 0)


def _foreign(place: str) -> BundleError:
    return BundleError(
        f"{place} is not stored as EdgeExit stores it, so the archive was altered, damaged or packed anew",
        expected="an archive that EdgeExit wrote: uncompressed, in a fixed order, with fixed headers",
        remedy="copy it again, or unpack it with unzip and open the folder",
    )
