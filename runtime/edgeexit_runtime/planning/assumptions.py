"""What a plan takes for granted, in words."""

from __future__ import annotations

from edgeexit.manifest import Manifest
from edgeexit.payload import MAX_CHANGED
from edgeexit_runtime.planning.alternatives import MESSAGE_BYTES
from edgeexit_runtime.planning.scenario import INPUT, Scenario

__all__ = ["assumptions"]


def assumptions(scenario: Scenario, manifest: Manifest) -> tuple[str, ...]:
    """One sentence each."""
    later = scenario.tiers[1:]
    batches = ", ".join(f"{tier.batch} on the {tier.name}" for tier in later)
    said = [
        f"Exits are taken as often as by the {manifest.calibration.samples} samples of the calibration split.",
        "Latency is of one sample alone: no queue, no other traffic, every tier as its profile measured it.",
        "A payload has crossed a link as a whole before the next tier begins; a tier without segments passes it on.",
        f"A message is {MESSAGE_BYTES} bytes longer than its payload, nothing is compressed, and the round trip "
        "includes the answer's way back.",
        "Packing, unpacking and the servers' own work on a message are not in the figures: about a millisecond.",
        f"Server cost is in batches of the size that is quickest a sample: {batches}.",
    ]
    if scenario.tiers[0].energy_mj is not None:
        said.append(
            f"The device's energy is that of running, as its profile has it, and of sending at "
            f"{scenario.radio_watts:g} W; what it draws while it waits for an answer is left out."
        )
    if _unmeasured(scenario):
        said.append("What rounding changes was not measured when this bundle was exported.")
    else:
        said.append(f"A precision is taken by itself where it changed at most {MAX_CHANGED:.1%} of samples at export.")
    return tuple(said)


def _unmeasured(scenario: Scenario) -> bool:
    options = [payload for options in scenario.payloads for payload in options]
    return any(payload.changed is None for payload in options if payload.precision not in (INPUT, "fp32"))
