"""Thresholds of even risk (EdgeExit's own, for a budget, a guarantee or few samples).

At each exit the risk of leaving is estimated as a smooth function of the score: the chance that the whole
model has a sample right and the exit has it wrong. It is a logistic regression on ln u over all samples, where u is
the share of them whose score is as high or higher, so any criterion will do, whatever its scale. A sample leaves where

    risk ≤ τ (s_k / s)^γ,

s_k being what it would still cost to stay: the mean, in this same cascade, over the samples that only just
stay at exit k; and s that from the cheapest exit to the last. With γ = 1 risk is weighed against cost, as an
optimal stopping rule does. With γ = 0 it is the same at all exits.

Two numbers decide, τ and γ, and three per exit are estimated, so thresholds fitted on a few hundred samples do
on new ones much what they did on these. The joint search, free to place every threshold between any two
samples, needs many more for that.

Within a budget, thresholds of different cost are often equally right as far as the samples can tell. Deeper exits
know more as a rule, so from the best the line is followed upwards, to the dearest that are not clearly worse; and no
further than a risk of one in two hundred, below which a sample leaves whatever the budget.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.along import best_along
from edgeexit.thresholds.cuts import allowed_cuts, cut
from edgeexit.thresholds.goals import Budget, Goal
from edgeexit.thresholds.material import Material, Outcome, exits_taken, measure

__all__ = ["LOG_RISKS", "RiskLine", "best_risk_line", "fit_risk"]

LOG_RISKS = tuple(np.linspace(-14.0, 2.0, 65).tolist())
"""ln τ, nearly from nobody to everybody."""

_POWERS = (0.0, 0.5, 1.0)
_ROUNDS = 3
_SAMPLES = 5000
"""Costs to go are estimated on no more, evenly chosen."""

_JUST_STAY = 0.1
_FEWEST = 20
_STEPS = 50
_LONGEST_STEP = 4.0
_RIDGE = 1e-3
_LEAST_SLOPE = 1e-3
_NEGLIGIBLE = float(np.log(0.005))
_STEEPEST = 30.0


def fit_risk(material: Material, goal: Goal) -> NDArray[np.float64]:
    """Thresholds of even risk that serve the goal best, for γ of 0, ½ and 1.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    if isinstance(goal, Budget):
        return _dearest_of_the_best(material, goal)
    return best_risk_line(material, goal)[1]


def _dearest_of_the_best(material: Material, goal: Budget) -> NDArray[np.float64]:
    """On the line with the most accurate thresholds that keep the budget: the dearest that are not clearly worse.

    Raises:
        UnreachableError: None keep it.
    """
    goal.check_reachable(material)
    lines = [_kept_on(RiskLine(material, power), material, goal) for power in _POWERS]
    line = max(lines, key=lambda kept: max((each.outcome.accuracy, -each.outcome.mean_cost) for each in kept))
    best = max(line, key=lambda each: each.outcome.accuracy).right
    by_cost = sorted(line, key=lambda each: (each.outcome.mean_cost, each.outcome.accuracy), reverse=True)
    return next(each.thresholds for each in by_cost if not _clearly_better(best, each.right))


class _Kept(NamedTuple):
    thresholds: NDArray[np.float64]
    outcome: Outcome
    right: NDArray[np.bool_]  # (N,) whether the cascade's answer is


def _kept_on(line: RiskLine, material: Material, goal: Budget) -> list[_Kept]:
    """Thresholds of a line that keep the budget, at least one; those as near to it as can be, unless all keep it."""

    def at(thresholds: NDArray[np.float64]) -> _Kept:
        taken = exits_taken(material.score, thresholds)
        return _Kept(thresholds, measure(material, thresholds), material.correct[taken, np.arange(material.samples)])

    risks = [log_risk for log_risk in LOG_RISKS if log_risk >= _NEGLIGIBLE]
    kept = [each for each in map(at, map(line, risks)) if goal.met(each.outcome)]
    return kept if len(kept) == len(risks) else [*kept, at(best_along(material, goal, line, risks))]


def _clearly_better(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether the first is right more often, by more than a standard error of the difference and one sample."""
    gain = one.astype(np.float64) - other
    return bool(gain.sum() - 1 > gain.std() * np.sqrt(len(gain)))


def best_risk_line(material: Material, goal: Goal) -> tuple[RiskLine, NDArray[np.float64]]:
    """The line whose γ serves the goal best, and the thresholds on it that do.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    lines = [RiskLine(material, power) for power in _POWERS]
    found = [(line, best_along(material, goal, line, LOG_RISKS)) for line in lines]
    best, *others = found
    for other in others:
        if goal.better(measure(material, other[1]), measure(material, best[1])):
            best = other
    return best


class RiskLine:
    """Thresholds of a risk.

    Args:
        material: What risks and costs are estimated on.
        power: γ, 0 or more.
    """

    def __init__(self, material: Material, power: float = 0.0) -> None:
        order = np.argsort(-material.score[:-1], axis=1, kind="stable")
        self._sorted = np.take_along_axis(material.score[:-1], order, axis=1)
        self._cuts = [np.flatnonzero(allowed_cuts(descending)) for descending in self._sorted]
        lost = (material.reference & ~material.correct)[:-1]
        self._risk = [
            _smooth_risk(lost[k, falling], cuts)
            for k, (falling, cuts) in enumerate(zip(order, self._cuts, strict=True))
        ]
        self._power = power
        few = slice(None, None, -(-material.samples // _SAMPLES))
        self._few = material.score[:-1, few]
        self._order = np.argsort(-self._few, axis=1, kind="stable")
        self._costs = material.costs / max(float(material.costs[-1] - material.costs.min()), 1e-12)
        self._weights = self._settle() if power else np.ones((len(LOG_RISKS), len(self._sorted)))

    def __call__(self, log_risk: float) -> NDArray[np.float64]:
        """(E−1,) thresholds for ln τ. With γ = 0 a larger τ never raises one."""
        weights = [np.interp(log_risk, LOG_RISKS, column) for column in self._weights.T]
        return self._at(np.exp(log_risk) * np.asarray(weights))

    def _settle(self) -> NDArray[np.float64]:
        """(len(LOG_RISKS), E−1) powers of the costs to go, each found from that of the risk before by repetition."""
        to_go = np.maximum(self._costs[-1] - self._costs[:-1], 0.0)
        settled = np.empty((len(LOG_RISKS), len(to_go)))
        for i, log_risk in enumerate(LOG_RISKS):
            for _ in range(_ROUNDS):
                weights = np.maximum(to_go, 0.0) ** self._power
                to_go = (to_go + self._costs_to_go(self._at(np.exp(log_risk) * weights))) / 2
            settled[i] = np.maximum(to_go, 0.0) ** self._power
        return settled

    def _at(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Thresholds that keep the risk of each exit within its limit."""
        thresholds = np.full(len(self._sorted), np.inf)
        for k, (descending, cuts, risk) in enumerate(zip(self._sorted, self._cuts, self._risk, strict=True)):
            groups = int(np.searchsorted(risk, limits[k], side="right"))
            thresholds[k] = cut(descending, int(cuts[groups]))
        return thresholds

    def _costs_to_go(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """(E−1,) what it costs on average to stay, for those whose score is just too low to leave."""
        spent = np.full(self._few.shape[1], self._costs[-1])
        to_go = np.zeros(len(thresholds))
        for k in reversed(range(len(thresholds))):
            leaves = self._few[k] >= np.float32(thresholds[k])
            staying = self._order[k, int(leaves.sum()) :]
            just = staying[: max(_FEWEST, int(_JUST_STAY * len(staying)))]
            if not len(just):
                just = self._order[k, -_FEWEST:]
            to_go[k] = spent[just].mean() - self._costs[k]
            spent[leaves] = self._costs[k]
        return to_go


def _smooth_risk(lost: NDArray[np.bool_], cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rising risk of each group of equal scores, from the highest score down.

    Args:
        lost: (N,) in falling order of score.
        cuts: Where groups end, from 0 to N.
    """
    sizes = np.diff(cuts)
    position = np.log((cuts[:-1] + cuts[1:]) / (2 * len(lost)))
    spread = float(np.sqrt(np.average((position - np.average(position, weights=sizes)) ** 2, weights=sizes))) or 1.0
    inputs = np.stack([np.ones(len(sizes)), (position - np.average(position, weights=sizes)) / spread], axis=1)
    events = np.add.reduceat(lost, cuts[:-1], dtype=np.float64)
    weights = _logistic(inputs, events, sizes.astype(np.float64))
    if weights[1] < _LEAST_SLOPE:  # a score that says nothing still tells who leaves first
        weights = np.append(_logistic(inputs[:, :1], events, sizes.astype(np.float64)), _LEAST_SLOPE)
    return _sigmoid(inputs @ weights)


def _logistic(
    inputs: NDArray[np.float64], events: NDArray[np.float64], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights of a binomial logistic regression with a little ridge, by Newton steps of limited length."""
    weights = np.zeros(inputs.shape[1])
    ridge = _RIDGE * np.eye(len(weights))
    for _ in range(_STEPS):
        chance = _sigmoid(inputs @ weights)
        slope = inputs.T @ (events - sizes * chance) - _RIDGE * weights
        bend = (inputs * (sizes * chance * (1 - chance))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(bend, slope)
        longest = float(np.abs(step).max())
        weights = weights + step * min(1.0, _LONGEST_STEP / max(longest, 1e-12))
        if longest < 1e-8:
            break
    return weights


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -_STEEPEST, _STEEPEST))))
