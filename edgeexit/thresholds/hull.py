"""The upper convex hull of (cost, accuracy) points, and E²CM's time sharing between two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeexit.errors import DataError, UnreachableError

__all__ = ["Share", "time_share", "upper_hull"]


@dataclass(frozen=True)
class Share:
    """Two points, each used for a part of the samples.

    Attributes:
        first: Index of the cheaper point.
        second: Index of the dearer one; the same index where one point is used alone.
        fraction: Of the samples that the second point gets, chosen at random, 0 to 1.
        accuracy: Expected.
        cost: Expected mean, at most the budget.
    """

    first: int
    second: int
    fraction: float
    accuracy: float
    cost: float


def upper_hull(costs: ArrayLike, accuracies: ArrayLike) -> NDArray[np.int64]:
    """Indices of the points that no mixture of others beats, from the cheapest to the most accurate.

    Along them cost and accuracy rise and the gain per cost falls; every point lies on or below the
    line through them.

    Args:
        costs: (n,), any unit.
        accuracies: (n,).

    Raises:
        DataError: There is no point, a number is not finite, or the shapes differ.
    """
    cost, accuracy = _checked(costs, accuracies)
    hull: list[int] = []
    for i in np.lexsort((-accuracy, cost)).tolist():
        if hull and accuracy[i] <= accuracy[hull[-1]]:
            continue
        while len(hull) > 1 and _not_above(cost, accuracy, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return np.asarray(hull, dtype=np.int64)


def time_share(costs: ArrayLike, accuracies: ArrayLike, budget: float) -> Share:
    """The best mixture of two points whose mean cost is the budget (E²CM, section IV-A, "time sharing").

    If the most accurate point costs less than the budget it is used alone.

    Args:
        costs: (n,), any unit.
        accuracies: (n,).
        budget: In the unit of the costs.

    Raises:
        DataError: There is no point, a number is not finite, or the shapes differ.
        UnreachableError: The budget is below the cheapest point.
    """
    cost, accuracy = _checked(costs, accuracies)
    hull = upper_hull(cost, accuracy)
    position = int(np.searchsorted(cost[hull], budget, side="right"))
    if position == 0:
        raise UnreachableError(
            "the budget is below the cost of the cheapest point",
            got=f"{budget:g}",
            expected=f"{cost.min():.4g} to {cost.max():.4g}",
            remedy="allow a larger budget",
        )
    first = int(hull[position - 1])
    if position == len(hull):
        return Share(first, first, 0.0, float(accuracy[first]), float(cost[first]))
    second = int(hull[position])
    fraction = float((budget - cost[first]) / (cost[second] - cost[first]))
    mixed = float(accuracy[first] + fraction * (accuracy[second] - accuracy[first]))
    return Share(first, second, fraction, mixed, float(budget))


def _not_above(cost: NDArray[np.float64], accuracy: NDArray[np.float64], a: int, b: int, c: int) -> bool:
    """Whether b lies on or below the line from a to c."""
    return bool((accuracy[b] - accuracy[a]) * (cost[c] - cost[a]) <= (accuracy[c] - accuracy[a]) * (cost[b] - cost[a]))


def _checked(costs: ArrayLike, accuracies: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cost, accuracy = np.asarray(costs, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != accuracy.shape or not len(cost):
        raise DataError(
            "these are not points of cost and accuracy",
            got=f"costs of shape {cost.shape}, accuracies of shape {accuracy.shape}",
            expected="two arrays of one length, at least 1",
        )
    if not (np.isfinite(cost).all() and np.isfinite(accuracy).all()):
        raise DataError("a cost or an accuracy is not finite", expected="finite numbers")
    return cost, accuracy
