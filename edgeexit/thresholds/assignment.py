"""Thresholds that fill the exits' quotas, the most useful samples first (EENet, algorithm 1).

A learned scheduler says which share p_k of the samples belongs to exit k. Exit by exit, the most useful
of the samples that are still there leave until the exit has its share, and the threshold is where the
last of them left. Corrected against the printed algorithm:

- Line 4 sorts in rising order, so that the least useful would leave first. The text says, and we sort,
  the most useful first.
- Line 14's `break` stands outside the `if` of line 12, so each exit would end at its first sample.
  It ends where its quota is full.
- c is the count of line 6 and the vector of costs of the inputs. The count is meant.
- Quotas of round(N p_k) each need not add up to N. We round what has left so far, N (p_1 + … + p_k).
- A threshold falls between different scores, halfway to the first that stays, not on the last that left.

The shares come from a loss that only nears the budget, and the printed algorithm does not look at it
again. Our addition: the shares are tilted, p_k ρ^k made to sum to 1, with ρ as close to the goal's limit
as it can be. ρ = 1 is the scheduler's own assignment, and equal shares give MSDNet's geometric ones;
those are taken for policies that assign nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.along import best_along
from edgeexit.thresholds.geometric import thresholds_for_shares
from edgeexit.thresholds.goals import Goal
from edgeexit.thresholds.material import Material

__all__ = ["fit_assignment", "tilted"]

_LEAST = 1e-9
"""A share of 0 could not be tilted."""

_LOG_RATIOS = (-40.0, *np.linspace(-14, 14, 113).tolist(), 40.0)


def fit_assignment(material: Material, goal: Goal) -> NDArray[np.float64]:
    """Thresholds that fill the shares of `material.shares`, tilted to the goal.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    shares = np.ones(material.exits) if material.shares is None else material.shares
    order = np.argsort(-material.score[:-1], axis=1, kind="stable")

    def line(log_ratio: float) -> NDArray[np.float64]:
        return thresholds_for_shares(material.score, order, tilted(shares, log_ratio))

    return best_along(material, goal, line, _LOG_RATIOS)


def tilted(shares: NDArray[np.float64], log_ratio: float) -> NDArray[np.float64]:
    """p_k ρ^k for k = 0…E−1, made to sum to 1; `log_ratio` is ln ρ."""
    powers = np.log(np.maximum(shares, _LEAST)) + log_ratio * np.arange(len(shares))
    found = np.exp(powers - powers.max())
    return np.asarray(found / found.sum())
