"""Open a bundle: every byte is read once, hashed, and only then believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.bundle.archive import ArchiveSource
from edgeexit.bundle.document import decode_manifest
from edgeexit.bundle.folder import FolderSource
from edgeexit.bundle.layout import CHECK_FILE, EXITS_FILE, MANIFEST_FILE, STATISTICS_FILE, names, segment_path
from edgeexit.bundle.validate import check_manifest
from edgeexit.bundle.values import check_exits, check_golden, check_statistics
from edgeexit.errors import BundleError
from edgeexit.manifest import Manifest
from edgeexit.policies import Policy, load_policy
from edgeexit.tensors import load_tensors

__all__ = ["Bundle"]

_MESSAGE_CHARS = 400


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle in memory. When `open` returned, every byte of it had matched its hash.

    Attributes:
        path: Where it was read from.
        manifest: What the bundle holds, checked.
        size_bytes: Bytes of all files; an archive's own headers are left out.
        contents: The bytes of every file but the manifest, by path; the very bytes that were hashed.
            Those of `statistics.safetensors` are not kept: they are read, and hashed, again when asked for.
        exits: Tensors of exits.safetensors by name; read-only, finite.
    """

    path: Path
    manifest: Manifest
    size_bytes: int
    contents: Mapping[str, bytes] = field(repr=False)
    exits: dict[str, NDArray[Any]] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read a bundle in either form.

        Args:
            path: A folder, or an archive (`.eexit`).

        Raises:
            BundleError: There is none at `path`, or any part of it is missing, extra, altered or malformed.
        """
        path = Path(path)
        with _reporting(path), _source(path) as source:
            document = source.manifest()
            manifest = decode_manifest(document)
            check_manifest(manifest)
            contents = source.contents(manifest)
            exits = load_tensors(contents[EXITS_FILE], EXITS_FILE)
            check_exits(manifest, exits)
            size_bytes = len(document) + sum(entry.size_bytes for entry in manifest.files())
            return cls(path, manifest, size_bytes, _Contents(path, manifest, contents), exits)

    def segment(self, index: int) -> bytes:
        """The ONNX graph of segment `index`, counted from 0."""
        return self.contents[segment_path(index)]

    @cached_property
    def check(self) -> dict[str, NDArray[Any]]:
        """The golden samples of check.safetensors, g of them, read-only.

        `input.NAME` (g, …) for each input of the model, `logits.K` (g, classes) float32 for each
        exit, and the cascade's answers: `labels` (g,) int64, `exits` (g,) int64,
        `probabilities` (g,) float32.

        Raises:
            BundleError: A tensor is missing, extra, or does not fit the manifest.
        """
        with _reporting(self.path):
            tensors = load_tensors(self.contents[CHECK_FILE], CHECK_FILE)
            check_golden(self.manifest, tensors)
        return tensors

    def statistics(self) -> dict[str, NDArray[Any]] | None:
        """The tensors of statistics.safetensors, from which heads are updated; None where there are none.

        They are read now, and may take many MB.

        Raises:
            BundleError: The file is gone or was changed, or a tensor does not fit the manifest.
        """
        if self.manifest.statistics_file is None:
            return None
        with _reporting(self.path):
            tensors = load_tensors(self.contents[STATISTICS_FILE], STATISTICS_FILE)
            check_statistics(self.manifest, tensors)
        return tensors

    def policy(self) -> Policy:
        """The policy with the thresholds and tensors of this bundle.

        Raises:
            BundleError: The policy is unknown here, or its tensors do not fit.
        """
        with _reporting(self.path):
            return load_policy(self.manifest, self.exits)


class _Contents(Mapping[str, bytes]):
    """Bytes by path: those that were read, and statistics, which are left where they are until somebody asks."""

    def __init__(self, path: Path, manifest: Manifest, read: dict[str, bytes]) -> None:
        self._path, self._manifest, self._read = path.absolute(), manifest, read

    def __getitem__(self, name: str) -> bytes:
        entry = self._manifest.statistics_file
        if entry is None or name != entry.path:
            return self._read[name]
        with _reporting(self._path), _source(self._path) as source:
            source.manifest()
            return source.read(self._manifest, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(names(self._manifest)[1:])

    def __len__(self) -> int:
        return len(self._manifest.files())


@contextmanager
def _source(path: Path) -> Iterator[FolderSource | ArchiveSource]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BundleError("there is no bundle here", expected="a folder or an .eexit file") from error
    except ValueError as error:
        raise BundleError("this cannot be a path", got=error) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            yield FolderSource(descriptor)
        elif path.name == MANIFEST_FILE:
            raise BundleError(
                "this is a bundle's manifest", expected="its folder", remedy=f"give {path.parent} instead"
            )
        elif stat.S_ISREG(mode):
            yield ArchiveSource(descriptor)
        else:
            raise BundleError("not a bundle", got="neither a file nor a folder", expected="a folder or an .eexit file")
    finally:
        os.close(descriptor)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Put the bundle's path in front of every error, and translate those of the operating system."""
    try:
        yield
    except BundleError as error:
        problem, got, expected = (_shortened(text) for text in (error.problem, error.got, error.expected))
        raise BundleError(f"{path}: {problem}", got=got, expected=expected, remedy=error.remedy) from error
    except OSError as error:
        raise BundleError(f"{path}: the bundle cannot be read", got=error.strerror) from error


def _shortened(text: object) -> str | None:
    """At most a few lines of `text`: a false manifest can hold names of megabytes."""
    shown = None if text is None else str(text)
    return shown if shown is None or len(shown) <= _MESSAGE_CHARS else f"{shown[:_MESSAGE_CHARS]}…"
