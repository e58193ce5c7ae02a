"""How long the samples that wait will take, from what the last ones took, and how wrong that was."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Forecast"]

WEIGHT = 0.2
"""Of the newest batch in the running means."""

KEPT = 0.99
"""The share of requests that should be answered within what was promised."""
UP = 1.25
LARGEST_CAUTION = 16.0


class Forecast:
    """Running means of what a sample costs in each segment, and of the share that goes on behind it.

    Args:
        segments: How many segments there are.

    Attributes:
        caution: What a forecast is multiplied by, so that `KEPT` of all requests are within it. There is more
            to an answer than segments: clients, the network's work and other programs take turns on the processor.
    """

    def __init__(self, segments: int) -> None:
        self.caution = 1.0
        self._row_s: list[float | None] = [None] * segments
        self._going_on = [1.0] * segments
        self._from_s = [0.0] * (segments + 1)

    def ran(self, i: int, rows: int, staying: int, took_s: float) -> None:
        """Segment i ran a batch, and `staying` of its rows go on."""
        row_s, known_s = took_s / rows, self._row_s[i]
        self._row_s[i] = row_s if known_s is None else known_s + WEIGHT * (row_s - known_s)
        self._going_on[i] += WEIGHT * (staying / rows - self._going_on[i])
        for j in range(i, -1, -1):
            self._from_s[j] = (self._row_s[j] or 0.0) + self._going_on[j] * self._from_s[j + 1]

    def work_s(self, waiting: Sequence[int]) -> float:
        """Seconds until `waiting[i]` rows in front of each segment i are all answered; 0 where nothing is known."""
        return self.caution * sum(rows * self._from_s[i] for i, rows in enumerate(waiting) if rows)

    def ended(self, promised_s: float, took_s: float) -> None:
        """A request was answered, or given up, after `took_s`. It was promised nothing, 0, if nobody was before it.

        It grows the caution much and seldom, and lessens it little and often: the two balance where `KEPT`
        of the promises hold.
        """
        step = UP if 0 < promised_s < took_s else UP ** -((1 - KEPT) / KEPT)
        self.caution = min(max(self.caution * step, 1.0), LARGEST_CAUTION)
