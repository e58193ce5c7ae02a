"""Private files: folders and files that belong to this user and nobody else may write."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from edgeexit.errors import BackendError

__all__ = ["private_folder", "read_private", "write_private"]

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> Path:
    """Make a folder that only this user may enter, or check one that is there.

    Raises:
        BackendError: It cannot be made, is no folder, belongs to somebody else, or others may write to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise BackendError(f"the folder {path} cannot be used", got=error.strerror, remedy="--cache DIR") from error
    _check_owner(path, status, f"chmod 700 {path}")
    return path


def read_private(path: Path, max_bytes: int, remedy: str) -> bytes | None:
    """The content of a file; None where there is none. Links are not followed.

    Args:
        path: The file.
        max_bytes: How large it may be.
        remedy: What the user can do about a file that is refused.

    Raises:
        BackendError: It is no regular file, too large, somebody else's, or others may write to it.
    """
    try:
        # without O_NONBLOCK a pipe would wait for somebody to write to it
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackendError(f"{path} cannot be read", got=error.strerror, remedy=remedy) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise BackendError(
                f"{path} is not used", got=f"{status.st_size} bytes", expected="a regular file", remedy=remedy
            )
        _check_owner(path, status, remedy)
        try:
            return file.read(max_bytes)
        except OSError as error:
            raise BackendError(f"{path} cannot be read", got=error.strerror, remedy=remedy) from error


def write_private(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file that only this user may read, whole or not at all.

    Args:
        path: The file.
        content: All of it.
        replace: Whether a file that is there is replaced; else it stays.

    Returns:
        Whether it was written.

    Raises:
        BackendError: It cannot be written.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)  # with mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(temporary, path)
            temporary = None
        else:
            os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise BackendError(f"{path} cannot be written", got=error.strerror, remedy="--cache DIR") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return True


def _check_owner(path: Path, status: os.stat_result, remedy: str) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS_MAY_WRITE:
        raise BackendError(
            f"{path} may be written by others and is not used",
            got=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}",
            expected=f"owner {os.geteuid()}, and nobody else may write",
            remedy=remedy,
        )
