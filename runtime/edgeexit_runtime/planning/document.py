"""A plan as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeexit.profiles import Profile
from edgeexit_runtime.planning.alternatives import Alternative
from edgeexit_runtime.planning.choice import Goal
from edgeexit_runtime.planning.scenario import Scenario

__all__ = ["document"]


def document(
    bundle: str,
    scenario: Scenario,
    measured: Sequence[Profile],
    goal: Goal,
    max_latency: float | None,
    rows: Sequence[Alternative],
    chosen: Alternative,
    commands: Mapping[str, str],
    said: Sequence[str],
) -> dict[str, Any]:
    """What `edgeexit plan --json` prints.

    Args:
        bundle: Its path.
        scenario: What was reckoned with.
        measured: The tiers' profiles.
        goal: What was made small.
        max_latency: How long the mean sample might take, milliseconds.
        rows: The best of each row of cuts.
        chosen: The best of all, one of `rows`.
        commands: That put it to work, by tier.
        said: What was assumed.
    """
    pairs = zip(scenario.tiers, measured, strict=True)
    return {
        "bundle": bundle,
        "goal": goal,
        "max_latency_ms": max_latency,
        "tiers": [
            {
                "name": tier.name,
                "cpu": of.machine.cpu,
                "backend": of.backend,
                "threads": of.threads,
                "batch": tier.batch,
            }
            for tier, of in pairs
        ],
        "links": [{"bandwidth_mbit": link.bandwidth_mbit, "rtt_ms": link.rtt_ms} for link in scenario.links],
        "best": rows.index(chosen),
        "alternatives": [_entry(scenario, one) for one in rows],
        "commands": dict(commands),
        "assumptions": list(said),
    }


def _entry(scenario: Scenario, one: Alternative) -> dict[str, Any]:
    return {
        "segments": [list(span) for span in one.spans(scenario.count)],
        "payloads": [
            None if p is None else {"precision": p.precision, "size_bytes": p.size_bytes, "changed": p.changed}
            for p in one.payloads
        ],
        "latency_ms": one.latency_ms,
        "last_exit_ms": one.last_ms,
        "tier_ms": one.tier_ms,
        "network_ms": one.network_ms,
        "sent": one.sent,
        "sent_bytes": one.sent_bytes,
        "batched_ms": one.busy_ms,
        "server_ms": one.server_ms,
        "device_mj": one.device_mj,
    }
