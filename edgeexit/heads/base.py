"""What every closed form has: statistics that give a head, and a learner that continues them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeadStatistics", "Learner", "merged_means"]


class HeadStatistics(Protocol):
    """All that a head needs to know of the samples it was fitted on."""

    @property
    def counts(self) -> NDArray[np.float64]:
        """(K,) how many samples of each class, or how much they weigh."""

    def scaled(self, factor: float) -> HeadStatistics:
        """The same samples, each with `factor` times its weight."""

    def head(self) -> dict[str, NDArray[np.float32]]:
        """The head's tensors, by the last word of their names in `exits.safetensors`."""

    def stored(self) -> dict[str, NDArray[Any]]:
        """What `statistics.safetensors` holds, by the first word of the names."""


class Learner(Protocol):
    """Running sums over samples, added to the statistics that it started from."""

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Add features (n, D) of samples, n ≥ 1, with labels (n,) in 0…K−1."""

    def statistics(self) -> HeadStatistics:
        """Of everything so far; adding may go on."""


def merged_means(
    counts: tuple[NDArray[np.float64], NDArray[np.float64]], means: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Class means (K, D) of two sets of samples together, from the counts (K,) and means (K, D) of each.

    A class without samples has the overall mean.
    """
    total = counts[0] + counts[1]
    sums = counts[0][:, None] * means[0] + counts[1][:, None] * means[1]
    overall = sums.sum(axis=0) / max(float(total.sum()), np.finfo(np.float64).tiny)
    seen = total > 0
    return np.asarray(np.where(seen[:, None], sums / np.where(seen, total, 1.0)[:, None], overall))
