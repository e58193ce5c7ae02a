"""Folders: which picture files are in them, class by class, in sorted order.

Hidden files (their name starts with a dot), `Thumbs.db` and `desktop.ini` are ignored. Everything
else has to be a picture: a file that is not one is named, never skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edgeexit.data.pictures import SUFFIXES
from edgeexit.errors import DataError

__all__ = ["class_folders", "folder_names", "pictures_below"]

Kind = Literal["folder", "file", "other"]
LITTER = frozenset({"thumbs.db", "desktop.ini"})


def class_folders(root: Path) -> dict[str, list[str]]:
    """The pictures of every class: subfolder name -> paths relative to `root`, with forward slashes.

    Classes and paths are sorted as strings, so folder "10" comes before "2". A class folder may
    have subfolders.

    Raises:
        DataError: There are no class folders, a class without pictures, a file outside of the
            class folders, or a file that is not a picture.
    """
    classes: dict[str, list[str]] = {}
    for name, kind in _entries(root):
        if kind != "folder":
            raise DataError(
                f"{root / name} lies outside of the class folders",
                got="a file beside them",
                expected=f"nothing but one folder per class in {root}",
                remedy="move it into the folder of its class, or out of the data folder; "
                "data without labels need no folders: --labels model, where the command has it",
            )
        classes[name] = pictures_below(root, name)
        if not classes[name]:
            raise _no_pictures(root / name)
    if not classes:
        raise _no_pictures(root)
    return classes


def folder_names(root: Path) -> tuple[str, ...]:
    """The subfolders, sorted, where there is nothing beside them; else none: they stand for no classes then.

    Raises:
        DataError: The folder cannot be read.
    """
    entries = _entries(root)
    return tuple(name for name, _ in entries) if all(kind == "folder" for _, kind in entries) else ()


def pictures_below(root: Path, folder: str = "") -> list[str]:
    """Every picture below `root/folder`, as sorted paths relative to `root`; may be empty.

    Raises:
        DataError: A file is not a picture, is not a regular file, or a folder cannot be read.
    """
    return list(_walk(root, folder, ()))


def _walk(root: Path, folder: str, ancestors: tuple[str, ...]) -> Iterator[str]:
    here = os.path.realpath(root / folder)
    if here in ancestors:
        raise DataError(
            f"{root / folder} leads back into itself",
            got=f"a link to {here}",
            expected="folders without loops",
            remedy="remove the link",
        )
    for name, kind in _entries(root / folder):
        path = f"{folder}/{name}" if folder else name
        suffix = os.path.splitext(name)[1].lower()
        if kind == "folder":
            yield from _walk(root, path, (*ancestors, here))
        elif kind == "file" and suffix in SUFFIXES:
            yield path
        else:
            raise DataError(
                f"{root / path} is not a picture",
                got=f"a file of the type '{suffix}'" if kind == "file" else "not a regular file",
                expected=f"a name that ends in one of {', '.join(sorted(SUFFIXES))}",
                remedy="take it out of the data folder",
            )


def _entries(folder: Path) -> list[tuple[str, Kind]]:
    """Names and kinds in a folder, sorted, links followed, litter left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, "folder" if entry.is_dir() else "file" if entry.is_file() else "other")
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in LITTER
            )
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read", got=error.strerror, expected="a folder that can be listed"
        ) from error


def _no_pictures(folder: Path) -> DataError:
    return DataError(
        f"{folder} holds no pictures",
        got="an empty folder",
        expected="one folder per class with pictures in each",
        remedy="check the path; remove the folder of a class that is not used",
    )
