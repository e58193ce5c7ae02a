"""What a server did so far, in plain numbers: cheap to add to, and read by whoever asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["Buckets", "Counts"]

LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Buckets:
    """How many values came up to each bound.

    Attributes:
        bounds: Rising; a value belongs to the first bound that is not below it.
        counts: One more than bounds; not cumulative.
        total: The sum of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counts:
    """A server's counts, from its start.

    Args:
        segments: Indices of the segments that it runs.

    Attributes:
        rows: Answered samples by (exit's index, tier).
        degraded: Answered samples that nobody was sure of.
        requests: Requests by how they ended: "OK" or the name of a gRPC status.
        batches: For each segment the sizes of its batches.
        latency_s: From the acceptance of a request to its answer, in seconds.
    """

    def __init__(self, segments: Iterable[int]) -> None:
        self.rows: Counter[tuple[int, str]] = Counter()
        self.degraded = 0
        self.requests: Counter[str] = Counter()
        self.batches = {k: Buckets(BATCH_BOUNDS) for k in segments}
        self.latency_s = Buckets(LATENCY_BOUNDS_S)
