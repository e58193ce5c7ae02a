"""Finishing locally: the later segments, run on this device for samples that no other tier answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier.ledger import Pending
from edgeexit_runtime.tier.pace import Pace
from edgeexit_runtime.tier.passage import Unresolved, passage

__all__ = ["Finisher"]

MARGIN = 1.5
LEARNING_RATE = 0.2


class Finisher:
    """Runs a tail in a thread of its own, and knows about how long that takes.

    Args:
        tail: The segments behind those that the samples have passed.
        pace: Decides what is finished here that could be handed on; None: nothing is.
        clock: Seconds.
    """

    def __init__(self, tail: Tail, *, pace: Pace | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tail = tail
        self._pace = pace
        self._clock = clock
        self._row_s: float | None = None
        self._given = self._done = 0  # samples; each is counted by one thread alone
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="edgeexit-finish")

    def reserve_s(self, rows: int) -> float:
        """The time to be left for so many samples, with a margin; 0 as long as none were finished."""
        return MARGIN * rows * (self._row_s or 0.0)

    def in_time(self, pending: Pending) -> bool:
        """Whether these samples can still be finished before they have to be answered."""
        return self._clock() + self.reserve_s(len(pending)) < pending.due_s

    def preferred(self, pending: Pending) -> bool:
        """Whether these samples should not even be handed on, since they are answered sooner here."""
        rows = self._given - self._done + len(pending)
        if self._pace is None or self._row_s is None or self._clock() + self.reserve_s(rows) >= pending.due_s:
            return False
        return self._pace.is_quicker_here(rows * self._row_s)

    def asking_took(self, elapsed_s: float) -> None:
        """Samples were handed on, and that came to an end."""
        if self._pace is not None:
            self._pace.asking_took(elapsed_s)

    def finish(self, pending: Pending) -> Future[list[Resolved | Unresolved] | None]:
        """Run the samples through all segments.

        Returns:
            What each exit answers; rows are positions in `pending`. None: too late to begin with.
        """
        self._given += len(pending)
        return self._executor.submit(self._finish, pending)

    def warm_up(self) -> None:
        """Run every segment once or twice, so that the time they take is known.

        Raises:
            BackendError: The device failed.
        """
        self._tail.warm_up()
        before_s = self._clock()
        self._tail.warm_up()
        self._learn(1, self._clock() - before_s)

    def close(self) -> None:
        """Finish nobody else."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _finish(self, pending: Pending) -> list[Resolved | Unresolved] | None:
        try:
            if not self.in_time(pending):
                return None
            before_s = self._clock()
            found = list(passage(self._tail, self._tail.begin(pending.arrays)))
            self._learn(len(pending), self._clock() - before_s)
            return found
        finally:
            self._done += len(pending)

    def _learn(self, rows: int, took_s: float) -> None:
        row_s = took_s / rows
        self._row_s = row_s if self._row_s is None else self._row_s + LEARNING_RATE * (row_s - self._row_s)
