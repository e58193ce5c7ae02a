"""E2CM's head: the distance to each class mean of max-pooled activations (Görmez et al. 2022, eq. 2–7).

    d_k = ‖x − c_k‖₂            (eq. 3)
    d_k ← d_k / norm_k          (eq. 4; norm_k is the mean of d_k over the *fitting* samples, stored)
    logit_k = −d_k              (eq. 5; the softmax, with a fitted temperature, is the policy's)

Equation 4 needs the mean distance to means that are known only at the end. The root mean square
distance follows exactly from running sums: with m the mean of all samples and v their mean squared
distance to it,

    rms_k² = v + ‖c_k − m‖²

and the mean distance is that times a ratio, at most 1, which hardly depends on the point that distances
are taken from. The ratio is measured: on a sample of fixed size in a first fit (exact for no more
samples than that), and on every sample, at the old means, when a head is continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.heads.base import merged_means
from edgeexit.statistics import ClassSums, FeatureSample

__all__ = ["ClassMeansLearner", "ClassMeansStatistics", "distances"]

_SAMPLE = 1024
_ABSENT_NORM = 1e-6
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class ClassMeansStatistics:
    """What a class-means head knows of its samples.

    Attributes:
        counts: (K,) float64, weight of the samples of each class.
        means: (K, D) float64, c_k.
        spread: v, the mean squared distance of all samples to their mean.
        ratios: (K,) float64, mean distance over root mean square distance to c_k.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    spread: float
    ratios: NDArray[np.float64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """m, (D,)."""
        return np.asarray(self.counts @ self.means / max(float(self.counts.sum()), _TINY))

    def scaled(self, factor: float) -> ClassMeansStatistics:
        """See `HeadStatistics.scaled`."""
        return replace(self, counts=self.counts * factor)

    def rms_distances(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Root mean square distance of *all* samples to each of the points (K, D), shape (K,)."""
        return np.asarray(np.sqrt(self.spread + ((points - self.centre) ** 2).sum(axis=1)))

    def merged(self, other: ClassMeansStatistics) -> ClassMeansStatistics:
        """Of both sets of samples together."""
        n, m = float(self.counts.sum()), float(other.counts.sum())
        total = max(n + m, _TINY)
        means = merged_means((self.counts, other.counts), (self.means, other.means))
        apart = self.centre - other.centre
        spread = (n * self.spread + m * other.spread + n * m / total * float(apart @ apart)) / total
        ours, theirs = self.ratios * self.rms_distances(means), other.ratios * other.rms_distances(means)
        both = ClassMeansStatistics(self.counts + other.counts, means, spread, self.ratios)
        ratios = (n * ours + m * theirs) / total / np.maximum(both.rms_distances(means), _TINY)
        return replace(both, ratios=ratios)

    def head(self) -> dict[str, NDArray[np.float32]]:
        """`means` (K, D) and `norms` (K,): logit k = −‖features − means k‖ / norm k."""
        norms = np.maximum(self.rms_distances(self.means) * self.ratios, _ABSENT_NORM)
        norms[self.counts == 0] = _ABSENT_NORM
        return {"means": self.means.astype(np.float32), "norms": norms.astype(np.float32)}

    def stored(self) -> dict[str, NDArray[Any]]:
        """`counts` and `spread`; the head itself has the rest."""
        return {"counts": self.counts, "spread": np.asarray([self.spread])}

    @classmethod
    def shapes(cls, classes: int, features: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Data type and shape of what `stored` gives."""
        return {"counts": ("float64", (classes,)), "spread": ("float64", (1,))}

    @classmethod
    def head_shapes(cls, classes: int, features: int) -> dict[str, tuple[int, ...]]:
        """Shape of what `head` gives."""
        return {"means": (classes, features), "norms": (classes,)}

    @classmethod
    def load(cls, stored: Mapping[str, NDArray[Any]], head: Mapping[str, NDArray[np.float32]]) -> ClassMeansStatistics:
        """Rebuild from what `stored` and `head` gave; shapes were checked."""
        counts, means = stored["counts"].astype(np.float64), head["means"].astype(np.float64)
        found = cls(counts, means, max(0.0, float(stored["spread"][0])), np.ones(len(counts)))
        ratios = np.minimum(head["norms"] / np.maximum(found.rms_distances(means), _TINY), 1.0)
        seen = counts > 0
        return replace(found, ratios=np.where(seen, ratios, ratios[seen].mean() if seen.any() else 1.0))


class ClassMeansLearner:
    """Sums the features of each class, and what tells mean distances from root mean square ones.

    Args:
        classes: Number of classes K.
        features: Feature length D.
        start: What to continue from. When None, the samples must come in random order: the first 1024
            are kept to measure distances on.
    """

    def __init__(self, classes: int, features: int, start: ClassMeansStatistics | None = None) -> None:
        self._start = start
        self._sums = ClassSums(classes, features)
        self._sample = FeatureSample(_SAMPLE)
        self._distances = np.zeros(classes)

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """See `Learner.add`."""
        self._sums.add(features, labels)
        if self._start is None:
            self._sample.add(features)
        else:
            self._distances += distances(features, self._start.means.astype(np.float32)).sum(axis=0, dtype=np.float64)

    def statistics(self) -> ClassMeansStatistics:
        """See `Learner.statistics`."""
        sums, start = self._sums, self._start
        if start is not None and not sums.samples:
            return start
        own = ClassMeansStatistics(
            sums.counts.astype(np.float64), sums.means(), sums.spread(), np.ones(len(sums.counts))
        )
        if start is None:
            return replace(own, ratios=_ratios(distances(self._sample.rows(), own.means.astype(np.float32))))
        ratios = self._distances / sums.samples / np.maximum(own.rms_distances(start.means), _TINY)
        return start.merged(replace(own, ratios=np.minimum(ratios, 1.0)))


def distances(features: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances (n, K) of features (n, D) to means (K, D)."""
    squared = (features**2).sum(axis=1)[:, None] - 2 * features @ means.T + (means**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _ratios(sample: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over root mean square, by column."""
    wide = sample.astype(np.float64)
    return np.asarray(wide.mean(axis=0) / np.maximum(np.sqrt((wide**2).mean(axis=0)), _TINY))
