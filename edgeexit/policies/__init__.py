"""Policies: when a sample may leave, and with which answer.

A policy is a pure function of the exit's index, its logits and a small state per sample. The same
object replays cached logits on a workstation and decides on the device, so both always agree.
"""

from __future__ import annotations

from edgeexit.policies.base import Decision, Policy, State, Verdict
from edgeexit.policies.max_probability import MaxProbability
from edgeexit.policies.pooled import PooledProbability
from edgeexit.policies.table import POLICIES, load_policy

__all__ = ["POLICIES", "Decision", "MaxProbability", "Policy", "PooledProbability", "State", "Verdict", "load_policy"]
