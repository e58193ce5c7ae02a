"""Softmax of a single row in Python's numbers: for few classes quicker than calls on arrays of one."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import numpy as np

from edgeexit.policies.base import Decision, Verdict

__all__ = [
    "FEW_CLASSES",
    "first_row",
    "largest_probability",
    "rounded_thresholds",
    "two_largest",
]

FEW_CLASSES = 64
"""Up to this many classes a loop in Python is quicker than NumPy."""

_LEAST = 1e-30  # far below any largest probability


def largest_probability(row: Sequence[float], scale: float) -> tuple[float, int]:
    """Max softmax(scale · row), and where it is."""
    top = max(row)
    total = 0.0
    for value in row:
        total += exp((value - top) * scale)
    return 1.0 / total, row.index(top)


def rounded_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Thresholds for `largest_probability` that decide as float32 does.

    In float32 all sums 1 + e with e < 6e-8 are 1, and so are their probabilities: whole batches of sure samples
    are level there, but not in Python's numbers. With s the largest float32 sum whose 1 / s reaches a
    threshold, all sums leave that are rounded to s or less. The last exit takes everybody: −infinity.
    """
    rounded = []
    for threshold in map(np.float32, thresholds[:-1]):
        if not _LEAST < threshold < np.inf:
            rounded.append(float(threshold))
            continue
        total = np.float32(1.0 / float(threshold))
        while np.float32(1) / total < threshold:
            total = np.nextafter(total, np.float32(0))
        following = np.nextafter(total, np.float32(np.inf))
        while np.float32(1) / following >= threshold:
            total, following = following, np.nextafter(following, np.float32(np.inf))
        rounded.append(2.0 / (float(total) + float(following)))
    return (*rounded, float("-inf"))


def two_largest(row: Sequence[float]) -> tuple[float, float]:
    """The largest and the second largest of at least two numbers."""
    first = second = float("-inf")
    for value in row:
        if value > first:
            first, second = value, first
        elif value > second:
            second = value
    return first, second


def first_row(decision: Decision) -> Verdict:
    """The word on the first sample."""
    score, probability, label, leave = decision
    return Verdict(float(score[0]), float(probability[0]), int(label[0]), bool(leave[0]))
