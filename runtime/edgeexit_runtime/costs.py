"""What it costs on this device until each exit answers, in milliseconds, measured now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.cascade import Cascade

__all__ = ["exit_times_ms", "leaving_at"]

ROUNDS = 7
LEAST_RISE = 1e-6

Sample = Mapping[str, NDArray[Any]]


def exit_times_ms(
    cascade: Cascade,
    samples: Sequence[Sample],
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Time each exit's answer at batch 1: all segments, checks and decisions up to it.

    Each exit is timed by the cascade that everybody leaves there. All exits take a sample before the
    next sample, in an order that rotates, so that drift hits all alike.

    Args:
        cascade: All segments of a bundle, under the policy whose decisions count.
        samples: Batches of one sample, as the data give them.
        rounds: How often every sample is answered. One more is run before, and not counted.
        clock: Seconds.

    Returns:
        (E,) medians over samples and rounds, strictly rising: what noise made fall is lifted.

    Raises:
        BackendError: The device failed.
    """
    leaving = [leaving_at(cascade, k) for k in range(cascade.exits)]
    seconds = np.empty((rounds + 1, len(samples), cascade.exits))
    for number in range(rounds + 1):
        for i, sample in enumerate(samples):
            for turn in range(cascade.exits):
                k = (turn + i + number) % cascade.exits
                start_s = clock()
                leaving[k].run(sample)
                seconds[number, i, k] = clock() - start_s
    return _rising(1e3 * np.asarray(np.median(seconds[1:], axis=(0, 1))))


def leaving_at(cascade: Cascade, exit_index: int) -> Cascade:
    """The cascade that everybody leaves at one exit."""
    thresholds = [float("inf")] * cascade.exits
    thresholds[exit_index] = -float("inf")
    return cascade.with_policy(cascade.policy.with_thresholds(tuple(thresholds)))


def _rising(times: NDArray[np.float64]) -> NDArray[np.float64]:
    for k in range(1, len(times)):
        times[k] = max(times[k], times[k - 1] * (1 + LEAST_RISE))
    return times
