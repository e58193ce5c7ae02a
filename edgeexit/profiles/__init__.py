"""Profiles: what a bundle's segments, checks and exits cost on one device, measured there.

The bytes are described in `docs/profiles.md`. A profile belongs to the segments that were measured: a bundle
that was tuned or updated keeps them, and so its profile; one that was exported anew does not.
"""

from __future__ import annotations

from edgeexit.profiles.document import decode_profile, encode_profile
from edgeexit.profiles.storing import MAX_PROFILE_BYTES, check_profile_path, read_profile, write_profile
from edgeexit.profiles.structure import (
    FORMAT_NAME,
    FORMAT_VERSION,
    Machine,
    Profile,
    SegmentProfile,
    check_belongs,
    identity,
)

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "MAX_PROFILE_BYTES",
    "Machine",
    "Profile",
    "SegmentProfile",
    "check_belongs",
    "check_profile_path",
    "decode_profile",
    "encode_profile",
    "identity",
    "read_profile",
    "write_profile",
]
