"""A locked folder beside the destination, and the swap that makes its content visible at once."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeexit.errors import UsageError

__all__ = ["replace", "staging_folder", "sync_folder"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def staging_folder(destination: Path) -> Iterator[Path]:
    """An empty folder on the destination's file system, removed at the end whatever happens.

    Its name, `.NAME.partial`, depends on the destination alone. So what a killed writer left is
    found and cleared by the next one, and a lock tells a killed writer from one that is at work.

    Raises:
        UsageError: Another process is writing to the same destination.
        OSError: The folder cannot be made.
    """
    staging = destination.with_name(f".{destination.name}.partial")
    descriptor = _locked(staging)
    try:
        _clear(staging)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(descriptor)


def replace(new: Path, destination: Path) -> None:
    """Put `new`, a file or folder, at `destination`, and make that outlast a power cut.

    A folder that was there takes the place of `new`, in one step where the system can exchange two
    names (Linux). Elsewhere it is first moved aside, so for a moment there is none.

    Raises:
        OSError: Nothing has changed.
    """
    if not destination.is_dir():
        os.replace(new, destination)
    elif not _exchanged(new, destination):
        aside = new.with_name("old")
        destination.rename(aside)
        try:
            new.rename(destination)
        except OSError:
            aside.rename(destination)
            raise
    sync_folder(destination.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(staging: Path) -> int:
    """Descriptor of the folder `staging`, made where needed and locked for this writer alone."""
    while True:
        staging.mkdir(exist_ok=True)
        try:
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another writer finished and removed it
        try:
            _lock(descriptor, staging)
            if staging.exists() and os.path.samestat(os.fstat(descriptor), staging.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, staging: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            "another process is writing to the same bundle", got=f"{staging} is in use", remedy="wait until it is done"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.ENOLCK):
            raise  # else: a file system that knows no locks


def _clear(staging: Path) -> None:
    for entry in os.scandir(staging):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    import ctypes  # here, because it costs time and only replacing a folder needs it

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_SUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))
