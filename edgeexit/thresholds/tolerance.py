"""SelfXit's tolerance T/2ⁿ per exit (TMLR 2024, section 3.3).

Exit n, counted from 1, gets the lowest threshold θ whose drop of accuracy, measured on all calibration
samples as if it were the only exit, is at most T/2ⁿ:

    F_n(θ) = P(score ≥ θ, whole model right, exit wrong) − P(score ≥ θ, whole model wrong, exit right)   (eq. 2)

Without labels the whole model's answers stand for them. Nothing can be gained then, and F is the upper
bound of the paper's eq. 3, hit rate × (1 − agreement among the hits):

    F_n(θ) ≤ HR_n(θ) (1 − CA_n(θ)) = P(score ≥ θ, exit disagrees with the whole model)

In a cascade an exit sees only what the exits before it let pass, so the label-free loss of the cascade
is at most the sum of those of its exits, at most T (1 − 2⁻ᴺ) for N exits: conservative. With labels that does not
follow (an earlier exit may take away the samples on which a later one gains), so the cascade as a whole
is measured, and T lowered where it loses too much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.along import best_along
from edgeexit.thresholds.cuts import allowed_cuts, cut
from edgeexit.thresholds.goals import Goal, MaxDrop
from edgeexit.thresholds.material import Material, measure

__all__ = ["ToleranceLine", "fit_tolerance"]

_SHRINKING = (0.0, *np.geomspace(1e-3, 1.0, 25).tolist())
_TOLERANCES = (0.0, *np.geomspace(1e-6, 2.0, 100).tolist())
"""At T = 2 the first exit may lose everything."""


def fit_tolerance(material: Material, goal: Goal) -> NDArray[np.float64]:
    """Thresholds of the tolerance T, which is the goal's loss, or is bisected until the budget is met.

    The reserve of a largest loss is kept at each exit, in standard errors of its own drop. A budget
    keeps its reserve on the mean cost alone.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    if not isinstance(goal, MaxDrop):
        return best_along(material, goal, ToleranceLine(material), _TOLERANCES)
    line = ToleranceLine(material, goal.reserve)
    thresholds = line(goal.limit)
    if goal.met(measure(material, thresholds)):
        return thresholds
    return best_along(material, goal, line, [goal.limit * part for part in _SHRINKING])


class ToleranceLine:
    """Thresholds of a tolerance.

    Args:
        material: What the drops are measured on.
        reserve: Standard errors of an exit's drop to keep back.
    """

    def __init__(self, material: Material, reserve: float = 0.0) -> None:
        loss = material.reference.astype(np.float64) - material.correct
        order = np.argsort(-material.score[:-1], axis=1, kind="stable")
        self._sorted = np.take_along_axis(material.score[:-1], order, axis=1)
        self._drops: list[NDArray[np.float64]] = []
        for k, falling in enumerate(order):
            mean = np.concatenate([[0.0], np.cumsum(loss[k, falling])]) / material.samples
            square = np.concatenate([[0.0], np.cumsum(loss[k, falling] ** 2)]) / material.samples
            error = np.sqrt(np.maximum(square - mean**2, 0.0) / material.samples)
            drop = mean + reserve * error
            drop[~allowed_cuts(self._sorted[k])] = np.inf
            self._drops.append(drop)

    def __call__(self, tolerance: float) -> NDArray[np.float64]:
        """(E−1,) thresholds: at exit n, from 1, a drop of at most T/2ⁿ."""
        thresholds = np.full(len(self._drops), np.inf)
        for k, drop in enumerate(self._drops):
            kept = np.flatnonzero(drop <= tolerance / 2 ** (k + 1) + 1e-12)
            if len(kept):
                thresholds[k] = cut(self._sorted[k], int(kept[-1]))
        return thresholds
