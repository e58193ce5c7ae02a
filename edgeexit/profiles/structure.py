"""What a profile holds, as frozen structures that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgeexit.digest import sha256
from edgeexit.errors import DeviceError
from edgeexit.manifest import Manifest

__all__ = ["FORMAT_NAME", "FORMAT_VERSION", "Machine", "Profile", "SegmentProfile", "check_belongs", "identity"]

FORMAT_NAME = "edgeexit-profile"
FORMAT_VERSION = 1

Ms = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Times = tuple[Ms, ...]


class _Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all entries: immutable, keyword-only, unknown keys refused."""


class Machine(_Frozen, frozen=True, kw_only=True):
    """Where the profile was measured. No host or user names."""

    cpu: str
    cores: Count  # that the process might use
    architecture: str
    system: str
    python: str
    packages: dict[str, str]


class SegmentProfile(_Frozen, frozen=True, kw_only=True):
    """One segment. Every tuple has one value, in milliseconds, for each of the profile's `batches`."""

    name: str  # the exit's
    run_ms: Times  # the segment with its check
    check_ms: Times | None  # what of it is the exit's check; None where that could not be told apart
    compact_ms: Times  # keeping that many scattered samples of what crosses behind it; 0 behind the last
    decide_ms: Times  # the policy's decision on that many samples


class Profile(_Frozen, frozen=True, kw_only=True):
    """What was measured on one device, with one backend and one number of threads.

    `exits_ms` and `energy_mj` are for a single sample, from the start until each exit answers.
    """

    format: str = FORMAT_NAME
    version: int = FORMAT_VERSION
    bundle: Digest  # see `identity`
    precision: str
    backend: str
    threads: Count
    target: str | None
    machine: Machine
    batches: tuple[Count, ...]  # rising, from 1
    segments: tuple[SegmentProfile, ...]
    exits_ms: Times  # strictly rising
    energy_mj: Times | None  # None: this device does not tell
    energy_note: str  # where the energy comes from, or why there is none


def identity(manifest: Manifest) -> str:
    """What tells which bundles a profile is of: the SHA-256 of the segments' SHA-256s, joined by line ends.

    Thresholds, policies and class means may change under a profile, since none of them changes what a
    segment costs.
    """
    return sha256("\n".join(entry.file.sha256 for entry in manifest.segments).encode())


def check_belongs(profile: Profile, manifest: Manifest, file: str) -> None:
    """Refuse a profile of other segments; messages call it `file`.

    Raises:
        DeviceError: It is of another bundle.
    """
    names = [entry.name for entry in profile.segments]
    expected = [entry.name for entry in manifest.exits]
    if profile.bundle != identity(manifest) or names != expected:
        raise DeviceError(
            f"{file} is of another bundle: its segments are not these",
            got=f"{len(names)} segments, {profile.bundle[:12]}…",
            expected=f"{len(expected)} segments, {identity(manifest)[:12]}…",
            remedy="measure this one: edgeexit profile",
        )
