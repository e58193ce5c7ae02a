"""What is profiled: a bundle's segments, opened with and without their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeexit.bundle import Bundle
from edgeexit.policies import Policy
from edgeexit_runtime.backends import Backend, Segment, SessionSettings
from edgeexit_runtime.profiling.unchecked import UncheckedChain, unchecked_chain

__all__ = ["Subject", "opened_subject"]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        bundle: The bundle.
        policy: Its policy.
        backend: Where the segments were opened.
        segments: All of its segments.
        unchecked: The same without the exits' checks; None where this backend cannot leave them out.
        settings: How the segments were opened.
        target: The name of the target whose settings these are.
    """

    bundle: Bundle
    policy: Policy
    backend: Backend
    segments: Sequence[Segment]
    unchecked: UncheckedChain | None
    settings: SessionSettings
    target: str | None = None


def opened_subject(
    bundle: Bundle, backend: Backend, settings: SessionSettings, *, largest: int, target: str | None = None
) -> Subject:
    """Open all segments of a bundle, with and without their checks, for batches of up to `largest` samples.

    Raises:
        BundleError: A segment is malformed.
        BackendError: The backend cannot run it.
    """
    entries = bundle.manifest.segments
    segments = [backend.open(bundle.segment(k), entry, bundle.exits, settings) for k, entry in enumerate(entries)]
    unchecked = unchecked_chain(bundle, backend, segments, settings, largest)
    return Subject(bundle, bundle.policy(), backend, segments, unchecked, settings, target)
