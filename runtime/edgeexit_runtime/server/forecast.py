"""How long the samples that wait will take, from what the last ones took, and by how much that was wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["Forecast"]

WEIGHT = 0.2
"""Of the newest batch in the running means."""

KEPT = 0.99
"""The share of requests that should be answered within what was expected and the margin."""

AHEAD = 0.4
"""The share of its time that a request behind others may be expected to take: a longer queue answers no more."""
LEAST = 0.02
"""The share that it may take whatever the margin: or nobody would be let in to show that it is too large."""
WAY_BACK = 0.1
"""The share that is kept for the way of the answer to the client, if the margin is taken as well."""

REMEMBERED, REMEMBERED_S = 512, 10.0
"""Requests whose lateness the margin is made of: as many at most, and none older."""
REFRESHED = 16
"""As many requests end before the margin is reckoned anew."""


class Forecast:
    """Running means of what a sample costs in each segment, and of the share that goes on behind it.

    Args:
        segments: How many segments there are.

    Attributes:
        pace: How much longer a batch keeps the engine from the next one than its segments run: the event loop,
            other requests and other programs take turns on the processor. At least 1.
        margin_s: Of the last requests `KEPT` took at most so much longer than was expected of them.
    """

    def __init__(self, segments: int) -> None:
        self.pace = 1.0
        self.margin_s = 0.0
        self._row_s: list[float | None] = [None] * segments
        self._going_on = [1.0] * segments
        self._from_s = [0.0] * (segments + 1)
        self._given_s = 0.0  # when the engine got its batch
        self._running_s = 0.0  # what was expected of it
        self._ran_s = 0.0  # what its segments took so far
        self._late: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._ended = 0

    def given(self, i: int, rows: int, now_s: float) -> None:
        """The engine got a batch of samples in front of segment i."""
        self._given_s, self._running_s, self._ran_s = now_s, self.pace * rows * self._from_s[i], 0.0

    def ran(self, i: int, rows: int, staying: int, took_s: float) -> None:
        """Segment i ran a batch, and `staying` of its rows go on."""
        self._ran_s += took_s
        row_s, known_s = took_s / rows, self._row_s[i]
        self._row_s[i] = row_s if known_s is None else known_s + WEIGHT * (row_s - known_s)
        self._going_on[i] += WEIGHT * (staying / rows - self._going_on[i])
        for j in range(i, -1, -1):
            self._from_s[j] = (self._row_s[j] or 0.0) + self._going_on[j] * self._from_s[j + 1]

    def returned(self, now_s: float) -> None:
        """The batch came back, and the engine is free."""
        if self._ran_s > 0:
            away_s = now_s - self._given_s
            self.pace = max(1.0, self.pace + WEIGHT * (away_s / self._ran_s - self.pace))

    def running_s(self, now_s: float) -> float:
        """Seconds until the batch in the engine is answered."""
        return max(0.0, self._running_s - (now_s - self._given_s))

    def work_s(self, rows: Sequence[int]) -> float:
        """Seconds until `rows[i]` samples in front of each segment i are all answered; 0 where nothing is known."""
        return self.pace * sum(n * self._from_s[i] for i, n in enumerate(rows) if n)

    def rows_within(self, i: int, time_s: float) -> int | None:
        """How many samples in front of segment i are answered in so much time; None where nothing is known."""
        row_s = self.pace * self._from_s[i]
        return int(max(time_s, 0.0) / row_s) if row_s > 0 else None

    def fits(self, expected_s: float, left_s: float, *, queued: bool) -> bool:
        """Whether a request that is expected to take so long is answered in time, in all likelihood.

        Args:
            expected_s: 0 where nothing is known.
            left_s: Until its deadline.
            queued: Whether others wait before it.
        """
        bound_s = max((1 - WAY_BACK) * left_s - self.margin_s, LEAST * left_s)
        return expected_s == 0 or expected_s <= (min(AHEAD * left_s, bound_s) if queued else bound_s)

    def ended(self, now_s: float, expected_s: float, took_s: float) -> None:
        """A request was answered, or given up, after `took_s`. Nothing, 0, is expected if nobody was before it."""
        if expected_s > 0:
            self._late.append((now_s, took_s - expected_s))
        self._ended += 1
        if self._ended % REFRESHED == 0:
            self._refresh(now_s)

    def _refresh(self, now_s: float) -> None:
        late = self._late
        while late and late[0][0] < now_s - REMEMBERED_S:
            late.popleft()
        ordered = sorted(late_s for _, late_s in late)
        self.margin_s = max(0.0, ordered[int(KEPT * (len(ordered) - 1))]) if ordered else 0.0
