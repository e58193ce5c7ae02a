"""The choice among alternatives: the least of what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from edgeexit.errors import DeviceError, UnreachableError
from edgeexit_runtime.planning.alternatives import Alternative

__all__ = ["GOALS", "Goal", "best", "best_of_each"]

Goal = Literal["latency", "energy", "server-cost"]

GOALS: Mapping[Goal, str] = {
    "latency": "the mean time until the answer, ms",
    "energy": "the device's energy a sample, mJ",
    "server-cost": "the time that the later tiers spend on a sample, ms",
}
"""What may be asked for, and what is made as small as can be."""


def best(found: Iterable[Alternative], goal: Goal, max_latency_ms: float | None = None) -> Alternative:
    """The alternative with the least of a goal; of equals the quickest, then the one that sends least.

    Args:
        found: At least one.
        goal: What to make small.
        max_latency_ms: How long the mean sample may take.

    Raises:
        DeviceError: Energy is asked for, and the device's profile does not tell it.
        UnreachableError: None is quick enough.
    """
    kept = list(found)
    if goal == "energy" and any(one.device_mj is None for one in kept):
        raise DeviceError(
            "the device's profile has no energy to plan with",
            remedy="measure it where the device tells: edgeexit profile; or plan for --goal server-cost",
        )
    if max_latency_ms is not None:
        quick = [one for one in kept if one.latency_ms <= max_latency_ms]
        if not quick:
            raise UnreachableError(
                "no way to cut the bundle is quick enough",
                got=f"at most {max_latency_ms:g} ms in the mean",
                expected=f"at least {min(one.latency_ms for one in kept):.3f} ms, the quickest",
                remedy="allow more time, or give a faster link or tier",
            )
        kept = quick
    return min(kept, key=lambda one: _rank(one, goal))


def best_of_each(
    found: Sequence[Alternative], goal: Goal, max_latency_ms: float | None = None
) -> tuple[Alternative, ...]:
    """For each row of cuts its best payloads, in the order of the cuts.

    Where none of them is quick enough the quickest stands for all.

    Raises:
        DeviceError: As for `best`.
    """
    groups: dict[tuple[int, ...], list[Alternative]] = {}
    for one in found:
        groups.setdefault(one.cuts, []).append(one)
    chosen = []
    for group in groups.values():
        within = [one for one in group if max_latency_ms is None or one.latency_ms <= max_latency_ms]
        chosen.append(best(within, goal) if within else best(group, "latency"))
    return tuple(chosen)


def _rank(one: Alternative, goal: Goal) -> tuple[float, float, float, float]:
    costs: dict[str, float] = {
        "latency": one.latency_ms,
        "energy": one.device_mj or 0.0,
        "server-cost": one.server_ms,
    }
    return costs[goal], one.latency_ms, sum(one.sent_bytes), sum(p.changed or 0.0 for p in one.payloads if p)
