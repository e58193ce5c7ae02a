"""What a meter is, and the energy of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["Meter", "joules_each"]

LEAST_S = 0.2


class Meter(Protocol):
    """Counts energy while it is entered."""

    note: str

    def __enter__(self) -> Meter:
        """Begin to count."""

    def __exit__(self, *_: object) -> None:
        """Stop counting."""

    def joules(self) -> float:
        """Joules since it was entered, never falling.

        Raises:
            BackendError: A sensor that could be read cannot be read any more.
        """


def joules_each(
    meter: Meter,
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Joules of one call of each, on average over as many as go into an equal share of the time.

    Args:
        meter: Is entered and left here.
        calls: What to measure.
        seconds: For all together; each gets 0.2 s at least.
        clock: Seconds.

    Raises:
        BackendError: The sensor cannot be read any more.
    """
    share_s = max(LEAST_S, seconds / len(calls))
    found = []
    with meter:
        for call in calls:
            before_j, start_s, count = meter.joules(), clock(), 0
            while count == 0 or clock() - start_s < share_s:
                call()
                count += 1
            found.append((meter.joules() - before_j) / count)
    return found
