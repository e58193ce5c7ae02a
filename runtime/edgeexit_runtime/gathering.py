"""Gathering: the logits of every exit for every sample of a data set, to fit and to compare on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from edgeexit.cached import CachedLogits
from edgeexit.console import Advance
from edgeexit.data import Dataset, open_data, open_files
from edgeexit.errors import DataError
from edgeexit.manifest import Manifest
from edgeexit_runtime.cascade import Cascade

__all__ = ["MAX_BYTES", "Labels", "gather", "open_for", "within_memory"]

MAX_BYTES = 1 << 30
"""Of logits; of more data than that a random part is taken."""

SEED = 0

Labels = Literal["data", "model"]
"""What counts as right: the data's labels, or the whole model's answers."""


def open_for(manifest: Manifest, path: str | Path, labels: Labels) -> Dataset:
    """Open data for a bundle. Where the model gives the labels, the data need none.

    Raises:
        DataError: The data cannot be used; the message names the file.
    """
    if labels == "model":
        return open_files([path], manifest.inputs, manifest.preprocessing)
    return open_data(path, manifest.inputs, manifest.preprocessing, manifest.labels)


def within_memory(dataset: Dataset, cascade: Cascade) -> Dataset:
    """The data, or as large a random part of them, always the same, as `MAX_BYTES` of logits allow."""
    limit = MAX_BYTES // (4 * cascade.exits * len(cascade.manifest.labels))
    if len(dataset) <= limit:
        return dataset
    return dataset.take(np.sort(np.random.default_rng(SEED).permutation(len(dataset))[:limit]))


def gather(
    cascade: Cascade, dataset: Dataset, *, batch: int = 64, labels: Labels = "data", advance: Advance
) -> CachedLogits:
    """Run every sample to the end, nobody leaving, and keep what each exit says.

    Args:
        cascade: All segments of a bundle.
        dataset: N samples.
        batch: Samples per run; changes the speed, not the logits.
        labels: What counts as right.
        advance: Told after each batch how many samples are done.

    Raises:
        DataError: There are no samples, no labels where they are wanted, or a sample cannot be read.
        BackendError: The device failed.
    """
    if len(dataset) == 0:
        raise DataError("there are no samples", expected="samples to run")
    if labels == "data" and dataset.labels is None:
        raise DataError(
            "the data have no labels", remedy="give labels, or take the whole model's answers: --labels model"
        )
    classes = len(cascade.manifest.labels)
    logits = tuple(np.empty((len(dataset), classes), dtype=np.float32) for _ in range(cascade.exits))
    done = 0
    for arrays in dataset.batches(batch):
        found = cascade.logits(arrays)
        rows = slice(done, done + found.shape[1])
        for kept, values in zip(logits, found, strict=True):
            kept[rows] = values
        done = rows.stop
        advance(found.shape[1])
    if labels == "data" and dataset.labels is not None:
        return CachedLogits(logits, dataset.labels)
    return CachedLogits(logits, np.zeros(done, dtype=np.int64)).labelled_by_the_model()
