"""Evaluation: what a cascade answers, costs and takes on labelled data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import Advance
from edgeexit.data import Dataset
from edgeexit.errors import DataError
from edgeexit.manifest import ExitEntry
from edgeexit_runtime.cascade import Cascade

__all__ = ["Evaluation", "ExitResult", "choose_samples", "evaluate", "time_samples"]

PASSES = 3
SEED = 0

Sample = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ExitResult:
    """What happened at one exit.

    Attributes:
        name: The exit.
        share: Of the samples, that left here.
        accuracy: Of those that left here; None if nobody did.
        cost: Everything spent until this exit, as a fraction of the whole model's MACs.
    """

    name: str
    share: float
    accuracy: float | None
    cost: float


@dataclass(frozen=True)
class Evaluation:
    """What happened on n samples.

    Attributes:
        samples: n.
        accuracy: Of the cascade.
        full_accuracy: Of the last exit if everybody went there: the whole model's.
        accuracy_drop: full_accuracy − accuracy.
        mean_cost: Mean over the samples of the cost of the exit that each took.
        exits: One entry per exit.
    """

    samples: int
    accuracy: float
    full_accuracy: float
    accuracy_drop: float
    mean_cost: float
    exits: tuple[ExitResult, ...]


def evaluate(cascade: Cascade, dataset: Dataset, *, batch: int, advance: Advance) -> Evaluation:
    """Run the cascade over all samples, and again with every exit disabled.

    Args:
        cascade: All segments of a bundle.
        dataset: n labelled samples.
        batch: Samples per run; changes the speed, not the answers.
        advance: Told after each batch how many samples are done.

    Raises:
        DataError: The samples have no labels, there are none, or one cannot be read.
        BackendError: The device failed.
    """
    if dataset.labels is None or len(dataset) == 0:
        raise DataError("there are no labelled samples to evaluate", got=f"{len(dataset)} samples")
    answers, labels, full_labels = [], [], []
    for arrays in dataset.batches(batch):
        answer = cascade.run(arrays)
        answers.append(answer.exit)
        labels.append(answer.label)
        full_labels.append(cascade.logits(arrays)[-1].argmax(axis=1))
        advance(len(answer))
    return summarise(
        cascade.manifest.exits,
        exits=np.concatenate(answers),
        right=np.concatenate(labels) == dataset.labels,
        full_right=np.concatenate(full_labels) == dataset.labels,
    )


def summarise(
    entries: Sequence[ExitEntry], *, exits: NDArray[np.int64], right: NDArray[np.bool_], full_right: NDArray[np.bool_]
) -> Evaluation:
    """Count.

    Args:
        entries: The exits.
        exits: (n,) the exit that each sample took.
        right: (n,) whether the cascade was right.
        full_right: (n,) whether the whole model was right.
    """
    counts = np.bincount(exits, minlength=len(entries))
    right_counts = np.bincount(exits[right], minlength=len(entries))
    costs = np.array([entry.cost for entry in entries])
    accuracy, full_accuracy = float(right.mean()), float(full_right.mean())
    return Evaluation(
        samples=len(exits),
        accuracy=accuracy,
        full_accuracy=full_accuracy,
        accuracy_drop=full_accuracy - accuracy,
        mean_cost=float(costs[exits].mean()),
        exits=tuple(
            ExitResult(entry.name, int(count) / len(exits), int(good) / int(count) if count else None, entry.cost)
            for entry, count, good in zip(entries, counts, right_counts, strict=True)
        ),
    )


def choose_samples(dataset: Dataset, count: int) -> NDArray[np.int64]:
    """Positions of at most `count` samples from all over a dataset, shuffled, always the same ones."""
    return np.random.default_rng(SEED).permutation(len(dataset))[:count]


def time_samples(contenders: Sequence[Callable[[Sample], object]], samples: Sequence[Sample]) -> tuple[float, ...]:
    """Time several ways to answer the same samples, in turn for each sample, so that drift hits all alike.

    Every sample is answered `PASSES` times; its median counts.

    Returns:
        Mean milliseconds per sample, one figure a contender.
    """
    seconds = np.empty((PASSES, len(samples), len(contenders)))
    for contender in contenders:
        contender(samples[0])
    for repeat in range(PASSES):
        for i, sample in enumerate(samples):
            for c, contender in enumerate(contenders):
                start_s = time.perf_counter()
                contender(sample)
                seconds[repeat, i, c] = time.perf_counter() - start_s
    return tuple(1e3 * float(mean_s) for mean_s in np.median(seconds, axis=0).mean(axis=0))
