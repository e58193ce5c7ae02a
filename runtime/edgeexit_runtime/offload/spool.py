"""The spool: a bounded folder of samples that were not answered upstream, kept for later labels.

    FOLDER/
      0000000000000001.sample
      0000000000000002.sample

A file is written under another name, flushed and renamed, so after a crash it is whole or not there.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.bundle.staging import sync_folder
from edgeexit.errors import BundleError, UsageError
from edgeexit.files import read_small
from edgeexit_runtime.offload.spooled import Note, Spooled, decode, encode

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "SUFFIX", "Note", "Spool", "SpoolCounts"]

MAX_BYTES = 64 << 20
MAX_ENTRIES = 4096
SUFFIX = ".sample"

_PARTIAL = ".partial"
_LOCK = ".lock"
_NAME = re.compile(r"(\d{16})" + re.escape(SUFFIX))
_UNFINISHED = re.compile(r"\.\d{16}" + re.escape(SUFFIX + _PARTIAL))


@dataclass
class SpoolCounts:
    """What became of samples since the spool was opened."""

    kept: int = 0
    dropped: int = 0  # the oldest, to make room
    lost: int = 0  # too large, or the disk refused them
    damaged: int = 0  # files that could not be read back; they stay where they are


class Spool:
    """A folder of samples, the oldest of which make room. Threads may share it; processes may not.

    Args:
        folder: Where they are; made when missing.
        max_bytes: Of all files together.
        max_entries: How many files.

    Attributes:
        counts: What became of samples since the spool was opened.

    Raises:
        UsageError: The folder holds something that no spool wrote, is used by another process, or cannot be used;
            or a bound is below 1.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = MAX_BYTES, max_entries: int = MAX_ENTRIES) -> None:
        if min(max_bytes, max_entries) < 1:
            raise UsageError("a spool needs room", got=f"{max_bytes} bytes, {max_entries} entries", expected="above 0")
        self.folder = Path(folder)
        self.counts = SpoolCounts()
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._threads = threading.Lock()
        self._lock = -1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock = _locked(self.folder / _LOCK)
            self._sizes = self._recovered()
            self._next = max(self._sizes, default=0) + 1
            self._make_room(0, 0)
        except OSError as error:
            self.close()
            raise UsageError(f"{self.folder} cannot be a spool", got=error.strerror) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(self._sizes.values())

    def put(self, arrays: Mapping[str, NDArray[Any]], note: Note) -> bool:
        """Keep a sample, and drop the oldest where there is no room. It waits for the disk: answer first.

        Args:
            arrays: (1, …) by the names of the model's inputs.
            note: What is known of it.

        Returns:
            Whether it is on the disk. A full or failing disk raises nothing: the sample is counted as lost.
        """
        data = encode(arrays, note)
        with self._threads:
            if self._lock < 0 or len(data) > self._max_bytes:
                self.counts.lost += 1
                return False
            try:
                self._make_room(len(data), 1)
                self._write(data)
            except OSError:
                self.counts.lost += 1
                return False
            self.counts.kept += 1
            return True

    def __iter__(self) -> Iterator[Spooled]:
        """The samples, the oldest first. Damaged files are counted and left out."""
        for number in sorted(self._sizes):
            try:
                data = read_small(self._path(number), "spooled sample", self._max_bytes, error=BundleError)
                yield decode(data, number)
            except (BundleError, OSError):
                self.counts.damaged += 1

    def remove(self, number: int) -> None:
        """Forget a sample, once it has found its way. Nothing happens when it is gone already."""
        with self._threads:
            if self._sizes.pop(number, None) is not None:
                self._path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have the folder."""
        with self._threads:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:016d}{SUFFIX}"

    def _refuse_foreign(self) -> None:
        for entry in os.scandir(self.folder):
            ours = _NAME.fullmatch(entry.name) or _UNFINISHED.fullmatch(entry.name) or entry.name == _LOCK
            if not (ours and entry.is_file(follow_symlinks=False)):
                raise UsageError(
                    f"{self.folder} is no spool",
                    got=f"a file named {entry.name!r}",
                    expected=f"an empty folder, or samples named such as {self._path(1).name}",
                    remedy="name another folder",
                )

    def _recovered(self) -> dict[int, int]:
        """Sizes by number; what a killed process left unfinished is removed."""
        sizes = {}
        for entry in os.scandir(self.folder):
            if _UNFINISHED.fullmatch(entry.name):
                os.unlink(entry.path)
            elif found := _NAME.fullmatch(entry.name):
                sizes[int(found[1])] = entry.stat(follow_symlinks=False).st_size
        return sizes

    def _make_room(self, size_bytes: int, entries: int) -> None:
        total = self.size_bytes
        for number in sorted(self._sizes):
            if total + size_bytes <= self._max_bytes and len(self._sizes) + entries <= self._max_entries:
                return
            self._path(number).unlink(missing_ok=True)
            total -= self._sizes.pop(number)
            self.counts.dropped += 1

    def _write(self, data: bytes) -> None:
        path = self._path(self._next)
        unfinished = path.with_name(f".{path.name}{_PARTIAL}")
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            sync_folder(self.folder)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        self._sizes[self._next] = len(data)
        self._next += 1


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(
            "another process uses the spool", got=str(path.parent), remedy="name another folder"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
