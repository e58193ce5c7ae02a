"""Profiles on disk: read with care, written at once or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from edgeexit.bundle.reader import Bundle
from edgeexit.bundle.staging import replace, staging_folder
from edgeexit.errors import DeviceError, UsageError
from edgeexit.files import read_small
from edgeexit.manifest import Manifest
from edgeexit.profiles.document import REMEDY, decode_profile, encode_profile
from edgeexit.profiles.structure import FORMAT_NAME, Profile, check_belongs

__all__ = ["MAX_PROFILE_BYTES", "check_profile_path", "read_profile", "write_profile"]

MAX_PROFILE_BYTES = 1 << 20


def read_profile(path: str | Path, bundle: Bundle | Manifest | None = None) -> Profile:
    """Read a profile. Its size and its digest are checked before anything is parsed.

    Args:
        path: The file.
        bundle: What the profile must be of; anything when None.

    Raises:
        DeviceError: The file cannot be read, is no profile, was altered, is of a newer version, holds
            values that make no sense, or is of another bundle.
    """
    profile = decode_profile(_content(Path(path)), str(path))
    if bundle is not None:
        check_belongs(profile, bundle.manifest if isinstance(bundle, Bundle) else bundle, str(path))
    return profile


def write_profile(path: str | Path, profile: Profile) -> None:
    """Write a profile; the file is there as a whole or not at all.

    Raises:
        DeviceError: A value makes no sense.
        UsageError: The file cannot be written, or `path` holds something that is no profile.
    """
    data = encode_profile(profile)
    destination = check_profile_path(path)
    try:
        with staging_folder(destination) as staging:
            new = staging / "new"
            with new.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            replace(new, destination)
    except OSError as error:
        raise UsageError(f"{path} cannot be written", got=error.strerror) from error


def check_profile_path(path: str | Path) -> Path:
    """Find out early whether `write_profile` may write to `path`.

    Returns:
        The path, symbolic links resolved.

    Raises:
        UsageError: Its folder is missing, or `path` holds something that is no profile.
    """
    try:
        destination = Path(os.path.realpath(path))
        if not destination.parent.is_dir():
            raise UsageError(
                f"{path} cannot be written, because its folder does not exist",
                remedy=f"mkdir -p '{destination.parent}'",
            )
        if os.path.lexists(destination) and not (destination.is_file() and _is_ours(destination)):
            raise UsageError(
                f"{path} exists and is not a profile, so it is not replaced",
                remedy="choose another name, or remove it first",
            )
    except OSError as error:
        raise UsageError(f"{path} cannot be written", got=error.strerror) from error
    except ValueError as error:
        raise UsageError("the profile's path cannot be a path", got=repr(path)) from error
    return destination


def _content(path: Path) -> bytes:
    try:
        return read_small(path, "profile", MAX_PROFILE_BYTES, error=DeviceError)
    except OSError as error:
        raise DeviceError(f"{path} cannot be read", got=error.strerror, expected="a profile", remedy=REMEDY) from error
    except ValueError as error:
        raise DeviceError("the profile's path cannot be a path", got=repr(str(path))) from error


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return f'"{FORMAT_NAME}"'.encode() in file.read(256)
