"""Files of sensors: one line of text or one number each."""

from __future__ import annotations

import re
from pathlib import Path

from edgeexit.errors import BackendError

__all__ = ["listed", "number_of", "text_of"]

_NUMBER = re.compile(r"-?[0-9]{1,20}")


def listed(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder; nothing where there is no folder.

    Raises:
        BackendError: The folder cannot be read.
    """
    try:
        return sorted(folder.glob(pattern))
    except OSError as error:
        raise BackendError(f"{folder} cannot be read", got=error.strerror) from error


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        BackendError: It cannot be read; where permission is missing, with the command that gives it.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError as error:
        raise BackendError(
            f"{path} is there and cannot be read", got=error.strerror, remedy=f"sudo chmod a+r {path}"
        ) from error
    except OSError as error:
        raise BackendError(f"{path} cannot be read", got=error.strerror) from error


def number_of(path: Path) -> int:
    """A file's number.

    Raises:
        BackendError: It cannot be read, or holds no number.
    """
    text = text_of(path)
    if not _NUMBER.fullmatch(text):
        raise BackendError(f"{path} does not hold a number", got=repr(text[:40]))
    return int(text)
