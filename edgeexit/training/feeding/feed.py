"""Feeding: from samples to torch batches, in an order that follows from the seed and the epoch alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from edgeexit.data import Dataset
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import Preprocessing
from edgeexit.training.feeding.augmenting import Augmentation
from edgeexit.training.feeding.preparing import Preparation
from edgeexit.training.feeding.samples import HeldSamples, ReadSamples
from edgeexit.training.loop.randomness import derived_seed
from edgeexit.training.settings import TrainSettings

__all__ = ["KEPT_BYTES", "Feed", "TrainBatch"]

KEPT_BYTES = 1 << 30
"""Decoded pictures up to this size stay in memory, as they are (bytes), so that they are decoded once."""

_LOOKED_AT = 8


@dataclass(frozen=True)
class TrainBatch:
    """n samples: the network's inputs in the order of `Feed.names`, each (n, …), and labels (n,) int64 or None."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True, eq=False)
class Feed:
    """Samples as a network takes them. Make one with `from_dataset` or `from_arrays`.

    `train` sets batch, seed and augmentation by its own settings (`under`).

    Attributes:
        names: Names of the inputs, in the order of `TrainBatch.inputs`.
        samples: How many there are.
        labels: (samples,) int64, or None.
        batch: Samples a step.
        seed: Of order and augmentation.
        augment: What is done to pictures in `epoch`.
    """

    names: tuple[str, ...]
    samples: int
    labels: NDArray[np.int64] | None
    rows: HeldSamples | ReadSamples
    preparation: Preparation
    batch: int = 128
    seed: int = 0
    augment: Augmentation = "none"

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        preprocessing: Preprocessing | None = None,
        *,
        names: Sequence[str] | None = None,
        kept_bytes: int = KEPT_BYTES,
    ) -> Feed:
        """Read from a dataset.

        Args:
            dataset: Pictures, uint8 (height, width, channels), or arrays.
            preprocessing: Of kind "image", pictures become float32 (n, C, H, W), x/255 and then (x − mean) / std; of
                kind "array", so do byte arrays where a mean is given, their axes left alone. Anything else, and
                everything without it, goes as it is (float64 as float32).
            names: The inputs in the order of the network's parameters; the dataset's own order if None.
            kept_bytes: See `KEPT_BYTES`; 0 decodes anew each time.

        Raises:
            DataError: There are no samples, or an input is not there.
            UsageError: Mean and std do not fit.
        """
        if not len(dataset):
            raise DataError("there are no samples to train on", got="an empty data set", expected="at least one sample")
        first = next(iter(dataset.batches(1, [0], workers=0)))
        chosen = _chosen(names, first)
        preparation = Preparation.plan(preprocessing, {name: first[name] for name in chosen})
        return cls(chosen, len(dataset), dataset.labels, ReadSamples(dataset, kept_bytes, first), preparation)

    @classmethod
    def from_arrays(
        cls,
        inputs: Mapping[str, ArrayLike | Tensor] | ArrayLike | Tensor,
        labels: ArrayLike | Tensor | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        names: Sequence[str] | None = None,
    ) -> Feed:
        """Take arrays or tensors in memory: one, or several by the names of the network's parameters.

        See `from_dataset` for what is done to them.

        Raises:
            DataError: Lengths differ, there are no samples, or labels are no (n,) integers from 0.
            UsageError: Mean and std do not fit.
        """
        given = inputs if isinstance(inputs, Mapping) else {"x": inputs}
        arrays = {name: _array(value) for name, value in given.items()}
        lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
        numbers = None if labels is None else _array(labels)
        if numbers is not None:
            lengths["labels"] = len(numbers) if numbers.ndim == 1 else 0
            if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers.size and numbers.min() < 0):
                got = f"{numbers.dtype} of shape {numbers.shape}"
                raise DataError("the labels cannot be used", got=got, expected="integers from 0, of shape (samples,)")
            numbers = numbers.astype(np.int64)
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            got = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "nothing"
            raise DataError("the arrays cannot be fed", got=got, expected="as many rows in each, at least one")
        chosen = _chosen(names, arrays)
        arrays = {name: arrays[name] for name in chosen}
        preparation = Preparation.plan(preprocessing, {name: array[:1] for name, array in arrays.items()})
        return cls(chosen, len(next(iter(arrays.values()))), numbers, HeldSamples(arrays), preparation)

    def under(self, settings: TrainSettings) -> Feed:
        """The same samples with the batch, seed and augmentation of these settings.

        Raises:
            UsageError: There is augmentation and the samples are no pictures.
        """
        if settings.augment != "none" and not self.preparation.pictures:
            raise UsageError(
                "only pictures can be augmented",
                got=f"augment {settings.augment}, inputs {', '.join(self.names)}",
                expected="one input of shape (samples, channels, height, width)",
                remedy="augment none",
            )
        return replace(self, batch=settings.batch, seed=settings.seed, augment=settings.augment)

    @property
    def steps(self) -> int:
        """Steps of an epoch: a last batch that is not full is left out, unless it is the only one."""
        return max(1, self.samples // self.batch)

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainBatch]:
        """The batches of an epoch from step `start` on, in random order, augmented.

        What a step gets follows from the seed, the epoch and the step alone.

        Raises:
            DataError: While iterating, when a sample cannot be read.
        """
        generator = np.random.default_rng(derived_seed(self.seed, "order", number))
        order = generator.permutation(self.samples)[: self.steps * self.batch]
        chance = torch.Generator()
        left = order[start * self.batch :]
        for step, arrays in enumerate(self.rows.read(left, self.batch), start):
            chance.manual_seed(derived_seed(self.seed, "augment", number, step))
            rows = left[(step - start) * self.batch :][: self.batch]
            yield self._batch(arrays, rows, self.augment, chance)

    def in_order(self) -> Iterator[TrainBatch]:
        """All samples once, in their order, as they are.

        Raises:
            DataError: As `epoch`.
        """
        order = np.arange(self.samples)
        for step, arrays in enumerate(self.rows.read(order, self.batch)):
            yield self._batch(arrays, order[step * self.batch :][: self.batch], "none", None)

    def example(self, rows: int = 2) -> tuple[Tensor, ...]:
        """The inputs of the first samples, (rows, …) each; samples are repeated where there are too few."""
        first = np.arange(rows) % self.samples
        return self.preparation.tensors(next(iter(self.rows.read(first, rows))), "none", None)

    def fingerprint(self) -> str:
        """Says whether a run is taken up again with the data it began with: counts, names, labels and some samples.

        Of the values those of eight samples count, the first and the last among them, before preparation.

        Raises:
            DataError: One of them cannot be read.
        """
        labels = hashlib.sha256(b"" if self.labels is None else np.ascontiguousarray(self.labels).tobytes())
        rows = np.unique(np.linspace(0, self.samples - 1, _LOOKED_AT).astype(np.int64))
        values = hashlib.sha256()
        for arrays in self.rows.read(rows, len(rows)):
            for name in self.names:
                values.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
                values.update(np.ascontiguousarray(arrays[name]).tobytes())
        count = f"{self.samples} samples of {', '.join(self.names)}"
        return f"{count}, labels {labels.hexdigest()[:16]}, values {values.hexdigest()[:16]}"

    def check_labels(self, what: str) -> None:
        """Refuse samples that have no labels, or those of one class only.

        Args:
            what: Which data these are, for the message.

        Raises:
            DataError: That is so.
        """
        if self.labels is None:
            raise DataError(
                f"the {what} have no labels",
                expected="a label for each sample",
                remedy="mode distilled trains exits on the model's own answers and needs none",
            )
        present = np.unique(self.labels)
        if len(present) < 2:
            raise DataError(
                f"the {what} are of one class only", got=f"class {present[0]}", expected="at least two classes"
            )

    def _batch(
        self,
        arrays: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
        augment: Augmentation,
        chance: torch.Generator | None,
    ) -> TrainBatch:
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return TrainBatch(self.preparation.tensors(arrays, augment, chance), labels)


def _array(value: object) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _chosen(names: Sequence[str] | None, arrays: Mapping[str, object]) -> tuple[str, ...]:
    chosen = tuple(arrays) if names is None else tuple(names)
    missing = [name for name in chosen if name not in arrays]
    if missing or not chosen:
        raise DataError(
            "the data lack inputs of the model", got=", ".join(arrays) or "nothing", expected=", ".join(chosen)
        )
    return chosen
