"""Binomial probabilities and confidence limits, with no SciPy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["binomial_mass", "upper_limit", "window"]

_HALVINGS = 60


def binomial_mass(
    trials: NDArray[np.int64], chance: NDArray[np.float64], count: NDArray[np.int64]
) -> NDArray[np.float64]:
    """P(X = count) for X ~ Bin(trials, chance); the three broadcast, and a count beyond 0…trials has none."""
    table = log_factorials(int(trials.max()))
    possible = (count >= 0) & (count <= trials)
    kept = np.where(possible, count, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mass = table[trials] - table[kept] - table[trials - kept]
        log_mass = log_mass + np.where(kept > 0, kept * np.log(chance), 0.0)
        log_mass = log_mass + np.where(trials > kept, (trials - kept) * np.log1p(-chance), 0.0)
    return np.where(possible, np.exp(log_mass), 0.0)


def upper_limit(count: int, trials: int, error: float) -> float:
    """The chance of an event is at most this, with confidence 1 − error (Clopper and Pearson 1934)."""
    if count >= trials:
        return 1.0
    counts = np.arange(count + 1)
    low, high = count / trials, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = binomial_mass(np.asarray([trials]), np.asarray([middle]), counts).sum()
        low, high = (middle, high) if below > error else (low, middle)
    return high


def window(trials: int, lowest: float, highest: float) -> NDArray[np.int64]:
    """Counts outside of which Bin(trials, p) has a mass of less than 1e-11, for p between two chances."""
    first = trials * lowest - 7 * np.sqrt(trials * lowest) - 12
    last = trials * highest + 7 * np.sqrt(trials * highest) + 24
    return np.arange(max(0, int(first)), min(trials, int(last)) + 1)


@lru_cache(maxsize=4)
def log_factorials(most: int) -> NDArray[np.float64]:
    """Logarithms of 0! … most!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
