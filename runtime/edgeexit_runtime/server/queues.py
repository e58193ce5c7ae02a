"""The queues in front of the segments, and which batch is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from edgeexit_runtime.server.jobs import Wave
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import WireError

__all__ = ["BATCH_SHARE", "Queues"]

BATCH_SHARE = 0.35
"""Of the time that a sample has left, its batch and what comes behind may take: whoever joins it makes it later."""


class Queues:
    """Samples that wait in front of each segment of a tail, the oldest first.

    Args:
        tail: The segments.
        delay_s: How long samples may wait for others to join them while there is other work.
        max_batch: Samples in a batch, at most.
        rows_within: How many samples in front of a segment are answered in so many seconds; None where nobody knows.

    Attributes:
        rows: Samples that wait, in front of all segments.
        waiting: The same by segment, for all segments of the manifest.
        dropped: Samples that were taken out because their request had ended.
    """

    def __init__(
        self,
        tail: Tail,
        delay_s: float,
        max_batch: int,
        rows_within: Callable[[int, float], int | None] = lambda k, time_s: None,
    ) -> None:
        self.rows = 0
        self.waiting = [0] * len(tail.manifest.segments)
        self.dropped = 0
        self._tail = tail
        self._delay_s = delay_s
        self._max_batch = max_batch
        self._rows_within = rows_within
        self._queues: dict[int, deque[Wave]] = {k: deque() for k in range(tail.first, tail.last + 1)}

    def add(self, k: int, wave: Wave) -> None:
        """Let samples wait in front of segment k, behind those that are there."""
        self._queues[k].append(wave)
        self._count(k, len(wave))

    def next(self, now_s: float) -> tuple[int, list[Wave]] | None:
        """A segment and its batch, out of the queues; None when nobody waits.

        The earliest segment goes first, so that what is left of several batches meets in front of the later
        ones, unless there is a full batch in front of a later one, or samples that waited long enough. Of those
        the oldest request's goes first, so that no segment waits for ever.
        Requests whose deadline is over fail here.
        """
        while self.rows:
            k = self._chosen(now_s)
            waves = self._batch(k, now_s)
            if waves:
                return k, waves
        return None

    def _chosen(self, now_s: float) -> int:
        earliest, *later = (k for k, queue in self._queues.items() if queue)
        due = [
            k
            for k in reversed(later)
            if self.waiting[k] >= self._max_batch or self._queues[k][0].since_s + self._delay_s <= now_s
        ]
        return min((*due, earliest), key=lambda k: self._queues[k][0].jobs[0].start_s)

    def _batch(self, k: int, now_s: float) -> list[Wave]:
        queue = self._queues[k]
        waves: list[Wave] = []
        room = self._max_batch
        while queue and room > 0:
            wave = queue.popleft()
            self._count(k, -len(wave))
            kept = self._still_wanted(wave, now_s)
            if kept is None:
                continue
            if not waves:
                room = self._room(k, kept, now_s)
            if len(kept) > room:
                rest = kept.keep(np.arange(room, len(kept)))
                kept = kept.keep(np.arange(room))
                queue.appendleft(rest)
                self._count(k, len(rest))
            waves.append(kept)
            room -= len(kept)
        return waves

    def _room(self, k: int, oldest: Wave, now_s: float) -> int:
        """How large a batch may be, so that the oldest in it are answered in time."""
        left_s = min(job.deadline_s for job in oldest.jobs) - now_s
        within = self._rows_within(k, BATCH_SHARE * left_s)
        return self._max_batch if within is None else min(max(within, 1), self._max_batch)

    def _still_wanted(self, wave: Wave, now_s: float) -> Wave | None:
        lost = False
        for job in wave.jobs:
            if job.deadline_s <= now_s:
                job.fail(WireError("DEADLINE_EXCEEDED", "the deadline was over before the answer was found"))
            lost = lost or not job.wanted
        if not lost:
            return wave
        wanted = np.array([i for i, job in enumerate(wave.jobs) if job.wanted], np.intp)
        self.dropped += len(wave) - len(wanted)
        return wave.keep(wanted) if len(wanted) else None

    def _count(self, k: int, rows: int) -> None:
        self.waiting[k] += rows
        self.rows += rows
