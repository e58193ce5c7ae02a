"""Watching: answers counted for drift, and a few samples run to the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import Advance
from edgeexit.drift import DriftMonitor
from edgeexit.errors import DataError, UsageError
from edgeexit_runtime.answers import Answers
from edgeexit_runtime.batches import Batch
from edgeexit_runtime.cascade import Cascade

if TYPE_CHECKING:  # reading data takes Pillow, which a program with samples of its own need not load
    from edgeexit.data import Dataset

__all__ = ["audit", "watch"]


def audit(
    cascade: Cascade, batch: Batch, answers: Answers, share: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Run a random part of a batch to the end, nobody leaving.

    Args:
        cascade: All segments of a bundle.
        batch: n samples.
        answers: What the cascade answered.
        share: The chance of each sample to be run to the end, 0 to 1.
        random: Draws them.

    Returns:
        (m,) whether the whole model gives the cascade's answer, for the m samples drawn.

    Raises:
        UsageError: The share is out of range.
        BackendError: The device failed.
    """
    if not 0 <= share <= 1:
        raise UsageError("the part to run to the end is not a share", got=share, expected="0 to 1")
    rows = np.flatnonzero(random.random(len(answers)) < share)
    if not len(rows):
        return np.zeros(0, dtype=np.bool_)
    drawn = {name: array[rows] for name, array in batch.items()} if isinstance(batch, Mapping) else batch[rows]
    return np.asarray(cascade.logits(drawn)[-1].argmax(axis=1) == answers.label[rows])


def watch(
    monitor: DriftMonitor,
    cascade: Cascade,
    dataset: Dataset,
    *,
    share: float,
    seed: int = 0,
    batch: int = 64,
    advance: Advance,
) -> None:
    """Answer every sample, and tell the monitor.

    Args:
        monitor: Counts.
        cascade: All segments of a bundle.
        dataset: New samples; labels are not looked at.
        share: The part to run to the end.
        seed: Draws that part.
        batch: Samples per run; changes the speed, not the answers.
        advance: Told after each batch how many samples are done.

    Raises:
        DataError: There are no samples, or one cannot be read.
        UsageError: The share is out of range.
        BackendError: The device failed.
    """
    if len(dataset) == 0:
        raise DataError("there are no samples to watch", expected="at least one")
    random = np.random.default_rng(seed)
    for arrays in dataset.batches(batch):
        answers = cascade.run(arrays)
        monitor.add(answers.exit, answers.score)
        monitor.audit(audit(cascade, arrays, answers, share, random))
        advance(len(answers))
