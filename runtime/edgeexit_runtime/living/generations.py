"""Generations: a folder of bundles of which one is current, so that a device can go back.

    FOLDER/
      000001.eexit
      000002.eexit
      current -> 000002.eexit

`current` is a symbolic link, so every command can be given FOLDER/current. It is replaced by one rename,
after the bundle that it points to has been written and flushed: a kill or a power cut at any moment
leaves a current bundle that is whole. What a killed writer leaves behind is cleared by the next.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeexit.bundle import ARCHIVE_SUFFIX, Bundle, write_bundle
from edgeexit.bundle.staging import sync_folder
from edgeexit.errors import UsageError
from edgeexit.manifest import FORMAT_VERSION

__all__ = ["KEPT", "Generations"]

KEPT = 5
"""How many generations are kept unless somebody says otherwise."""

CURRENT = "current"
_LINK = ".current.partial"
_NAME = re.compile(r"(\d{6,})" + re.escape(ARCHIVE_SUFFIX))
_UNFINISHED = re.compile(r"\.\d{6,}" + re.escape(ARCHIVE_SUFFIX) + r"\.partial")


class Generations:
    """Bundles in the order in which they were installed.

    Going back makes the generation before the current one current. Generations that were left behind
    in this way are removed when another is installed: after going back from 3 to 2, the next is 4, and
    what comes before 4 is 2.

    Args:
        folder: Where they are; made when the first is installed. Its file system must know symbolic links.
        keep: How many to keep at most, the current one among them; at least 2.

    Raises:
        UsageError: `keep` is below 2.
    """

    def __init__(self, folder: str | Path, *, keep: int = KEPT) -> None:
        if keep < 2:
            raise UsageError("with one generation there is nothing to go back to", got=keep, expected="at least 2")
        self.folder = Path(folder)
        self._keep = keep

    def installed(self) -> list[Path]:
        """The generations, the oldest first, up to the current one."""
        number = self._current()
        return [] if number is None else [self._path(n) for n in self._numbers() if n <= number]

    def current(self) -> Path:
        """The current bundle's own path.

        Raises:
            UsageError: There is none.
        """
        number = self._current()
        if number is None:
            raise UsageError(
                f"{self.folder} has no current bundle",
                expected=f"a folder of generations with a link named {CURRENT}",
                remedy=f"edgeexit install BUNDLE {self.folder}",
            )
        return self._path(number)

    def install(self, bundle: Bundle) -> Path:
        """Write a bundle as the newest generation, and make it current.

        Returns:
            Its path.

        Raises:
            BundleError: The bundle's statistics are gone or changed since it was opened. Nothing has changed.
            UsageError: The folder cannot be written, or another process is installing.
        """
        with self._alone():
            self._clear()
            before = self._current()
            numbers = self._numbers()
            number = max(numbers, default=0) + 1
            manifest = msgspec.structs.replace(bundle.manifest, version=FORMAT_VERSION)
            write_bundle(self._path(number), manifest, bundle.contents)
            for left_behind in [n for n in numbers if before is None or n > before]:
                self._path(left_behind).unlink()
            self._point_to(number)
            for old in self._numbers()[: -self._keep]:
                self._path(old).unlink()
            return self._path(number)

    def roll_back(self) -> Path:
        """Make the generation before the current one current.

        Returns:
            Its path.

        Raises:
            UsageError: There is none before it, or another process is installing.
        """
        self.current()
        with self._alone():
            installed = self.installed()
            if len(installed) < 2:
                raise UsageError(
                    f"{self.folder} has nothing to go back to", got=", ".join(path.name for path in installed)
                )
            Bundle.open(installed[-2])
            self._point_to(int(installed[-2].stem))
            return installed[-2]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}{ARCHIVE_SUFFIX}"

    def _numbers(self) -> list[int]:
        """Of all generations, rising, those left behind and those never made current among them."""
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for name in os.listdir(self.folder) if (match := _NAME.fullmatch(name)))

    def _current(self) -> int | None:
        try:
            target = os.readlink(self.folder / CURRENT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{self.folder / CURRENT} is not a link", got=error.strerror) from error
        match = _NAME.fullmatch(target)
        if match is None or not self._path(int(match[1])).is_file():
            raise UsageError(
                f"{self.folder / CURRENT} does not point to a generation", got=target, expected="such as 000001.eexit"
            )
        return int(match[1])

    def _clear(self) -> None:
        """Remove what a killed process left; the lock says that none is at work."""
        for name in os.listdir(self.folder):
            if _UNFINISHED.fullmatch(name):
                shutil.rmtree(self.folder / name)

    def _point_to(self, number: int) -> None:
        link = self.folder / _LINK
        link.unlink(missing_ok=True)
        link.symlink_to(self._path(number).name)
        link.replace(self.folder / CURRENT)
        sync_folder(self.folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, and translate the operating system's errors."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
            finally:
                os.close(descriptor)
        except BlockingIOError as error:
            raise UsageError(
                "another process is changing the generations", got=str(self.folder), remedy="wait until it is done"
            ) from error
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be used", got=error.strerror, remedy="check the folder's permissions and space"
            ) from error
