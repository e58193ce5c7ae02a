"""Which files a bundle has, how large they may be, and how each is matched with its entry."""

from __future__ import annotations

import zlib

from edgeexit.bundle.files import read_exactly
from edgeexit.digest import running_sha256, sha256
from edgeexit.errors import BundleError
from edgeexit.manifest import FileEntry, Manifest

__all__ = [
    "ARCHIVE_SUFFIX",
    "CHECK_FILE",
    "EXITS_FILE",
    "MANIFEST_FILE",
    "MAX_FILE_BYTES",
    "MAX_MANIFEST_BYTES",
    "SEGMENTS_FOLDER",
    "STATISTICS_FILE",
    "check_content",
    "check_streamed",
    "file_entry",
    "names",
    "segment_path",
    "wrong_size",
]

MANIFEST_FILE = "manifest.json"
SEGMENTS_FOLDER = "segments"
EXITS_FILE = "exits.safetensors"
CHECK_FILE = "check.safetensors"
STATISTICS_FILE = "statistics.safetensors"
ARCHIVE_SUFFIX = ".eexit"

MAX_MANIFEST_BYTES = 8 << 20
MAX_FILE_BYTES = (1 << 31) - 1  # what a protobuf message can hold

_PIECE_BYTES = 1 << 20


def segment_path(index: int) -> str:
    """Path of segment `index` inside a bundle: `segments/00.onnx`, …, `segments/100.onnx`."""
    return f"{SEGMENTS_FOLDER}/{index:02d}.onnx"


def file_entry(path: str, data: bytes) -> FileEntry:
    """The manifest's entry for a file with this content."""
    return FileEntry(path=path, sha256=sha256(data), size_bytes=len(data))


def names(manifest: Manifest) -> list[str]:
    """All files of a bundle, in the order of the archive: the manifest, then the others by name."""
    return [MANIFEST_FILE, *sorted(entry.path for entry in manifest.files())]


def check_content(entry: FileEntry, data: bytes) -> None:
    """Refuse content that is not what the manifest says.

    Raises:
        BundleError: Size or hash differ.
    """
    found = file_entry(entry.path, data)
    if found.size_bytes != entry.size_bytes:
        raise wrong_size(entry, found.size_bytes)
    if found.sha256 != entry.sha256:
        raise _wrong_hash(entry, found.sha256)


def check_streamed(entry: FileEntry, descriptor: int) -> int:
    """Refuse a file that is not what the manifest says, reading it piece by piece and keeping nothing.

    Returns:
        The CRC-32 of its bytes.

    Raises:
        BundleError: It ends early, or its hash differs.
    """
    digest, crc, left = running_sha256(entry.size_bytes), 0, entry.size_bytes
    while left:
        piece = read_exactly(descriptor, min(left, _PIECE_BYTES))
        if not piece:
            raise wrong_size(entry, entry.size_bytes - left)
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
        left -= len(piece)
    if digest.hexdigest() != entry.sha256:
        raise _wrong_hash(entry, digest.hexdigest())
    return crc


def wrong_size(entry: FileEntry, size_bytes: int) -> BundleError:
    """The error for a file whose size is not the manifest's."""
    return BundleError(
        f"{entry.path} has the wrong size, so it was altered or cut short",
        got=f"{size_bytes} bytes",
        expected=f"{entry.size_bytes} bytes",
        remedy="copy or export the bundle again",
    )


def _wrong_hash(entry: FileEntry, sha256: str) -> BundleError:
    return BundleError(
        f"{entry.path} does not match its hash, so it was altered or damaged",
        got=f"sha256 {sha256}",
        expected=f"sha256 {entry.sha256}",
        remedy="copy or export the bundle again",
    )
