"""Write a bundle so that a kill at any moment leaves the old one or none, never a part of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgeexit.bundle.archive import ARCHIVE_START, MAX_ARCHIVE_BYTES, archive_size_bytes, pack
from edgeexit.bundle.document import PREFIX, encode_manifest
from edgeexit.bundle.files import opened_entry, read_exactly
from edgeexit.bundle.layout import (
    ARCHIVE_SUFFIX,
    CHECK_FILE,
    EXITS_FILE,
    MANIFEST_FILE,
    SEGMENTS_FOLDER,
    STATISTICS_FILE,
    check_content,
    names,
)
from edgeexit.bundle.staging import replace, staging_folder, sync_folder
from edgeexit.bundle.validate import check_manifest
from edgeexit.bundle.values import check_exits, check_golden, check_statistics
from edgeexit.errors import BundleError, UsageError
from edgeexit.manifest import FORMAT_VERSION, Manifest
from edgeexit.tensors import load_tensors

__all__ = ["check_destination", "write_bundle"]


def write_bundle(path: str | Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Write a bundle: an archive if `path` ends in `.eexit`, else a folder.

    Equal arguments give equal bytes. The new bundle appears at `path` whole; a bundle that was
    there before is replaced.

    Args:
        path: Where to; its folder must exist.
        manifest: What the bundle holds.
        contents: Bytes of every file that the manifest lists, by path.

    Raises:
        BundleError: Manifest and contents do not make a valid bundle. Nothing was written.
        UsageError: `path` holds something that is no bundle, or cannot be written. Nothing is left behind.
    """
    document = _validated(manifest, contents)
    files = {MANIFEST_FILE: document, **{name: contents[name] for name in names(manifest)[1:]}}
    destination = check_destination(path)
    try:
        with staging_folder(destination) as staging:
            new = staging / "new"
            if _is_archive(path):
                _write_archive(new, files)
            else:
                _write_folder(new, files)
            check_destination(path)  # again: writing took time
            replace(new, destination)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_destination(path: str | Path) -> Path:
    """Find out early whether `write_bundle` may write to `path`.

    Returns:
        The path, symbolic links resolved.

    Raises:
        UsageError: Its folder is missing, or `path` holds something other than a bundle of the same form.
    """
    try:
        destination = Path(os.path.realpath(path))
        archive = _is_archive(path)
        if not destination.parent.is_dir():
            raise UsageError(
                f"{path} cannot be written, because its folder does not exist",
                remedy=f"mkdir -p '{destination.parent}'",
            )
        if os.path.lexists(destination) and not (
            _holds_archive(destination) if archive else _holds_folder(destination)
        ):
            raise UsageError(
                f"{path} exists and is not a bundle of this form, so it is not replaced",
                expected=f"an {ARCHIVE_SUFFIX} file" if archive else "the folder of a bundle",
                remedy="choose another name, or remove it first",
            )
    except OSError as error:
        raise _unwritable(path, error) from error
    except ValueError as error:
        raise UsageError("the bundle's path cannot be a path", got=repr(path)) from error
    return destination


def _validated(manifest: Manifest, contents: Mapping[str, bytes]) -> bytes:
    """manifest.json's bytes, once everything that a reader checks was checked."""
    if manifest.version != FORMAT_VERSION:
        raise BundleError("only the newest format is written", got=manifest.version, expected=FORMAT_VERSION)
    document = encode_manifest(manifest)
    check_manifest(manifest)
    listed = {entry.path: entry for entry in manifest.files()}
    if listed.keys() != contents.keys():
        raise BundleError(
            "the contents are not the files that the manifest lists",
            got=", ".join(sorted(contents)),
            expected=", ".join(sorted(listed)),
        )
    for path, entry in listed.items():
        check_content(entry, contents[path])
    check_exits(manifest, load_tensors(contents[EXITS_FILE], EXITS_FILE))
    check_golden(manifest, load_tensors(contents[CHECK_FILE], CHECK_FILE))
    if manifest.statistics_file is not None:
        check_statistics(manifest, load_tensors(contents[STATISTICS_FILE], STATISTICS_FILE))
    return document


def _write_folder(new: Path, files: Mapping[str, bytes]) -> None:
    (new / SEGMENTS_FOLDER).mkdir(parents=True)
    for name, data in files.items():
        _write_file(new / name, [data])
    sync_folder(new / SEGMENTS_FOLDER)
    sync_folder(new)


def _write_archive(new: Path, files: Mapping[str, bytes]) -> None:
    size_bytes = archive_size_bytes({name: len(data) for name, data in files.items()})
    if size_bytes > MAX_ARCHIVE_BYTES:
        raise UsageError(
            "the bundle is too large for an archive",
            got=f"{size_bytes} bytes",
            expected=f"at most {MAX_ARCHIVE_BYTES} bytes",
            remedy=f"write a folder: a name without {ARCHIVE_SUFFIX}",
        )
    _write_file(new, pack(files))


def _write_file(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _is_archive(path: str | Path) -> bool:
    return Path(path).suffix == ARCHIVE_SUFFIX


def _holds_archive(path: Path) -> bool:
    """Whether the file is an archive of ours, whole or damaged."""
    return path.is_file() and _begins(path.parent, path.name, ARCHIVE_START, MANIFEST_FILE.encode() + PREFIX)


def _holds_folder(path: Path) -> bool:
    """Whether the folder is a bundle, whole or damaged, and holds nothing besides."""
    if not path.is_dir() or not _begins(path, MANIFEST_FILE, PREFIX):
        return False
    segments = path / SEGMENTS_FOLDER
    ours = {MANIFEST_FILE, SEGMENTS_FOLDER, EXITS_FILE, CHECK_FILE, STATISTICS_FILE}
    return set(os.listdir(path)) <= ours and (
        not segments.is_dir() or all(name.endswith(".onnx") for name in os.listdir(segments))
    )


def _begins(folder: Path, name: str, *marks: bytes) -> bool:
    """Whether the file holds the marks, the first at its very start and the last soon after."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with opened_entry(descriptor, name, name) as file:
            start = read_exactly(file, 128)
    except BundleError:
        return False
    finally:
        os.close(descriptor)
    return start.startswith(marks[0]) and marks[-1] in start


def _unwritable(path: str | Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be written", got=error.strerror, remedy="check the folder's permissions and space"
    )
