"""Policies: when a sample may leave, and with which answer.

A policy is a pure function of the exit's index, its logits and a small state per sample. The same
object replays cached logits on a workstation and decides on the device, so both always agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeexit.policies.base import PLAIN, Decision, Policy, PolicyKind, Setting, State, Verdict
from edgeexit.policies.table import AUTO, POLICIES, PolicyRow, load_policy, policy_kind

if TYPE_CHECKING:
    from edgeexit.policies.agreement import Patience as Patience
    from edgeexit.policies.agreement import Vote as Vote
    from edgeexit.policies.class_means import ClassMeans as ClassMeans
    from edgeexit.policies.combined import Either as Either
    from edgeexit.policies.combined import Veto as Veto
    from edgeexit.policies.confidence import Entropy as Entropy
    from edgeexit.policies.confidence import LogProbability as LogProbability
    from edgeexit.policies.confidence import Margin as Margin
    from edgeexit.policies.confusion import Confusion as Confusion
    from edgeexit.policies.eenet import LearnedScheduler as LearnedScheduler
    from edgeexit.policies.gate import LearnedGate as LearnedGate
    from edgeexit.policies.max_probability import MaxProbability as MaxProbability
    from edgeexit.policies.pooled import PooledProbability as PooledProbability
    from edgeexit.policies.stacked import StackedMargin as StackedMargin

__all__ = [
    "AUTO",
    "PLAIN",
    "POLICIES",
    "ClassMeans",
    "Confusion",
    "Decision",
    "Either",
    "Entropy",
    "LearnedGate",
    "LearnedScheduler",
    "LogProbability",
    "Margin",
    "MaxProbability",
    "Patience",
    "Policy",
    "PolicyKind",
    "PolicyRow",
    "PooledProbability",
    "Setting",
    "StackedMargin",
    "State",
    "Verdict",
    "Veto",
    "Vote",
    "load_policy",
    "policy_kind",
]

_LAZY = {row.where.partition(":")[2]: name for name, row in POLICIES.items()}


def __getattr__(name: str) -> Any:
    """A policy's class, imported when it is asked for."""
    if name in _LAZY:
        return policy_kind(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
