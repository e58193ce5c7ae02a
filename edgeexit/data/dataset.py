"""The dataset: samples by position, read from a source in batches, with labels and names beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeexit.errors import UsageError

__all__ = ["Batch", "Dataset", "Source"]

Batch = dict[str, NDArray[Any]]
"""Arrays by the model's input name; axis 0 is the batch, dtype and shape are the input's."""


class Source(Protocol):
    """Where samples are read from. `read` may be called from several threads at once."""

    @property
    def workers(self) -> int:
        """How many threads reading ahead is worth; 0 where reading costs next to nothing."""

    def __len__(self) -> int:
        """How many samples there are."""

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """The samples at these positions, in this order.

        Raises:
            DataError: A sample cannot be read; the message names it.
        """


@dataclass(frozen=True, eq=False)
class Dataset:
    """n samples of a source. Nothing is read before `batches` is iterated.

    Args:
        source: Where the samples come from.
        rows: (n,) int64, the samples' positions in the source.
        labels: (n,) int64 indices into `class_names`, or None where the source has none.
        class_names: The classes in the order of the model's logits; empty where there are no labels.
        names: One name per sample: the relative path of a picture, or `archive[i]`.
    """

    source: Source
    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, indices: ArrayLike | None = None, *, workers: int | None = None) -> Iterator[Batch]:
        """Read the samples in order, `size` at a time; the last batch may be smaller.

        A few batches are read ahead by threads, so memory depends on `size` and not on n.

        Args:
            size: Samples per batch, at least 1.
            indices: Positions in this dataset, (m,) integers; all of it when None.
            workers: Threads that read ahead; the source's own choice when None, none at all when 0.

        Raises:
            UsageError: `size` is below 1.
            DataError: While iterating, when a sample cannot be read; the message names it.
        """
        if size < 1:
            raise UsageError("the batch size is too small", got=size, expected="at least 1")
        rows = self.rows if indices is None else self.rows[np.asarray(indices, dtype=np.int64)]
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        workers = min(self.source.workers if workers is None else workers, len(chunks) - 1)
        if workers < 1:
            return (self.source.read(chunk) for chunk in chunks)
        return _read_ahead(self.source, chunks, workers)

    def take(self, indices: ArrayLike) -> Dataset:
        """The samples at these positions, (m,) integers, as a dataset of their own."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(
            source=self.source,
            rows=self.rows[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            class_names=self.class_names,
            names=tuple(self.names[index] for index in chosen),
        )

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Hold out a share of every class; equal seeds give equal splits.

        A class of two or more samples is in both parts. A class of one sample is in the first part
        only. Without labels all samples count as one class.

        Args:
            fraction: The share of samples in the second part, between 0 and 1 exclusive.
            seed: Of the random generator.

        Returns:
            (what is left, what is held out), each in the order of this dataset.

        Raises:
            UsageError: `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise UsageError("the share to hold out is not a share", got=fraction, expected="between 0 and 1")
        generator = np.random.default_rng(seed)
        labels = np.zeros(len(self), dtype=np.int64) if self.labels is None else self.labels
        held_out = np.zeros(len(self), dtype=bool)
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held_out[members[:count]] = True
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))


def _read_ahead(source: Source, chunks: list[NDArray[np.int64]], workers: int) -> Iterator[Batch]:
    """Read chunks in `workers` threads, at most one more than that ahead of the consumer."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeexit-data")
    waiting: deque[Future[Batch]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(source.read, chunk))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
