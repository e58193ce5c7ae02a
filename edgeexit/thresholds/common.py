"""One threshold for all exits: what most published code does, and BWDS's gates, which cut at one half.

A gate of BWDS (Bolukbasi et al. 2017) has its trade-off in the weights that it was trained with, so
one half is where it is meant to be cut. The common threshold starts from nothing and ends there as far
as the fit did its work; what is left of the goal is made up by moving it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.along import best_along
from edgeexit.thresholds.goals import Goal
from edgeexit.thresholds.material import Material

__all__ = ["fit_common"]

_QUANTILES = 201


def fit_common(material: Material, goal: Goal) -> NDArray[np.float64]:
    """One threshold for all exits, as close to the goal's limit as it can be.

    Returns:
        (E−1,) equal thresholds, or those with which everybody or nobody leaves early.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    early = material.exits - 1
    if early == 0:
        return np.zeros(0)
    grid = np.unique(np.quantile(material.score[:-1], np.linspace(0, 1, _QUANTILES)))
    return best_along(material, goal, lambda threshold: np.full(early, threshold), grid.tolist())
