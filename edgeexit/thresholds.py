"""Thresholds with the least mean cost at a stated loss of accuracy, searched for all exits together.

Given the scores and the correctness of every exit on a calibration split, the best threshold of one
exit, the others held, is found exactly by one sorted cumulative sum. Sweeps over the exits minimise
cost + λ · loss; λ is bisected until the loss is just within the limit, and a last search, exit by
exit, uses up what is left of it.

The loss is limited with a reserve: mean + z · standard error ≤ limit, the loss being the paired
difference between the whole model and the cascade. Thresholds are chosen by looking at the very
samples the loss is measured on, and new samples are another draw; the reserve pays for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESERVE", "Outcome", "fit_thresholds", "measure"]

RESERVE = 1.0
"""Standard errors kept in reserve. One makes the limit hold on new samples more often than not; it is no guarantee."""

_SWEEPS = 8
_BISECTIONS = 18
_FIRST_WEIGHT = 10.0
_LAST_WEIGHT = 1e4
_STARTS = 3


@dataclass(frozen=True)
class Outcome:
    """What thresholds give on the samples they are measured on."""

    loss: float  # accuracy of the reference minus the cascade's
    standard_error: float  # of the loss
    mean_cost: float

    def within(self, limit: float, reserve: float) -> bool:
        """Whether the loss with its reserve keeps the limit. No loss at all always does."""
        return self.loss + reserve * self.standard_error <= limit + 1e-12


class _Problem:
    """Scores, correctness and costs, with each exit's samples sorted by score once."""

    def __init__(
        self,
        score: NDArray[np.float32],
        correct: NDArray[np.bool_],
        reference: NDArray[np.bool_],
        costs: NDArray[np.float64],
    ) -> None:
        self.score = score
        self.loss = reference.astype(np.float64) - correct  # (E, N): 1 lost, −1 gained
        self.costs = costs
        self.exits, self.samples = score.shape
        self.order = [np.argsort(-score[k], kind="stable") for k in range(self.exits - 1)]
        self.sorted = [score[k][order] for k, order in enumerate(self.order)]
        # A threshold can only fall between different scores: positions 0 (nobody) … N (everybody).
        self.allowed = [np.concatenate([[True], s[:-1] != s[1:], [True]]) for s in self.sorted]

    def arrive(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which samples get as far as each exit, shape (E, N)."""
        leaves = self.score[:-1] >= thresholds.astype(np.float32)[:, None]
        arrived = np.ones((self.exits, self.samples), dtype=bool)
        np.logical_and.accumulate(~leaves, axis=0, out=arrived[1:])
        return arrived

    def measure(self, thresholds: NDArray[np.float64]) -> Outcome:
        """What these thresholds give."""
        leaves = self.score[:-1] >= thresholds.astype(np.float32)[:, None]
        leaves = np.concatenate([leaves, np.ones((1, self.samples), dtype=bool)])
        exit_index = leaves.argmax(axis=0)
        loss = self.loss[exit_index, np.arange(self.samples)]
        error = float(loss.std() / np.sqrt(self.samples))
        return Outcome(float(loss.mean()), error, float(self.costs[exit_index].mean()))

    def threshold(self, k: int, position: int) -> float:
        """The threshold that lets the first `position` samples, by score, leave at exit k."""
        if position == 0:
            return float("inf")
        last_in = self.sorted[k][position - 1]
        if position == self.samples:
            return float(last_in)
        middle = np.float32((float(last_in) + float(self.sorted[k][position])) / 2)
        return float(middle if middle > self.sorted[k][position] else last_in)

    def minimise(self, weight: float, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sweep the exits, last to first, until cost + weight · loss falls no further."""
        thresholds = thresholds.copy()
        for _ in range(_SWEEPS):
            before = thresholds.copy()
            arrived = self.arrive(thresholds)
            value_later = self.costs[-1] + weight * self.loss[-1]
            for k in reversed(range(self.exits - 1)):
                value_here = self.costs[k] + weight * self.loss[k]
                gain = np.where(arrived[k], value_later - value_here, 0.0)
                total = np.concatenate([[0.0], np.cumsum(gain[self.order[k]])])
                total[~self.allowed[k]] = -np.inf
                position = int(total.argmax())
                if total[position] <= 1e-9:
                    position = 0
                thresholds[k] = self.threshold(k, position)
                leaves = self.score[k] >= np.float32(thresholds[k])
                value_later = np.where(leaves, value_here, value_later)
            if np.array_equal(before, thresholds):
                break
        return thresholds

    def value(self, thresholds: NDArray[np.float64], limit: float, reserve: float) -> float:
        """The mean cost, infinite where the limit is not kept."""
        outcome = self.measure(thresholds)
        return outcome.mean_cost if outcome.within(limit, reserve) else np.inf

    def use_up(self, thresholds: NDArray[np.float64], limit: float, reserve: float) -> NDArray[np.float64]:
        """Exit by exit, take the threshold with the least cost that still keeps the limit."""
        thresholds = thresholds.copy()
        best = self.value(thresholds, limit, reserve)
        for _ in range(_SWEEPS):
            improved = False
            for k in range(self.exits - 1):
                position = self._cheapest(k, thresholds, limit, reserve)
                if position is None:
                    continue
                trial = thresholds.copy()
                trial[k] = self.threshold(k, position)
                value = self.value(trial, limit, reserve)
                if value < best - 1e-9:
                    thresholds, best, improved = trial, value, True
            if not improved:
                break
        return thresholds

    def _cheapest(self, k: int, thresholds: NDArray[np.float64], limit: float, reserve: float) -> int | None:
        arrived = self.arrive(thresholds)[k]
        without = thresholds.copy()
        without[k] = np.inf
        leaves = self.score[:-1] >= without.astype(np.float32)[:, None]
        leaves = np.concatenate([leaves, np.ones((1, self.samples), dtype=bool)])
        exit_index = leaves.argmax(axis=0)
        cost = self.costs[exit_index]
        loss = self.loss[exit_index, np.arange(self.samples)]

        def curve(now: NDArray[np.float64], then: NDArray[np.float64]) -> NDArray[np.float64]:
            change = np.where(arrived, then - now, 0.0)[self.order[k]]
            return np.asarray((now.sum() + np.concatenate([[0.0], np.cumsum(change)])) / self.samples)

        mean_cost = curve(cost, np.broadcast_to(self.costs[k], cost.shape))
        mean_loss = curve(loss, self.loss[k])
        mean_square = curve(loss**2, self.loss[k] ** 2)
        error = np.sqrt(np.maximum(mean_square - mean_loss**2, 0.0) / self.samples)
        feasible = self.allowed[k] & (mean_loss + reserve * error <= limit + 1e-12)
        if not feasible.any():
            return None
        return int(np.where(feasible, mean_cost, np.inf).argmin())


def measure(
    score: NDArray[np.float32],
    correct: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    costs: NDArray[np.float64],
    thresholds: NDArray[np.float64],
) -> Outcome:
    """What thresholds, shape (E−1,), give; other arguments as in `fit_thresholds`."""
    return _Problem(score, correct, reference, costs).measure(thresholds)


def fit_thresholds(
    score: NDArray[np.float32],
    correct: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    costs: NDArray[np.float64],
    *,
    max_drop: float,
    reserve: float = RESERVE,
) -> NDArray[np.float64]:
    """Thresholds with the least mean cost whose loss, with its reserve, is at most `max_drop`.

    Args:
        score: (E, N), each exit's score for every sample; a sample leaves where score ≥ threshold.
        correct: (E, N), whether each exit's label is right.
        reference: (N,), whether the whole model is right.
        costs: (E,), everything spent until each exit answers, any unit.
        max_drop: The largest loss of accuracy, as a fraction of all samples, ≥ 0.
        reserve: Standard errors of the loss to keep in reserve.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.
    """
    problem = _Problem(score, correct, reference, costs)
    nobody = np.full(problem.exits - 1, np.inf)
    feasible = [(problem.measure(nobody).mean_cost, nobody)]
    beyond: list[tuple[float, NDArray[np.float64]]] = []
    low, high, weight = 0.0, _LAST_WEIGHT, _FIRST_WEIGHT
    for _ in range(_BISECTIONS):
        trial = problem.minimise(weight * float(costs[-1]), nobody)
        outcome = problem.measure(trial)
        if outcome.within(max_drop, reserve):
            high = weight
            feasible.append((outcome.mean_cost, trial))
        else:
            low = weight
            beyond.append((-outcome.mean_cost, trial))
        weight = np.sqrt(max(low, 1e-3) * high)
    starts = [nobody, *_first_different(feasible), *_first_different(beyond)]
    finished = [problem.use_up(start, max_drop, reserve) for start in starts]
    return min(finished, key=lambda thresholds: problem.value(thresholds, max_drop, reserve))


def _first_different(found: list[tuple[float, NDArray[np.float64]]]) -> list[NDArray[np.float64]]:
    """The first few by their number, each number once."""
    by_number = {number: thresholds for number, thresholds in found}
    return [by_number[number] for number in sorted(by_number)[:_STARTS]]
