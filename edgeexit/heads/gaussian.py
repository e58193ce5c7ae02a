"""The Gaussian head: class means with one shared covariance, in closed form.

Samples of class k are taken as normal with mean μ_k and a covariance Σ common to all classes, so the
log of p(class k | features f) is linear in f (linear discriminant analysis):

    logit_k(f) = (Σ⁻¹ μ_k)ᵀ f − ½ μ_kᵀ Σ⁻¹ μ_k + log π_k

Σ is shrunk towards a multiple of the identity, (1 − s) Σ + s (tr Σ / D) I. The statistics of two sets
of samples merge exactly (Chan, Golub and LeVeque 1983): with n_k and m_k samples of class k whose means
differ by δ_k,

    S = S_n + S_m + Σ_k n_k m_k / (n_k + m_k) δ_k δ_kᵀ

where S is the scatter within the classes, Σ times the number of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.heads.base import merged_means
from edgeexit.statistics import Scatter

__all__ = ["ABSENT_LOGIT", "GaussianLearner", "GaussianStatistics"]

ABSENT_LOGIT = -1e6
"""The bias of a class that no sample was of."""

_TINY = float(np.finfo(np.float64).tiny)
_CONTINUED_ROWS = 256  # heads are continued on devices, all exits at once: 1.5 MB each at 1536 features


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """What a Gaussian head knows of its samples.

    Attributes:
        counts: (K,) float64, weight of the samples of each class.
        means: (K, D) float64.
        covariance: (D, D) float64 within the classes, divided by the sum of counts.
        shrinkage: s, above 0 and at most 1.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    covariance: NDArray[np.float64]
    shrinkage: float = 1.0

    def scaled(self, factor: float) -> GaussianStatistics:
        """See `HeadStatistics.scaled`."""
        return replace(self, counts=self.counts * factor)

    def head(self) -> dict[str, NDArray[np.float32]]:
        """`weight` (K, D) and `bias` (K,): logits = features · weightᵀ + bias."""
        priors = self.counts / max(float(self.counts.sum()), _TINY)
        # About the overall mean the numbers are small: single precision then loses nothing at run time.
        centre = priors @ self.means
        centred = self.means - centre
        variance = float(np.trace(self.covariance)) / len(self.covariance) or 1.0
        shrunk = (1 - self.shrinkage) * self.covariance
        shrunk[np.diag_indices_from(shrunk)] += self.shrinkage * variance
        weight = np.linalg.solve(shrunk, centred.T).T
        bias = -0.5 * np.einsum("kd,kd->k", centred, weight) + np.log(np.maximum(priors, 1e-12)) - weight @ centre
        bias[priors == 0] = ABSENT_LOGIT
        return {"weight": np.ascontiguousarray(weight, dtype=np.float32), "bias": bias.astype(np.float32)}

    def stored(self) -> dict[str, NDArray[Any]]:
        """`counts`, `means`, `covariance` (its upper triangle, row by row) and `shrinkage`."""
        rows = [self.covariance[i, i:].astype(np.float32) for i in range(len(self.covariance))]
        for row in rows:
            row[0] = max(row[0], 0.0)  # rounding leaves less than nothing of features that never change
        return {
            "counts": self.counts,
            "means": self.means.astype(np.float32),
            "covariance": np.concatenate(rows),
            "shrinkage": np.asarray([self.shrinkage]),
        }

    @classmethod
    def shapes(cls, classes: int, features: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Data type and shape of what `stored` gives."""
        return {
            "counts": ("float64", (classes,)),
            "means": ("float32", (classes, features)),
            "covariance": ("float32", (features * (features + 1) // 2,)),
            "shrinkage": ("float64", (1,)),
        }

    @classmethod
    def head_shapes(cls, classes: int, features: int) -> dict[str, tuple[int, ...]]:
        """Shape of what `head` gives."""
        return {"weight": (classes, features), "bias": (classes,)}

    @classmethod
    def load(cls, stored: Mapping[str, NDArray[Any]], head: Mapping[str, NDArray[np.float32]]) -> GaussianStatistics:
        """Rebuild from what `stored` gave; shapes were checked.

        Raises:
            BundleError: The covariance or the shrinkage cannot be one.
        """
        means, triangle = stored["means"].astype(np.float64), stored["covariance"]
        shrinkage = float(stored["shrinkage"][0])
        length = means.shape[1]
        covariance = np.empty((length, length))
        start = 0
        for i in range(length):
            row = triangle[start : start + length - i]
            covariance[i, i:] = covariance[i:, i] = row
            start += len(row)
        if not 0 < shrinkage <= 1 or covariance.diagonal().min() < 0:
            raise BundleError(
                "statistics.safetensors: a Gaussian head has an unusable covariance or shrinkage",
                got=f"variances from {covariance.diagonal().min():g}, shrinkage {shrinkage:g}",
                expected="variances of 0 or more, a shrinkage above 0 and at most 1",
            )
        return cls(stored["counts"].astype(np.float64), means, covariance, shrinkage)


class GaussianLearner:
    """Sums the scatter of the features. It holds one matrix (D, D), and needs others only for a result.

    Args:
        classes: Number of classes K.
        features: Feature length D.
        start: What to continue from; nothing when None.
    """

    def __init__(self, classes: int, features: int, start: GaussianStatistics | None = None) -> None:
        if start is None:
            self._scatter = Scatter(classes, features)
            self._start = GaussianStatistics(np.zeros(classes), np.zeros((classes, features)), np.zeros((0, 0)))
        else:
            scatter = start.covariance * float(start.counts.sum())
            self._scatter = Scatter(classes, features, buffer_rows=_CONTINUED_ROWS, scatter=scatter)
            self._start = replace(start, covariance=np.zeros((0, 0)))

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """See `Learner.add`."""
        self._scatter.add(features, labels)

    def statistics(self) -> GaussianStatistics:
        """See `Learner.statistics`."""
        old, new = self._start.counts, self._scatter.counts.astype(np.float64)
        means = self._scatter.means()
        scatter = self._scatter.scatter()
        if old.any():
            apart = self._start.means - means
            weight = old * new / np.maximum(old + new, _TINY)
            scatter += (weight[:, None] * apart).T @ apart
            means = merged_means((old, new), (self._start.means, means))
        scatter /= max(float((old + new).sum()), _TINY)
        return GaussianStatistics(old + new, means, scatter, self._start.shrinkage)
