"""Policies: when a sample may leave, and with which answer.

A policy is a pure function of the exit's index, its logits and a small state per sample. The same
object replays cached logits on a workstation and decides on the device, so both always agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeexit.policies.base import PLAIN, Decision, Policy, PolicyKind, Setting, State, Verdict
from edgeexit.policies.table import AUTO, POLICIES, PolicyRow, load_policy, policy_kind

if TYPE_CHECKING:
    from edgeexit.policies.max_probability import MaxProbability as MaxProbability
    from edgeexit.policies.pooled import PooledProbability as PooledProbability

__all__ = [
    "AUTO",
    "PLAIN",
    "POLICIES",
    "Decision",
    "MaxProbability",
    "Policy",
    "PolicyKind",
    "PolicyRow",
    "PooledProbability",
    "Setting",
    "State",
    "Verdict",
    "load_policy",
    "policy_kind",
]

_LAZY = {row.where.partition(":")[2]: name for name, row in POLICIES.items()}


def __getattr__(name: str) -> Any:
    """A policy's class, imported when it is asked for."""
    if name in _LAZY:
        return policy_kind(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
