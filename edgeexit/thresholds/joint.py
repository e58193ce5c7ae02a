"""Thresholds of all exits, searched together on the replayed cascade (EdgeExit's own method).

Given scores and correctness of every exit on a calibration split, the best threshold of one exit, the
others held, is found exactly by one sorted cumulative sum. Sweeps over the exits minimise
cost + λ · loss; λ is bisected until the goal is just met, and a last search, exit by exit, uses up
what is left of the allowance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.cuts import allowed_cuts, cut
from edgeexit.thresholds.goals import Budget, Goal
from edgeexit.thresholds.material import Material, Outcome, exits_taken, measure

__all__ = ["fit_joint"]

_SWEEPS = 8
_BISECTIONS = 18
_FIRST_WEIGHT = 10.0
_LAST_WEIGHT = 1e4
_LEAST_WEIGHT = 1e-3
_STARTS = 3
_GAIN = 1e-9


def fit_joint(material: Material, goal: Goal) -> NDArray[np.float64]:
    """The best thresholds that meet a goal.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    search = _Search(material, goal)
    starts = [search.nobody, *search.along_the_weights()]
    if isinstance(goal, Budget):
        starts += search.everybody_at_one_exit()
    finished = [search.use_up(start) for start in starts]
    best = finished[0]
    for thresholds in finished[1:]:
        if search.rank(thresholds) > search.rank(best):
            best = thresholds
    return best


class _Search:
    """The material, with each exit's samples sorted by score once."""

    def __init__(self, material: Material, goal: Goal) -> None:
        self.material, self.goal = material, goal
        self.score, self.costs = material.score, material.costs
        self.loss = material.reference.astype(np.float64) - material.correct  # (E, N): 1 lost, −1 gained
        self.exits, self.samples = material.exits, material.samples
        self.order = [np.argsort(-self.score[k], kind="stable") for k in range(self.exits - 1)]
        self.sorted = [self.score[k][order] for k, order in enumerate(self.order)]
        self.allowed = [allowed_cuts(descending) for descending in self.sorted]
        self.cost_step = measure(material, np.full(self.exits - 1, np.inf)).cost_step
        self.nobody = np.full(self.exits - 1, np.inf)

    def everybody_at_one_exit(self) -> list[NDArray[np.float64]]:
        """For each exit but the last, thresholds with which all that get there leave, and nobody before."""
        starts = []
        for k in range(self.exits - 1):
            thresholds = self.nobody.copy()
            thresholds[k] = self.threshold(k, self.samples)
            starts.append(thresholds)
        return starts

    def along_the_weights(self) -> list[NDArray[np.float64]]:
        """Minima of cost + weight · loss for weights close to where the goal is just met."""
        meeting: list[tuple[float, NDArray[np.float64]]] = []
        beyond: list[tuple[float, NDArray[np.float64]]] = []
        low, high, weight = 0.0, _LAST_WEIGHT, _FIRST_WEIGHT
        budget = isinstance(self.goal, Budget)
        for _ in range(_BISECTIONS):
            trial = self.minimise(weight * float(self.costs[-1]))
            outcome = measure(self.material, trial)
            met = self.goal.met(outcome)
            # A larger weight costs more and loses less.
            nearness = -outcome.mean_cost if met == budget else outcome.mean_cost
            (meeting if met else beyond).append((nearness, trial))
            low, high = (weight, high) if met == budget else (low, weight)
            weight = float(np.sqrt(max(low, _LEAST_WEIGHT) * high))
        return [*_first_different(meeting), *_first_different(beyond)]

    def minimise(self, weight: float) -> NDArray[np.float64]:
        """Sweep the exits, last to first, until cost + weight · loss falls no further."""
        thresholds = self.nobody.copy()
        for _ in range(_SWEEPS):
            before = thresholds.copy()
            arrived = self._arrive(thresholds)
            value_later = self.costs[-1] + weight * self.loss[-1]
            for k in reversed(range(self.exits - 1)):
                value_here = self.costs[k] + weight * self.loss[k]
                gain = np.where(arrived[k], value_later - value_here, 0.0)
                total = np.concatenate([[0.0], np.cumsum(gain[self.order[k]])])
                total[~self.allowed[k]] = -np.inf
                position = int(total.argmax())
                thresholds[k] = self.threshold(k, position if total[position] > _GAIN else 0)
                leaves = self.score[k] >= np.float32(thresholds[k])
                value_later = np.where(leaves, value_here, value_later)
            if np.array_equal(before, thresholds):
                break
        return np.asarray(thresholds)

    def use_up(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exit by exit, take the best threshold that meets the goal, the others held."""
        thresholds = thresholds.copy()
        best = self.rank(thresholds)
        for _ in range(_SWEEPS):
            improved = False
            for k in range(self.exits - 1):
                position = self._best_position(k, thresholds)
                if position is None:
                    continue
                trial = thresholds.copy()
                trial[k] = self.threshold(k, position)
                rank = self.rank(trial)
                if rank[0] and (not best[0] or rank[1] > best[1] + _GAIN or (rank[1] >= best[1] and rank > best)):
                    thresholds, best, improved = trial, rank, True
            if not improved:
                break
        return thresholds

    def rank(self, thresholds: NDArray[np.float64]) -> tuple[bool, float, float]:
        """Thresholds that rank higher are better: the goal met, then what it asks to be best, then the other."""
        outcome = measure(self.material, thresholds)
        return (self.goal.met(outcome), *self._worth(outcome))

    def _worth(self, outcome: Outcome) -> tuple[float, float]:
        if isinstance(self.goal, Budget):
            return -outcome.loss, -outcome.mean_cost
        return -outcome.mean_cost, -outcome.loss

    def threshold(self, k: int, position: int) -> float:
        """The threshold that lets the first `position` samples, by score, leave at exit k."""
        return cut(self.sorted[k], position)

    def _arrive(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which samples get as far as each exit, shape (E, N)."""
        leaves = self.score[:-1] >= thresholds.astype(np.float32)[:, None]
        arrived = np.ones((self.exits, self.samples), dtype=bool)
        np.logical_and.accumulate(~leaves, axis=0, out=arrived[1:])
        return arrived

    def _best_position(self, k: int, thresholds: NDArray[np.float64]) -> int | None:
        """How many samples, by score, should leave at exit k; None if no number meets the goal."""
        arrived = self._arrive(thresholds)[k]
        without = thresholds.copy()
        without[k] = np.inf
        taken = exits_taken(self.score, without)
        cost = self.costs[taken]
        loss = self.loss[taken, np.arange(self.samples)]

        def curve(now: NDArray[np.float64], then: NDArray[np.float64] | float) -> NDArray[np.float64]:
            change = np.where(arrived, then - now, 0.0)[self.order[k]]
            return np.asarray((now.sum() + np.concatenate([[0.0], np.cumsum(change)])) / self.samples)

        def error(square: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0) / self.samples))

        here = float(self.costs[k])
        mean_cost, mean_loss = curve(cost, here), curve(loss, self.loss[k])
        if isinstance(self.goal, Budget):
            wanted = mean_loss + _GAIN * mean_cost
            limited = self.goal.bound(mean_cost, error(curve(cost**2, here**2), mean_cost), self.cost_step)
        else:
            wanted = mean_cost + _GAIN * mean_loss
            limited = mean_loss + self.goal.reserve * error(curve(loss**2, self.loss[k] ** 2), mean_loss)
        feasible = self.allowed[k] & (limited <= self.goal.limit + 1e-12)
        if not feasible.any():
            return None
        return int(np.where(feasible, wanted, np.inf).argmin())


def _first_different(found: list[tuple[float, NDArray[np.float64]]]) -> list[NDArray[np.float64]]:
    """The first few by their number, each number once."""
    by_number = {number: thresholds for number, thresholds in found}
    return [by_number[number] for number in sorted(by_number)[:_STARTS]]
