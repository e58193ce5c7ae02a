"""The seconds that were spent, and on what."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

__all__ = ["Spent"]


class Spent:
    """Seconds by kind, segment and batch size, in the order in which they were spent."""

    def __init__(self, segments: int) -> None:
        self._seconds: defaultdict[tuple[str, int, int], list[float]] = defaultdict(list)
        self.exits: list[list[float]] = [[] for _ in range(segments)]

    def add(self, kind: str, k: int, n: int, seconds: float) -> None:
        """Segment k took so long for n samples."""
        self._seconds[kind, k, n].append(seconds)

    def ms(self, kind: str, k: int, n: int) -> float:
        """The median."""
        return 1e3 * float(np.median(self._seconds[kind, k, n]))

    def least_ms(self, kind: str, k: int, n: int) -> float:
        """The least, for what is seen too rarely for a median: whatever else the machine does only adds."""
        return 1e3 * min(self._seconds[kind, k, n])

    def check_ms(self, k: int, n: int) -> float:
        """The median of what runs took longer with the check than without it, run by run."""
        spent = np.array([self._seconds["run", k, n], self._seconds["bare", k, n]])
        return max(0.0, 1e3 * float(np.median(spent[0] - spent[1])))

    def kept(self, k: int) -> list[int]:
        """The numbers of samples that were kept behind segment k."""
        return sorted({n for kind, index, n in self._seconds if (kind, index) == ("compact", k)})
