"""What it costs on this device until each exit answers, in milliseconds: measured now, or read from a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit_runtime.cascade import Cascade

__all__ = ["exit_times_ms", "read_profile"]

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
    leaving = [_leaving_at(cascade, k) for k in range(cascade.exits)]
    seconds = np.empty((rounds + 1, len(samples), cascade.exits))
    for number in range(rounds + 1):
        for i, sample in enumerate(samples):
            for turn in range(cascade.exits):
                k = (turn + i + number) % cascade.exits
                start_s = clock()
                leaving[k].run(sample)
                seconds[number, i, k] = clock() - start_s
    return _rising(1e3 * np.asarray(np.median(seconds[1:], axis=(0, 1))))


class _Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unit: Literal["ms"]
    exits: tuple[float, ...]


def read_profile(path: str | Path, exits: int) -> NDArray[np.float64]:
    """Read what was measured before: `{"unit": "ms", "exits": [0.8, 1.9, 3.1]}`, from the start to each exit.

    Args:
        path: A JSON file.
        exits: E.

    Returns:
        (E,) milliseconds.

    Raises:
        DataError: The file cannot be read, is something else, or its times are not E rising numbers.
    """
    try:
        profile = msgspec.json.decode(Path(path).read_bytes(), type=_Profile)
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror, expected="a profile") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not a profile", got=error, expected='{"unit": "ms", "exits": [milliseconds until each exit]}'
        ) from error
    times = np.asarray(profile.exits, dtype=np.float64)
    if len(times) != exits:
        raise DataError(f"{path} is not of this bundle", got=f"{len(times)} exits", expected=f"{exits} exits")
    if not (np.isfinite(times).all() and times[0] > 0 and (np.diff(times) > 0).all()):
        raise DataError(
            f"{path} holds times that do not rise",
            got=times.tolist(),
            expected="positive milliseconds from the start to each exit, each more than the one before",
        )
    return times


def _leaving_at(cascade: Cascade, exit_index: int) -> Cascade:
    """The cascade that everybody leaves at one exit."""
    thresholds = [float("inf")] * cascade.exits
    thresholds[exit_index] = -float("inf")
    return cascade.with_policy(cascade.policy.with_thresholds(tuple(thresholds)))


def _rising(times: NDArray[np.float64]) -> NDArray[np.float64]:
    for k in range(1, len(times)):
        times[k] = max(times[k], times[k - 1] * (1 + LEAST_RISE))
    return times
