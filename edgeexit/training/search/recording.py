"""Activations kept, so that many heads can be tried on one pass of the backbone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeexit.console import progress
from edgeexit.errors import DataError, UsageError
from edgeexit.training.frozen import ActivationBatch, ActivationFeed

__all__ = ["Recording", "record"]

_FLOAT16 = float(np.finfo(np.float16).max)

Array = NDArray[Any]


class Recording:
    """Recorded activations: an `ActivationFeed` that needs no backbone.

    Args:
        values: Per exit (N, …), float32 or float16.
        teacher: (N, C) float32, the whole model's logits.
        labels: (N,) int64, or None.
        mask: (N, T), or None.
        batch: Most samples of a batch.
        seed: Each epoch has its own order, which follows from it; None keeps the order of the recording.
        offered: How many samples there were to choose from.
    """

    def __init__(
        self,
        values: Sequence[Array],
        teacher: NDArray[np.float32],
        labels: NDArray[np.int64] | None,
        mask: Array | None,
        *,
        batch: int,
        seed: int | None,
        offered: int | None = None,
    ) -> None:
        self.values = tuple(values)
        self.teacher, self.labels, self.mask = teacher, labels, mask
        self.batch, self.seed = batch, seed
        self.samples = len(teacher)
        self.offered = self.samples if offered is None else offered

    @property
    def steps(self) -> int:
        """Batches of an epoch; they differ by one sample at most, so that none is too small to normalise."""
        return math.ceil(self.samples / self.batch)

    @property
    def note(self) -> str:
        """What was kept, in words."""
        kind = " and ".join(sorted({value.dtype.name for value in self.values}))
        if self.samples == self.offered:
            return f"all {self.samples:,} samples ({kind})"
        return f"{self.samples:,} of {self.offered:,} samples, evenly spread ({kind})"

    @property
    def size_bytes(self) -> int:
        """Room that it takes."""
        arrays = [*self.values, self.teacher, self.labels, self.mask]
        return sum(array.nbytes for array in arrays if array is not None)

    def only(self, exit_: int) -> Recording:
        """The activations of one exit, in the same arrays."""
        return Recording(
            self.values[exit_ : exit_ + 1], self.teacher, self.labels, self.mask,
            batch=self.batch, seed=self.seed, offered=self.offered,
        )  # fmt: skip

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        """The batches of an epoch from batch `start` on, the activations as float32."""
        order = np.arange(self.samples)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number]).permutation(order)
        for rows in np.array_split(order, self.steps)[start:]:
            yield ActivationBatch(
                values=[_tensor(value[rows].astype(np.float32, copy=False)) for value in self.values],
                teacher=_tensor(self.teacher[rows]),
                labels=None if self.labels is None else _tensor(self.labels[rows]),
                mask=None if self.mask is None else _tensor(self.mask[rows]),
            )


def record(
    feed: ActivationFeed,
    limit_bytes: int,
    *,
    seed: int | None = None,
    folder: Path | None = None,
    quiet: bool = False,
    what: str = "recording activations",
) -> Recording:
    """Run a feed's epoch 0 and keep what it gives, with the augmentation that it has there.

    What does not fit as float32 is kept as float16, in which larger numbers than 65504 become that; and if that
    does not fit either, only some of the samples are kept, evenly spread over the epoch. `Recording.note` says which.

    Args:
        feed: Activations of a frozen backbone.
        limit_bytes: For all arrays together.
        seed: See `Recording`.
        folder: Keep the activations in a nameless file here, mapped into memory; None keeps them in memory.
        quiet: Show no progress.
        what: What to call it there.

    Raises:
        DataError: The feed is empty, or its activations change their shape from batch to batch.
        UsageError: Fewer samples fit than there are classes.
    """
    arrays: _Arrays | None = None
    with progress(what, feed.steps, quiet=quiet) as advance:
        for batch in feed.epoch(0):
            if arrays is None:
                arrays = _Arrays(batch, feed.steps, limit_bytes, folder)
            arrays.add(batch)
            advance()
    if arrays is None:
        raise DataError("there are no activations to record", got="an epoch of 0 batches")
    return arrays.recording(seed)


class _Arrays:
    """Room for a recording, found out from its first batch."""

    def __init__(self, batch: ActivationBatch, steps: int, limit_bytes: int, folder: Path | None) -> None:
        self.batch = len(batch.teacher)
        most = steps * self.batch
        elements = sum(value[0].numel() for value in batch.values)
        other = sum(_bytes(part) for part in (batch.teacher, batch.labels, batch.mask) if part is not None)
        dtype = np.float32 if most * (4 * elements + other) <= limit_bytes else np.float16
        self.part = min(1.0, limit_bytes / (most * (np.dtype(dtype).itemsize * elements + other)))
        rows = math.floor(most * self.part)
        classes = batch.teacher.shape[1]
        if rows < classes and self.part < 1:
            raise UsageError(
                "too few activations fit into the room for their recording",
                got=f"{limit_bytes} bytes: {rows} samples",
                expected=f"at least one for each of {classes} classes",
                remedy="allow more room, or search fewer exits at a time",
            )
        self.values = [_room((rows, *value.shape[1:]), dtype, folder) for value in batch.values]
        self.teacher = np.empty((rows, classes), np.float32)
        self.labels = None if batch.labels is None else np.empty(rows, np.int64)
        self.mask = None if batch.mask is None else np.empty((rows, *batch.mask.shape[1:]), _array(batch.mask).dtype)
        self.offered = self.kept = 0

    def add(self, batch: ActivationBatch) -> None:
        """Keep the batch's share of the samples."""
        numbers = self.offered + np.arange(len(batch.teacher))
        chosen = np.flatnonzero(np.floor((numbers + 1) * self.part) > np.floor(numbers * self.part))
        rows = slice(self.kept, self.kept + len(chosen))
        parts = [*zip(self.values, batch.values, strict=True), (self.teacher, batch.teacher)]
        parts += [(self.labels, batch.labels)] if self.labels is not None and batch.labels is not None else []
        parts += [(self.mask, batch.mask)] if self.mask is not None and batch.mask is not None else []
        for room, tensor in parts:
            array = _array(tensor)[chosen]
            if array.shape[1:] != room.shape[1:]:
                raise DataError(
                    "activations cannot be recorded, their shape changes",
                    got=list(array.shape[1:]),
                    expected=f"{list(room.shape[1:])}, as in the first batch",
                    remedy="pad the inputs to one length",
                )
            room[rows] = np.clip(array, -_FLOAT16, _FLOAT16) if room.dtype == np.float16 else array
        self.offered += len(numbers)
        self.kept += len(chosen)

    def recording(self, seed: int | None) -> Recording:
        """What was kept."""
        kept = slice(self.kept)
        return Recording(
            [value[kept] for value in self.values],
            self.teacher[kept],
            None if self.labels is None else self.labels[kept],
            None if self.mask is None else self.mask[kept],
            batch=self.batch, seed=seed, offered=self.offered,
        )  # fmt: skip


def _room(shape: tuple[int, ...], dtype: type[np.floating[Any]], folder: Path | None) -> Array:
    if folder is None:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:  # the mapping keeps it alive
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def _bytes(part: Tensor) -> int:
    return part[0].numel() * part.element_size()


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().numpy())


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
