"""Which exits to keep, by the compute that they save together (SelfXit, section 3.4, eq. 4).

An exit that looks good alone may see few samples behind an earlier one, and every sample that it
sees and does not keep has paid for its head in vain. With thresholds given, a subset S of the
candidates is scored on cached scores by

    K(S) = Σ_{Δ∈S} |H_Δ| (C2_Δ − C1_Δ) − |M_Δ| C1_Δ

where H_Δ and M_Δ are the hits and misses of Δ among the samples that no earlier exit of S has kept,
C1 is the cost of its head, and C2 that of the backbone behind it. K(S) is what the cascade with
these exits saves on all samples together, compared with the backbone alone.

Accuracy does not enter: the thresholds must have seen to that. Nor may a candidate's score depend on
which exits came before it (patience, vote, confusion and pooling do): it is cached once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import UsageError

__all__ = ["EXHAUSTIVE", "best_subset", "subset_score"]

EXHAUSTIVE = 12
"""Up to this many candidates `best_subset` tries all subsets."""


def subset_score(
    score: NDArray[np.float32],
    thresholds: NDArray[np.float64],
    backbone: NDArray[np.float64],
    heads: NDArray[np.float64],
    subset: Sequence[int],
) -> float:
    """K(S), eq. 4, summed over the samples, in the unit of the costs.

    Args:
        score: (E, N) scores; a sample is a hit where score ≥ threshold, in float32. The last row is the
            whole model's, which is no candidate.
        thresholds: (E−1,), infinity where nobody leaves; longer is taken as far as E−1.
        backbone: (E,) cost of the backbone up to each exit; the last is the whole backbone's.
        heads: (E,) cost of each exit's own head.
        subset: Indices of candidates, each in 0…E−2, any order.

    Returns:
        Above 0 where the exits save something; 0 for no exits.

    Raises:
        UsageError: Shapes disagree, or an index is out of range or there twice.
    """
    hits, saved, spent = _candidates(score, thresholds, backbone, heads)
    if len(set(subset)) < len(subset) or not all(0 <= k < len(hits) for k in subset):
        raise UsageError(
            "that is not a subset of the exits", got=list(subset), expected=f"indices 0 to {len(hits) - 1}"
        )
    return _score(hits, saved, spent, sorted(subset))


def best_subset(
    score: NDArray[np.float32],
    thresholds: NDArray[np.float64],
    backbone: NDArray[np.float64],
    heads: NDArray[np.float64],
) -> tuple[int, ...]:
    """The subset with the largest K(S).

    Up to 12 candidates all subsets are tried, so it is the best; among equals the one with the fewest exits,
    then the earliest. With more candidates exits are added or taken away one at a time, each time the
    one that raises K(S) most, until none does: that may miss the best.

    Args:
        score: (E, N), as in `subset_score`.
        thresholds: (E−1,).
        backbone: (E,).
        heads: (E,).

    Returns:
        Increasing indices in 0…E−2; none where no exit saves anything.

    Raises:
        UsageError: Shapes disagree.
    """
    hits, saved, spent = _candidates(score, thresholds, backbone, heads)
    return (_exhaustive if len(hits) <= EXHAUSTIVE else _greedy)(hits, saved, spent)


Hits = NDArray[np.bool_]
Costs = NDArray[np.float64]


def _candidates(
    score: NDArray[np.float32], thresholds: NDArray[np.float64], backbone: Costs, heads: Costs
) -> tuple[Hits, Costs, Costs]:
    """Per candidate: (E−1, N) hits were everybody to arrive, C2 and C1."""
    exits = len(score)
    if not (score.ndim == 2 and exits and len(thresholds) >= exits - 1 and len(backbone) == len(heads) == exits):
        raise UsageError(
            "scores, thresholds and costs are of different cascades",
            got=f"{score.shape}, {len(thresholds)}, {len(backbone)} and {len(heads)}",
            expected="(E, N), E−1, E and E",
        )
    hits = score[:-1] >= thresholds[: exits - 1].astype(np.float32)[:, None]
    return hits, backbone[-1] - backbone[:-1], heads[:-1]


def _score(hits: Hits, saved: Costs, spent: Costs, subset: Sequence[int]) -> float:
    remaining = np.ones(hits.shape[1], dtype=bool)
    total = 0.0
    for k in subset:
        arrived = np.count_nonzero(remaining)
        remaining = remaining & ~hits[k]
        misses = np.count_nonzero(remaining)
        total += (arrived - misses) * float(saved[k] - spent[k]) - misses * float(spent[k])
    return total


def _exhaustive(hits: Hits, saved: Costs, spent: Costs) -> tuple[int, ...]:
    best: tuple[float, int, tuple[int, ...]] = (0.0, 0, ())

    def extend(subset: tuple[int, ...], remaining: NDArray[np.bool_], total: float) -> None:
        nonlocal best
        arrived = np.count_nonzero(remaining)
        for k in range(subset[-1] + 1 if subset else 0, len(hits)):
            after = remaining & ~hits[k]
            hit = arrived - np.count_nonzero(after)
            value = total + hit * float(saved[k]) - arrived * float(spent[k])
            best = min(best, (-value, len(subset) + 1, (*subset, k)))
            extend((*subset, k), after, value)

    extend((), np.ones(hits.shape[1], dtype=bool), 0.0)
    return best[2]


def _greedy(hits: Hits, saved: Costs, spent: Costs) -> tuple[int, ...]:
    subset: set[int] = set()
    now = 0.0
    while True:
        values = [(_score(hits, saved, spent, sorted(subset ^ {k})), -k) for k in range(len(hits))]
        value, k = max(values)
        if value <= now:
            return tuple(sorted(subset))
        subset ^= {-k}
        now = value
