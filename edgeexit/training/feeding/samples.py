"""Samples: arrays by input name, in memory or read from a data set, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.data import Dataset

__all__ = ["HeldSamples", "ReadSamples"]

_FEW_BATCHES = 4
"""So many may be missing of what is kept, and are read before the rest goes on."""


class HeldSamples:
    """Samples in memory."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def read(self, rows: NDArray[np.int64], size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The samples at these positions, `size` at a time."""
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            yield {name: array[chosen] for name, array in self.arrays.items()}


class ReadSamples:
    """Samples of a dataset: what was read once is kept where all of it fits, else it is read again each time."""

    def __init__(self, dataset: Dataset, kept_bytes: int, first: Mapping[str, NDArray[Any]]) -> None:
        self.dataset = dataset
        self._kept: dict[str, NDArray[Any]] = {}
        self._have = np.zeros(len(dataset), dtype=bool)
        fits = sum(array.nbytes for array in first.values()) * len(dataset) <= kept_bytes
        if dataset.source.workers and fits:
            self._kept = {name: np.empty((len(dataset), *one.shape[1:]), one.dtype) for name, one in first.items()}

    def read(self, rows: NDArray[np.int64], size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The samples at these positions, `size` at a time.

        Raises:
            DataError: While iterating, when one cannot be read.
        """
        missing = rows[~self._have[rows]]
        if self._kept and len(missing) <= _FEW_BATCHES * size:
            for _ in self._read(missing, size):
                pass
            yield from HeldSamples(self._kept).read(rows, size)
        else:
            yield from self._read(rows, size)

    def _read(self, rows: NDArray[np.int64], size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Read, in threads that run ahead, and keep."""
        for start, batch in zip(range(0, len(rows), size), self.dataset.batches(size, rows), strict=True):
            chunk = rows[start : start + size]
            for name, kept in self._kept.items():
                kept[chunk] = batch[name]
            self._have[chunk] = bool(self._kept)
            yield batch
