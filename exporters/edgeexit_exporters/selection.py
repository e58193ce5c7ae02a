"""Which of many fitted exits are worth having: measured inside the cascade, useless ones left out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.subsets import best_subset
from edgeexit.thresholds import Material, MaxDrop, fit_thresholds, measure

__all__ = ["PLACEMENTS", "cascade_costs", "select_exits", "select_exits_selfxit"]

PLACEMENTS = ("gain", "selfxit")
"""How `--exits auto` chooses: `select_exits` or `select_exits_selfxit`."""

_MAX_SAMPLES = 10_000
_SELFXIT_CANDIDATES = 8
"""Behind the eighth the tolerance T/2ⁿ is below half a percent of T."""


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


def select_exits_selfxit(
    score: NDArray[np.float32],
    correct: NDArray[np.bool_],
    backbone: NDArray[np.float64],
    heads: NDArray[np.float64],
    *,
    max_drop: float,
    keep: Sequence[int] = (),
) -> list[int]:
    """SelfXit's choice: thresholds by the tolerance T/2ⁿ, then the subset that saves most (sections 3.3, 3.4).

    Of many candidates eight, evenly spread, take part: the tolerance is halved from one to the next.

    Args:
        score: (E, N) scores of all candidates, the last row being the whole model.
        correct: (E, N) whether each exit is right.
        backbone: (E,) cost of the backbone up to each exit.
        heads: (E,) cost of each exit's own head.
        max_drop: T.
        keep: Indices that always stay.

    Returns:
        Indices of the exits that stay, in order, the last exit always among them.
    """
    last = len(score) - 1
    free = [i for i in range(last) if i not in keep]
    spread = np.linspace(0, len(free) - 1, min(len(free), _SELFXIT_CANDIDATES)).round().astype(int) if free else []
    rows = [*(free[i] for i in spread), last]
    material = Material(score[rows], correct[rows], correct[last], cascade_costs(backbone[rows], heads[rows]))
    thresholds = fit_thresholds("tolerance", material, MaxDrop(max_drop))
    chosen = best_subset(score[rows], thresholds, backbone[rows], heads[rows])
    return sorted({last, *keep, *(rows[i] for i in chosen)})
