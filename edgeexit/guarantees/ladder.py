"""The ladder: threshold vectors from "nobody leaves" to hasty, chosen before anything is tested."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds import Material, MaxDrop, exits_taken, measure
from edgeexit.thresholds.risk import LOG_RISKS, RiskLine, best_risk_line

__all__ = ["build_ladder", "lost_and_gained"]

_FINE = 2
_BEYOND = 3.0
"""Standard errors of the loss beyond the limit at which the ladder ends."""


def build_ladder(material: Material, epsilon: float, rungs: int) -> NDArray[np.float64]:
    """Thresholds of even risk, a step of mean cost apart, (R, E−1) with R ≤ `rungs`; the first lets nobody leave.

    It ends where this material's loss is so far beyond ε that testing on would be in vain. The material
    must be other samples than those that the rungs will be tested on.
    """
    nobody = np.full(material.exits - 1, np.inf)
    line = _line(material, MaxDrop(epsilon, reserve=0.0))
    fine = np.linspace(LOG_RISKS[0], LOG_RISKS[-1], _FINE * rungs)
    trials = [nobody, *(line(log_risk) for log_risk in fine)]
    outcomes = [measure(material, thresholds) for thresholds in trials]
    step = (outcomes[0].mean_cost - outcomes[-1].mean_cost) / rungs
    ladder, reached = [nobody], outcomes[0].mean_cost
    for thresholds, outcome in zip(trials, outcomes, strict=True):
        if outcome.loss - _BEYOND * outcome.standard_error > epsilon:
            break
        if outcome.mean_cost < reached - 0.999 * step:
            ladder.append(thresholds)
            reached = outcome.mean_cost
    return np.stack(ladder)


def _line(material: Material, goal: MaxDrop) -> RiskLine:
    """The line that costs least at the limit; of risk against cost where not even the last exit keeps it."""
    if goal.met(measure(material, np.full(material.exits - 1, np.inf))):
        return best_risk_line(material, goal)[0]
    return RiskLine(material, power=1.0)


def lost_and_gained(material: Material, thresholds: NDArray[np.float64]) -> tuple[int, int]:
    """How many samples only the whole model has right, and how many only the cascade."""
    right = material.correct[exits_taken(material.score, thresholds), np.arange(material.samples)]
    return int((material.reference & ~right).sum()), int((right & ~material.reference).sum())
