"""Small files that users name: read as a whole, once it is clear that they are small and files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgeexit.errors import EdgeExitError

__all__ = ["read_small"]


def read_small(path: Path, what: str, max_bytes: int, *, error: type[EdgeExitError]) -> bytes:
    """Read a file.

    Args:
        path: The file.
        what: What it should be, such as "profile".
        max_bytes: Larger ones are refused unread.
        error: What to raise for a file that cannot be one.

    Raises:
        error: It is a folder, a pipe or a device, or too large.
        OSError: It cannot be read.
        ValueError: The path cannot be one.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{path} is not a {what}", got="no regular file")
            if found.st_size > max_bytes:
                raise error(
                    f"{path} is too large for a {what}",
                    got=f"{found.st_size} bytes",
                    expected=f"at most {max_bytes} bytes",
                )
            return file.read(found.st_size)
    except IsADirectoryError as folder:
        raise error(f"{path} is not a {what}", got="a folder") from folder


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # NONBLOCK: a pipe must not hang us
