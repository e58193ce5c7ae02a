"""The best thresholds along a line: one number turns a cascade from cautious to hasty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.cuts import cut
from edgeexit.thresholds.goals import Budget, Goal
from edgeexit.thresholds.material import Material, Outcome, measure

__all__ = ["best_along", "extremes"]

_BISECTIONS = 24

Line = Callable[[float], NDArray[np.float64]]
"""Thresholds, shape (E−1,), of one number."""


class _Tried(NamedTuple):
    thresholds: NDArray[np.float64]
    outcome: Outcome


def best_along(material: Material, goal: Goal, line: Line, grid: Sequence[float]) -> NDArray[np.float64]:
    """Thresholds of the line that meet the goal: for a budget the dearest, for a largest loss the cheapest.

    The grid is tried, then the gap beside its best point is halved. The loss need not be monotone
    along the line, and where scores have few distinct values the cost goes in steps, so every point
    counts only by what was measured there. The two extremes are on every line: a goal that
    `check_reachable` accepts is met.

    Args:
        material: What the goal is measured on.
        goal: A budget or a largest loss.
        line: Thresholds, shape (E−1,), of one number.
        grid: Numbers to begin with, rising.
    """
    spend = 1 if isinstance(goal, Budget) else -1

    def at(thresholds: NDArray[np.float64]) -> _Tried:
        return _Tried(thresholds, measure(material, thresholds))

    def worth(tried: _Tried) -> tuple[bool, float, float]:
        outcome = tried.outcome
        return goal.met(outcome), spend * outcome.mean_cost, outcome.accuracy

    tried = [at(line(number)) for number in grid]
    first = max(range(len(tried)), key=lambda i: worth(tried[i]))
    best = max([*(at(each) for each in extremes(material)), tried[first]], key=worth)
    if not goal.met(tried[first].outcome):
        return best.thresholds
    for neighbour in (first - 1, first + 1):
        if not 0 <= neighbour < len(grid) or goal.met(tried[neighbour].outcome):
            continue
        met, missed = grid[first], grid[neighbour]
        for _ in range(_BISECTIONS):
            middle = (met + missed) / 2
            trial = at(line(middle))
            met, missed = (middle, missed) if goal.met(trial.outcome) else (met, middle)
            best = max(best, trial, key=worth)
    return best.thresholds


def extremes(material: Material) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nobody leaves early, and everybody leaves at the cheapest exit."""
    nobody = np.full(material.exits - 1, np.inf)
    everybody = nobody.copy()
    cheapest = int(material.costs.argmin())
    if cheapest < material.exits - 1:
        everybody[cheapest] = cut(np.sort(material.score[cheapest])[::-1], material.samples)
    return nobody, everybody
