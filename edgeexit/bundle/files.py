"""Reading from descriptors: exact sizes, no links, nothing but regular files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from edgeexit.errors import BundleError

__all__ = ["opened_entry", "read_exactly"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a pipe must not hang us


@contextmanager
def opened_entry(folder: int, name: str, shown: str, *, directory: bool = False) -> Iterator[int]:
    """Descriptor of the regular file (or directory) `name` in the folder that `folder` describes.

    Raises:
        BundleError: There is no such entry, or it is a link or anything else; the message says `shown`.
    """
    try:
        descriptor = os.open(name, _FLAGS | (os.O_DIRECTORY if directory else 0), dir_fd=folder)
    except OSError as error:
        raise _refusal(folder, name, shown, error) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not directory and not stat.S_ISREG(mode):
            raise BundleError(f"{shown} cannot be part of a bundle", got=f"a {_kind(mode)}", expected="a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, size_bytes: int) -> bytes:
    """Up to `size_bytes` bytes; fewer only where the file ends."""
    parts = []
    while size_bytes and (part := os.read(descriptor, size_bytes)):
        parts.append(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _refusal(folder: int, name: str, shown: str, error: OSError) -> BundleError:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return BundleError(f"{shown} is missing", remedy="copy or export the bundle again")
    if isinstance(error, PermissionError):
        return BundleError(f"{shown} cannot be read", got=error.strerror)
    return BundleError(f"{shown} cannot be part of a bundle", got=f"a {_kind(mode)}", expected="files without links")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFDIR: "folder",
        stat.S_IFREG: "regular file",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")
