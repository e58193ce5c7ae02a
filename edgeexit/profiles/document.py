"""A profile's bytes: sealed JSON, and what of it makes sense."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

import msgspec

from edgeexit.errors import DeviceError
from edgeexit.profiles.structure import FORMAT_NAME, FORMAT_VERSION, Profile
from edgeexit.sealed import seal, unseal

__all__ = ["REMEDY", "decode_profile", "encode_profile"]

REMEDY = "measure again: edgeexit profile"
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


def encode_profile(profile: Profile) -> bytes:
    """The bytes of a profile's file.

    Raises:
        DeviceError: A value has the wrong type or makes no sense.
    """
    try:
        compact = msgspec.json.encode(profile, order="deterministic")
        same = msgspec.json.decode(compact, type=Profile) == profile
    except (TypeError, *_UNREADABLE) as error:
        raise DeviceError("the profile has a value of the wrong type", got=error) from error
    if not same:
        raise DeviceError("a number of the profile is NaN or infinite, or a list stands where a tuple belongs")
    _check_sense(profile, "the profile")
    return seal(compact)


def decode_profile(data: bytes, file: str) -> Profile:
    """The profile in a file's bytes; see `read_profile`.

    Raises:
        DeviceError: As `read_profile`; the message names `file`.
    """
    document = unseal(data, file, "profile", error=DeviceError, remedy=REMEDY)
    try:
        _check_version(msgspec.json.decode(document, type=_Version), file)
        profile = msgspec.json.decode(document, type=Profile)
    except _UNREADABLE as error:
        raise DeviceError(
            f"{file} is not a profile of format version {FORMAT_VERSION}", got=error, remedy=REMEDY
        ) from error
    _check_sense(profile, file)
    return profile


class _Version(msgspec.Struct):
    format: str
    version: int


def _check_version(found: _Version, file: str) -> None:
    if found.format != FORMAT_NAME:
        raise DeviceError(f"{file} is of another format", got=repr(found.format[:100]), expected=FORMAT_NAME)
    if found.version != FORMAT_VERSION:
        newer = found.version > FORMAT_VERSION
        raise DeviceError(
            f"{file} is of a {'newer format than this EdgeExit can read' if newer else 'format that never was'}",
            got=f"format version {found.version}",
            expected=f"format version {FORMAT_VERSION}",
            remedy="upgrade with: pip install --upgrade edgeexit" if newer else REMEDY,
        )


def _check_sense(profile: Profile, file: str) -> None:
    def refuse(what: str, got: object, expected: str) -> DeviceError:
        return DeviceError(f"{file}: {what} make no sense", got=str(got)[:200], expected=expected, remedy=REMEDY)

    batches, exits = profile.batches, len(profile.segments)
    if batches[:1] != (1,) or any(a >= b for a, b in pairwise(batches)):
        raise refuse("the batch sizes", batches, "rising numbers from 1")
    if exits == 0:
        raise refuse("the segments", "none", "at least one")
    for entry in profile.segments:
        for times in (entry.run_ms, entry.check_ms, entry.compact_ms, entry.decide_ms):
            if times is not None and (len(times) != len(batches) or not all(map(isfinite, times))):
                raise refuse(f"the times of {entry.name!r}", times, f"{len(batches)} numbers of milliseconds")
    rises = all(a < b for a, b in pairwise(profile.exits_ms))
    if len(profile.exits_ms) != exits or not all(map(isfinite, profile.exits_ms)) or not rises:
        raise refuse("the exits' times", profile.exits_ms, f"{exits} rising numbers of milliseconds")
    energy = profile.energy_mj
    if energy is not None and (len(energy) != exits or not all(map(isfinite, energy))):
        raise refuse("the exits' energies", energy, f"{exits} numbers of millijoules")
