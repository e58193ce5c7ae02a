"""Planning: where to cut a bundle between tiers, reckoned from what was measured on each."""

from __future__ import annotations

from edgeexit_runtime.planning.alternatives import Alternative, alternatives, evaluate
from edgeexit_runtime.planning.choice import GOALS, Goal, best, best_of_each
from edgeexit_runtime.planning.gathering import gather
from edgeexit_runtime.planning.scenario import INPUT, Link, Payload, Scenario, TierCosts

__all__ = [
    "GOALS",
    "INPUT",
    "Alternative",
    "Goal",
    "Link",
    "Payload",
    "Scenario",
    "TierCosts",
    "alternatives",
    "best",
    "best_of_each",
    "evaluate",
    "gather",
]
