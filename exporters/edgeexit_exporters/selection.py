"""Which of many fitted exits are worth having: measured inside the cascade, useless ones left out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds import Material, MaxDrop, fit_thresholds, measure

__all__ = ["cascade_costs", "select_exits"]

_MAX_SAMPLES = 10_000


def cascade_costs(backbone: NDArray[np.float64], heads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Everything spent until each exit answers: the backbone up to it and all heads up to it."""
    return np.asarray(backbone + np.cumsum(heads))


def select_exits(
    score: NDArray[np.float32],
    correct: NDArray[np.bool_],
    backbone: NDArray[np.float64],
    heads: NDArray[np.float64],
    *,
    max_drop: float,
    min_gain: float,
    keep: Sequence[int] = (),
) -> list[int]:
    """Leave out exits, the least useful first, while that costs less than `min_gain` an exit.

    Usefulness is the rise of the cascade's mean cost at `max_drop` when the exit is taken away and
    all other thresholds are fitted anew, its head's cost saved.

    Args:
        score: (E, N) scores of all candidates, the last row being the whole model.
        correct: (E, N) whether each exit is right.
        backbone: (E,) cost of the backbone up to each exit.
        heads: (E,) cost of each exit's own head.
        max_drop: Allowed loss of accuracy.
        min_gain: Fraction of the whole model's cost that an exit must save on average to stay.
        keep: Indices that always stay.

    Returns:
        Indices of the exits that stay, in order, the last exit always among them.
    """
    step = -(-score.shape[1] // _MAX_SAMPLES)
    score, correct = score[:, ::step], correct[:, ::step]
    last = len(score) - 1
    fixed = {last, *keep}

    def mean_cost(kept: list[int]) -> float:
        costs = cascade_costs(backbone[kept], heads[kept])
        material = Material(score[kept], correct[kept], correct[last], costs)
        return measure(material, fit_thresholds("joint", material, MaxDrop(max_drop))).mean_cost

    kept = list(range(len(score)))
    now = mean_cost(kept)
    # Taking exits away makes the others more useful, so an old value is a lower bound: only the exit
    # that looks cheapest is measured again before it goes (lazy greedy).
    bounds = [(-np.inf, i) for i in kept if i not in fixed]
    heapq.heapify(bounds)
    while bounds:
        _, index = heapq.heappop(bounds)
        without = mean_cost([j for j in kept if j != index])
        rise = without - now
        if bounds and rise > bounds[0][0]:
            heapq.heappush(bounds, (rise, index))
            continue
        if rise > min_gain * float(backbone[last]):
            break
        kept.remove(index)
        now = without
    return kept
