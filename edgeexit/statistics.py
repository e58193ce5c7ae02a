"""Running sums over features: all that heads need, in memory that does not grow with the samples.

The exporter fits heads with these sums; they merge and continue, so a device can go on adding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassSums", "FeatureSample", "Scatter"]

_BUFFER_ROWS = 2048


class ClassSums:
    """Counts, sums and squared lengths of features per class.

    Features are shifted by the first batch's mean before they are summed, so that a large common
    offset costs no precision.

    Args:
        classes: Number of classes K.
        features: Feature length D.
    """

    def __init__(self, classes: int, features: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(classes, dtype=np.int64)
        self.shift: NDArray[np.float64] | None = None
        self._sums = np.zeros((classes, features), dtype=np.float64)
        self._squares = 0.0

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Add features of shape (n, D) with labels of shape (n,) in 0…K−1."""
        self._add_shifted(self._shifted(features), labels)

    @property
    def samples(self) -> int:
        """How many samples were added."""
        return int(self.counts.sum())

    def priors(self) -> NDArray[np.float64]:
        """Share of each class, shape (K,)."""
        return self.counts / max(1, self.samples)

    def means(self) -> NDArray[np.float64]:
        """Class means, shape (K, D) (E2CM eq. 2). A class without samples has the overall mean."""
        overall = self._sums.sum(axis=0) / max(1, self.samples)
        seen = self.counts > 0
        shifted = np.where(seen[:, None], self._sums / np.maximum(self.counts, 1)[:, None], overall)
        return np.asarray(shifted + (0.0 if self.shift is None else self.shift))

    def centre(self) -> NDArray[np.float64]:
        """Mean of all samples, shape (D,)."""
        mean = self._sums.sum(axis=0) / max(1, self.samples)
        return np.asarray(mean + (0.0 if self.shift is None else self.shift))

    def spread(self) -> float:
        """Mean squared distance of all samples to their mean."""
        mean = self._sums.sum(axis=0) / max(1, self.samples)
        return max(0.0, self._squares / max(1, self.samples) - float(mean @ mean))

    def _shifted(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.shift is None:
            self.shift = features.mean(axis=0, dtype=np.float32).astype(np.float64)
        return features - self.shift.astype(np.float32)

    def _add_shifted(self, shifted: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        classes = len(self.counts)
        one_hot = np.zeros((classes, len(labels)), dtype=np.float32)
        one_hot[labels, np.arange(len(labels))] = 1.0
        self._sums += one_hot @ shifted
        self._squares += float(np.einsum("nd,nd->n", shifted, shifted).sum(dtype=np.float64))
        self.counts += np.bincount(labels, minlength=classes)


class Scatter(ClassSums):
    """`ClassSums` with the sum of outer products, for a covariance shared by all classes.

    Args:
        classes: Number of classes K.
        features: Feature length D.
        buffer_rows: Samples whose outer products are summed in single precision before they are added.
        scatter: Scatter within the classes of earlier samples, (D, D) float64, to which that of the samples
            added here is summed; it is changed. Of the earlier samples nothing else is known here.
    """

    def __init__(
        self,
        classes: int,
        features: int,
        *,
        buffer_rows: int = _BUFFER_ROWS,
        scatter: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(classes, features)
        self._outer = np.zeros((features, features), dtype=np.float64) if scatter is None else scatter
        self._buffer = np.empty((buffer_rows, features), dtype=np.float32)
        self._filled = 0

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Add features of shape (n, D) with labels of shape (n,) in 0…K−1."""
        shifted = self._shifted(features)
        self._add_shifted(shifted, labels)
        while len(shifted):
            taken = shifted[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            shifted = shifted[len(taken) :]
            if self._filled == len(self._buffer):
                self._flush()

    def scatter(self) -> NDArray[np.float64]:
        """Sum over the samples of the outer products of their distances to their class mean, shape (D, D)."""
        self._flush()
        seen = self.counts > 0
        sums = self._sums[seen]
        between = (sums / self.counts[seen][:, None]).T @ sums
        return np.asarray(self._outer - between)

    def _flush(self) -> None:
        rows = self._buffer[: self._filled]
        self._outer += rows.T @ rows
        self._filled = 0


class FeatureSample:
    """The first `limit` feature vectors, kept as they are.

    Fed in random order it is a uniform sample of fixed size.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[NDArray[np.float32]] = []
        self._kept = 0

    def add(self, features: NDArray[np.float32]) -> None:
        """Keep rows of features, shape (n, D), until the limit is reached."""
        room = self._limit - self._kept
        if room > 0:
            self._parts.append(features[:room].copy())
            self._kept += len(self._parts[-1])

    def rows(self) -> NDArray[np.float32]:
        """Kept features, shape (≤ limit, D)."""
        return np.concatenate(self._parts)
