"""How well clusters fit classes that the clustering never saw, and which cluster is which class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

__all__ = ["clustering_accuracy", "match", "normalised_mutual_information"]

Numbers = NDArray[np.int64]


def clustering_accuracy(assignments: Numbers, labels: Numbers) -> float:
    """Unsupervised clustering accuracy: the share that is right under the best one-to-one naming of the clusters.

    ACC = max_m Σ 1{label_i = m(assignment_i)} / n over all one-to-one m (Xie et al. 2016, eq. 10).

    Args:
        assignments: (n,) integers from 0, the cluster of each sample.
        labels: (n,) integers from 0, its class.

    Raises:
        DataError: There are no samples, or the arrays do not fit.
    """
    table = _table(assignments, labels)
    naming = match(table)
    return float(table[np.arange(len(table)), naming].sum() / len(labels))


def match(table: NDArray[np.float64] | Numbers) -> Numbers:
    """The column of each row, each taken once, that makes the sum of the chosen entries largest.

    The Hungarian method with potentials, one augmenting path a row: O(K³).

    Args:
        table: (K, K), finite; `table[cluster, class]` counts samples.

    Returns:
        (K,) int64, a permutation.
    """
    gains = np.asarray(table, dtype=np.float64)
    if gains.ndim != 2 or gains.shape[0] != gains.shape[1] or not np.isfinite(gains).all():
        raise DataError("only a square table of finite numbers can be matched", got=list(gains.shape))
    size = len(gains)
    costs = gains.max(initial=0.0) - gains
    row_price, column_price = np.zeros(size), np.zeros(size + 1)
    row_of = np.full(size + 1, -1)  # the last column is where each search starts
    for row in range(size):
        row_of[size] = row
        column, before = size, np.full(size, size)
        least, seen = np.full(size, np.inf), np.zeros(size, dtype=bool)
        reached = [size]
        while row_of[column] >= 0:
            here = row_of[column]
            reduced = costs[here] - row_price[here] - column_price[:size]
            closer = ~seen & (reduced < least)
            least[closer], before[closer] = reduced[closer], column
            nearest = int(np.where(seen, np.inf, least).argmin())
            step = least[nearest]
            row_price[row_of[reached]] += step
            column_price[reached] -= step
            least[~seen] -= step
            seen[nearest], column = True, nearest
            reached.append(nearest)
        while column != size:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    naming = np.empty(size, dtype=np.int64)
    naming[row_of[:size]] = np.arange(size)
    return naming


def normalised_mutual_information(assignments: Numbers, labels: Numbers) -> float:
    """2·I(assignments; labels) / (H(assignments) + H(labels)), from 0 to 1; 1 where both are constant.

    Raises:
        DataError: There are no samples, or the arrays do not fit.
    """
    joint = _table(assignments, labels) / len(labels)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    entropies = _entropy(rows) + _entropy(columns)
    return 1.0 if entropies == 0 else float(2 * (entropies - _entropy(joint.ravel())) / entropies)


def _entropy(shares: NDArray[np.float64]) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log(there)).sum())


def _table(assignments: Numbers, labels: Numbers) -> Numbers:
    """(K, K) counts of samples by cluster and class, K the larger number of the two."""
    assignments, labels = np.asarray(assignments), np.asarray(labels)
    if assignments.shape != labels.shape or assignments.ndim != 1 or not len(labels):
        raise DataError(
            "assignments and labels do not fit",
            got=f"{list(assignments.shape)} and {list(labels.shape)}",
            expected="one of each for every sample, at least one",
        )
    if {assignments.dtype.kind, labels.dtype.kind} - set("iu") or min(assignments.min(), labels.min()) < 0:
        raise DataError("assignments and labels are not numbers of clusters and classes", expected="integers from 0")
    size = int(max(assignments.max(), labels.max())) + 1
    return np.bincount(assignments * size + labels, minlength=size * size).reshape(size, size).astype(np.int64)
