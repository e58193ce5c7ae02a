"""L-BFGS (Nocedal 1980) in NumPy: devices that fit policies have no SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["minimise"]

_MEMORY = 10
_ITERATIONS = 60
_HALVINGS = 25
_SUFFICIENT = 1e-4
_DONE = 1e-7

Vector = NDArray[np.float64]


def minimise(value_and_slope: Callable[[Vector], tuple[float, Vector]], start: Vector) -> Vector:
    """A minimum of a smooth convex function.

    Args:
        value_and_slope: Gives the value and the gradient, shape (d,), at a point, shape (d,).
        start: Where to begin, shape (d,).

    Returns:
        The best point found, shape (d,): the search ends after 60 steps, or when a step gains less than 1e-7.
    """
    point, (value, slope) = start, value_and_slope(start)
    steps: list[tuple[Vector, Vector, float]] = []
    for _ in range(_ITERATIONS):
        direction = -_scaled(slope, steps)
        descent = float(direction @ slope)
        if not descent < 0:
            break
        length = 1.0 if steps else min(1.0, 1.0 / (float(np.abs(slope).sum()) or 1.0))
        for _ in range(_HALVINGS):
            trial = point + length * direction
            trial_value, trial_slope = value_and_slope(trial)
            if trial_value <= value + _SUFFICIENT * length * descent:
                break
            length /= 2
        else:
            break
        moved, bent = trial - point, trial_slope - slope
        gained = value - trial_value
        point, value, slope = trial, trial_value, trial_slope
        curvature = float(moved @ bent)
        if curvature > 1e-12:
            steps = [*steps[-_MEMORY + 1 :], (moved, bent, curvature)]
        if gained < _DONE:
            break
    return point


def _scaled(slope: Vector, steps: list[tuple[Vector, Vector, float]]) -> Vector:
    """The gradient times an approximate inverse Hessian (two-loop recursion)."""
    result = slope.copy()
    factors = []
    for moved, bent, curvature in reversed(steps):
        factor = float(moved @ result) / curvature
        factors.append(factor)
        result -= factor * bent
    if steps:
        _, bent, curvature = steps[-1]
        result *= curvature / float(bent @ bent)
    for (moved, bent, curvature), factor in zip(steps, reversed(factors), strict=True):
        result += (factor - float(bent @ result) / curvature) * moved
    return np.asarray(result)
