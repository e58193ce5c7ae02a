"""Tests on counts: could two sets of samples be draws of the same kind?

Small enough to need no SciPy on a device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Homogeneity", "chi_square_tail", "fisher_more", "homogeneity", "wilson_interval"]

LEAST_EXPECTED = 5.0
"""Of a cell, in both rows: below it the chi-square distribution is no good approximation (Cochran 1954)."""


class Homogeneity(NamedTuple):
    """Outcome of `homogeneity`."""

    p_value: float
    cells: int  # how many columns were left; with fewer than 2 nothing was tested, and p is 1


def chi_square_tail(value: float, freedom: int) -> float:
    """P(X ≥ value) for X chi-square distributed with `freedom` ≥ 1 degrees of freedom.

    The closed form for whole degrees of freedom (Abramowitz and Stegun 26.4.4 and 26.4.5).
    """
    if value <= 0:
        return 1.0
    half = value / 2
    if freedom % 2:
        total = math.erfc(math.sqrt(half))
        exponents = [j + 0.5 for j in range((freedom - 1) // 2)]
    else:
        total = 0.0
        exponents = [float(j) for j in range(freedom // 2)]
    return min(1.0, total + sum(math.exp(-half + e * math.log(half) - math.lgamma(e + 1)) for e in exponents))


def homogeneity(one: Sequence[float], other: Sequence[float]) -> Homogeneity:
    """Pearson's chi-square test that two rows of counts are draws from the same distribution.

    Neighbouring columns are joined until every cell can expect `LEAST_EXPECTED` samples.
    """
    rows = (float(sum(one)), float(sum(other)))
    total = sum(rows)
    if min(rows) <= 0:
        return Homogeneity(1.0, 0)
    needed = LEAST_EXPECTED * total / min(rows)
    columns: list[list[float]] = []
    open_column = [0.0, 0.0]
    for pair in zip(one, other, strict=True):
        open_column = [open_column[0] + pair[0], open_column[1] + pair[1]]
        if sum(open_column) >= needed:
            columns.append(open_column)
            open_column = [0.0, 0.0]
    if columns:
        columns[-1] = [columns[-1][0] + open_column[0], columns[-1][1] + open_column[1]]
    if len(columns) < 2:
        return Homogeneity(1.0, len(columns))
    statistic = 0.0
    for column in columns:
        for count, row in zip(column, rows, strict=True):
            expected = sum(column) * row / total
            statistic += (count - expected) ** 2 / expected
    return Homogeneity(chi_square_tail(statistic, len(columns) - 1), len(columns))


def fisher_more(hits: int, trials: int, reference_hits: int, reference_trials: int) -> float:
    """Fisher's exact test: the chance of `hits` or more in `trials`, if both sets hit equally often."""
    all_hits, everything = hits + reference_hits, trials + reference_trials

    def log_ways(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = log_ways(everything, trials)
    return min(
        1.0,
        math.fsum(
            math.exp(log_ways(all_hits, k) + log_ways(everything - all_hits, trials - k) - whole)
            for k in range(hits, min(all_hits, trials) + 1)
            if trials - k <= everything - all_hits
        ),
    )


def wilson_interval(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Where the chance of a hit lies (Wilson 1927); z = 1.96 covers it 95 times in 100. (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    share, square = hits / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / trials / 4)
    return max(0.0, centre - reach), min(1.0, centre + reach)
