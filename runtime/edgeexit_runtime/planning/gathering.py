"""A scenario from a bundle, its profiles and the links between the tiers."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.bundle import Bundle
from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest, TensorSpec
from edgeexit.payload import MAX_CHANGED, PRECISIONS, packed_bytes
from edgeexit.profiles import Profile
from edgeexit.tails import boundary, policy_states
from edgeexit_runtime.planning.scenario import INPUT, Link, Payload, Scenario, TierCosts

__all__ = ["MAX_TIERS", "gather", "tier_names"]

MAX_TIERS = 4
"""With more, the ways to cut get too many to try them all."""


def gather(
    bundle: Bundle,
    profiles: Sequence[Profile],
    links: Sequence[Link],
    *,
    precision: str | None = None,
    radio_watts: float = 0.0,
) -> Scenario:
    """What is known of a bundle on these tiers.

    Args:
        bundle: Its exits' shares are those of the calibration split.
        profiles: From the device on, all of this bundle.
        links: One for all, or one from each tier to the next.
        precision: What boundary tensors are sent in. When None, any that changed at most `MAX_CHANGED` of the samples
            at export; where that was not measured, fp32.
        radio_watts: What the device draws while it sends.

    Raises:
        UsageError: There are too few or too many tiers, or links that do not fit them.
    """
    count = len(profiles)
    if not 2 <= count <= MAX_TIERS:
        raise UsageError(
            "a plan needs the profile of each tier",
            got=f"{count} profiles",
            expected=f"2 to {MAX_TIERS}, from the device on",
            remedy="add --profile for the next tier, measured there with: edgeexit profile",
        )
    if len(links) not in (1, count - 1):
        raise UsageError("links and tiers do not fit", got=f"{len(links)} links", expected=f"1 or {count - 1}")
    manifest = bundle.manifest
    states = policy_states(bundle.policy(), len(manifest.segments), len(manifest.labels))
    return Scenario(
        exits=tuple(entry.name for entry in manifest.exits),
        shares=manifest.calibration.exit_shares,
        tiers=tuple(TierCosts.of(*pair) for pair in zip(tier_names(count), profiles, strict=True)),
        links=tuple(links) * (count - 1 if len(links) == 1 else 1),
        payloads=tuple(_payloads(manifest, k, state, precision) for k, state in enumerate(states)),
        radio_watts=radio_watts,
    )


def tier_names(count: int) -> tuple[str, ...]:
    """What tables call this many tiers, from the device on."""
    if count <= 2:
        return ("device", "server")[:count]
    gateways = ("gateway",) if count == 3 else tuple(f"gateway {number}" for number in range(1, count - 1))
    return ("device", *gateways, "server")


def _payloads(manifest: Manifest, k: int, state: Sequence[TensorSpec], wanted: str | None) -> tuple[Payload, ...]:
    state_bytes = sum(spec.size_bytes for spec in state)
    found = [Payload(INPUT, sum(spec.size_bytes for spec in manifest.inputs), 0.0)]
    changed = _changed(manifest, k)
    sizes: set[int] = set()
    for precision in PRECISIONS if k else ():
        allowed = changed.get(precision, 1.0) <= MAX_CHANGED
        if not (allowed if wanted is None else precision == wanted):
            continue
        size_bytes = state_bytes + sum(packed_bytes(spec, precision) for spec in boundary(manifest, k))
        if size_bytes not in sizes:  # integers stay what they are in all precisions
            found.append(Payload(precision, size_bytes, changed.get(precision)))
            sizes.add(size_bytes)
    return tuple(found)


def _changed(manifest: Manifest, k: int) -> dict[str, float]:
    """What rounding in front of segment k changed on the calibration split, where that was measured."""
    measured = manifest.segments[k].payloads or ()
    return {"fp32": 0.0, **{entry.precision: entry.changed for entry in measured}}
