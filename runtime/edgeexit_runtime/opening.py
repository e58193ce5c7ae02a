"""What has to be settled before a cascade is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest, SegmentEntry
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.costmodel import CostModel, ObservedCosts
from edgeexit_runtime.settings import session_settings
from edgeexit_runtime.tap import tapped_entry

if TYPE_CHECKING:
    from edgeexit.profiles import Profile

__all__ = ["check_count", "cost_model", "segment_entries", "settings_for"]


def check_count(segments: int, manifest: Manifest) -> None:
    """Refuse a number of segments that the bundle does not have.

    Raises:
        UsageError: It is below 1 or too large.
    """
    if not 1 <= segments <= len(manifest.segments):
        raise UsageError(
            "that is not a number of segments of this bundle",
            got=segments,
            expected=f"1 to {len(manifest.segments)}",
        )


def segment_entries(manifest: Manifest, count: int, tapped: bool) -> tuple[SegmentEntry, ...]:
    """The entries of the first `count` segments, with their features as outputs where they are tapped."""
    entries = manifest.segments[:count]
    return tuple(map(tapped_entry, entries)) if tapped else entries


def settings_for(target: str | Path | None, threads: int | None, shared_pool: bool) -> SessionSettings:
    """How to run segments on a target, given by its name or file.

    Raises:
        DeviceError: The target file cannot be used.
        UsageError: No such target, or `threads` is below 1.
    """
    if target is None:
        return session_settings(None, threads, shared_pool=shared_pool)
    from edgeexit.targets import load_target  # reads TOML, which a start without a target need not

    return session_settings(load_target(target), threads, shared_pool=shared_pool)


def cost_model(profile: str | Path | Profile | None, manifest: Manifest, steps: int) -> CostModel:
    """The cost model of the first `steps` segments: out of a profile, or one that learns.

    Raises:
        DeviceError: The profile cannot be read, or is of another bundle.
    """
    if profile is None:
        return ObservedCosts(manifest, steps)
    from edgeexit.profiles import Profile, check_belongs, read_profile
    from edgeexit_runtime.costmodel.measured import MeasuredCosts

    if isinstance(profile, Profile):
        check_belongs(profile, manifest, "the profile")
    else:
        profile = read_profile(profile, manifest)
    return MeasuredCosts(profile, manifest, steps)
