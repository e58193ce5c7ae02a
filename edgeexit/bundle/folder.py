"""The folder form of a bundle, read through descriptors so that nothing is looked up twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from edgeexit.bundle.files import opened_entry, read_exactly
from edgeexit.bundle.layout import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SEGMENTS_FOLDER,
    STATISTICS_FILE,
    check_content,
    check_streamed,
    names,
    wrong_size,
)
from edgeexit.errors import BundleError
from edgeexit.manifest import FileEntry, Manifest

__all__ = ["FolderSource"]


class FolderSource:
    """Reads a bundle out of an open folder.

    Args:
        root: Descriptor of the folder; the caller closes it.
    """

    def __init__(self, root: int) -> None:
        self._root = root

    def manifest(self) -> bytes:
        """Bytes of manifest.json, unchecked.

        Raises:
            BundleError: It is missing, not a regular file, or too large.
        """
        with opened_entry(self._root, MANIFEST_FILE, MANIFEST_FILE) as descriptor:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > MAX_MANIFEST_BYTES:
                raise BundleError(
                    f"{MANIFEST_FILE} is too large",
                    got=f"{size_bytes} bytes",
                    expected=f"at most {MAX_MANIFEST_BYTES} bytes",
                )
            return read_exactly(descriptor, size_bytes)

    def contents(self, manifest: Manifest) -> dict[str, bytes]:
        """Every listed file, hash-checked, by path. Statistics are checked and not kept.

        Raises:
            BundleError: A file is missing, unlisted, linked, or not what the manifest says.
        """
        entries = {entry.path: entry for entry in manifest.files()}
        paths = names(manifest)
        with opened_entry(self._root, SEGMENTS_FOLDER, SEGMENTS_FOLDER, directory=True) as segments:
            _check_listing(self._root, {path.partition("/")[0] for path in paths}, "")
            _check_listing(segments, {os.path.basename(path) for path in paths if "/" in path}, f"{SEGMENTS_FOLDER}/")
            if manifest.statistics_file is not None:
                with _sized(self._root, manifest.statistics_file) as descriptor:
                    check_streamed(manifest.statistics_file, descriptor)
            return {
                path: _read(segments if "/" in path else self._root, entries[path])
                for path in paths
                if path not in (MANIFEST_FILE, STATISTICS_FILE)
            }

    def read(self, manifest: Manifest, entry: FileEntry) -> bytes:
        """One listed file that is not in a subfolder, hash-checked.

        Raises:
            BundleError: It is missing, linked, or not what the manifest says.
        """
        return _read(self._root, entry)


def _check_listing(folder: int, expected: set[str], prefix: str) -> None:
    found = set(os.listdir(folder))
    if missing := expected - found:
        raise BundleError(f"{prefix}{min(missing)} is missing", remedy="copy or export the bundle again")
    if extra := found - expected:
        raise BundleError(
            f"the bundle holds a file or folder that its manifest does not list: {prefix + min(extra)!r}",
            remedy="remove it, if you know why it is there",
        )


def _read(folder: int, entry: FileEntry) -> bytes:
    with _sized(folder, entry) as descriptor:
        data = read_exactly(descriptor, entry.size_bytes)
    check_content(entry, data)
    return data


@contextmanager
def _sized(folder: int, entry: FileEntry) -> Iterator[int]:
    """Descriptor of a listed file that has the size it should have."""
    with opened_entry(folder, os.path.basename(entry.path), entry.path) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes != entry.size_bytes:
            raise wrong_size(entry, size_bytes)
        yield descriptor
