"""MSDNet's geometric shares of the exits (Huang et al. 2018, section 4, budgeted batch classification).

The share of the samples that leaves at exit k is q_k ∝ ρ^k. MSDNet writes q (1 − q)^(k−1) times a
constant, so ρ = 1 − q; here ρ may exceed 1 as well, so that the shares go from everybody first
(ρ → 0) to everybody last (ρ → ∞) and every budget between can be met.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.along import best_along
from edgeexit.thresholds.cuts import allowed_cuts, cut
from edgeexit.thresholds.goals import Goal
from edgeexit.thresholds.material import Material

__all__ = ["fit_geometric", "geometric_shares", "thresholds_for_shares"]

_LOG_RATIOS = (-40.0, *np.linspace(-14, 14, 113).tolist(), 40.0)


def fit_geometric(material: Material, goal: Goal) -> NDArray[np.float64]:
    """Thresholds with geometric shares, ρ as close to the goal's limit as it can be.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    order = np.argsort(-material.score[:-1], axis=1, kind="stable")

    def line(log_ratio: float) -> NDArray[np.float64]:
        return thresholds_for_shares(material.score, order, geometric_shares(log_ratio, material.exits))

    return best_along(material, goal, line, _LOG_RATIOS)


def geometric_shares(log_ratio: float, exits: int) -> NDArray[np.float64]:
    """q_k ∝ ρ^k for k = 0…E−1, summing to 1; `log_ratio` is ln ρ."""
    powers = log_ratio * np.arange(exits)
    shares = np.exp(powers - powers.max())
    return np.asarray(shares / shares.sum())


def thresholds_for_shares(
    score: NDArray[np.float32], order: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Thresholds, exit by exit from the samples that are still there, so that the shares are met.

    A threshold falls only between different scores: the nearest number of samples is taken, and
    what it differs by is made up at the exits that follow.

    Args:
        score: (E, N).
        order: (E−1, N), the samples of each exit in falling order of score.
        shares: (E,), summing to 1.
    """
    samples = score.shape[1]
    gone = np.rint(samples * np.cumsum(shares)).astype(np.int64)
    here = np.ones(samples, dtype=bool)
    left = 0
    thresholds = np.full(len(order), np.inf)
    for k, falling in enumerate(order):
        staying = falling[here[falling]]
        possible = np.flatnonzero(allowed_cuts(score[k, staying]))
        position = int(possible[np.abs(possible - (gone[k] - left)).argmin()])
        thresholds[k] = cut(score[k, staying], position)
        here[staying[:position]] = False
        left += position
    return thresholds
