"""Requests on their way through the segments, and groups of samples of several requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.groups import Group
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Reply

__all__ = ["Job", "OnRow", "Row", "Wave"]


class Row(NamedTuple):
    """The answer to one sample of a request."""

    row: int  # position in the request
    label: int
    probability: float
    exit: int  # index in the manifest
    score: float
    degraded: bool
    tier: str
    reason: str | None


OnRow = Callable[[Row], None]
"""Called for each sample as soon as it is answered."""


class Job:
    """A request: n samples, answered when all of them are.

    Args:
        n: The number of samples.
        deadline_s: Until when the answer is wanted, on the scheduler's clock.
        start_s: When it was accepted, on the same clock.
        future: Gets the reply.
        inputs: The model's inputs, (n, …) by name, where the next tier may want them.
        on_row: Called for each sample.
        promised_s: How long it was expected to take; 0 where nothing was.
    """

    __slots__ = ("_left", "_rows", "deadline_s", "future", "inputs", "n", "on_row", "promised_s", "start_s")

    def __init__(
        self,
        n: int,
        deadline_s: float,
        start_s: float,
        future: asyncio.Future[Reply],
        inputs: Arrays | None = None,
        on_row: OnRow | None = None,
        promised_s: float = 0.0,
    ) -> None:
        self.n = n
        self.deadline_s = deadline_s
        self.start_s = start_s
        self.future = future
        self.inputs = inputs
        self.on_row = on_row
        self.promised_s = promised_s
        self._left = n
        self._rows: list[Row | None] = [None] * n

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.future.done()

    def put(self, row: Row) -> bool:
        """Take a sample's answer; True if it was the last one missing."""
        if self.future.done():
            return False
        self._rows[row.row] = row
        self._left -= 1
        if self.on_row is not None:
            self.on_row(row)
        return self._left == 0

    def finish(self, now_s: float) -> None:
        """Give the reply to whoever waits for it."""
        _, label, probability, exit_, score, degraded, tier, reasons = zip(*self._rows, strict=True)
        self.future.set_result(
            Reply(
                label=np.array(label, np.int64),
                probability=np.array(probability, np.float32),
                exit=np.array(exit_, np.int64),
                score=np.array(score, np.float32),
                degraded=np.array(degraded, np.bool_),
                tier=tier,
                reason=next((reason for reason in reasons if reason is not None), None),
                server_ms=1e3 * (now_s - self.start_s),
                logits=None,
            )
        )

    def fail(self, error: Exception) -> None:
        """Give an error to whoever waits."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Wave:
    """Samples of one or several requests in front of the same segment.

    Whatever a backend has to do for them waits for the worker: a device belongs to one thread.

    Attributes:
        source: Where the samples are: a group, or host arrays by the names of `Tail.takes`.
        jobs: For each sample the request that it belongs to.
        rows: For each its position in the request.
        since_s: When they came in front of the segment.
        chosen: Their positions in the source, strictly increasing; None for all of it.
    """

    source: Group | Arrays
    jobs: list[Job]
    rows: list[int]
    since_s: float
    chosen: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, job: Job, arrays: Arrays, now_s: float) -> Wave:
        """All samples of a request."""
        return cls(arrays, [job] * job.n, list(range(job.n)), now_s)

    @classmethod
    def joined(cls, waves: Sequence[Wave], tail: Tail, k: int) -> Wave:
        """Several in front of segment k as one, whose source is a group. Only the worker may do this."""
        return cls(
            tail.join([wave.group(tail, k) for wave in waves]),
            [job for wave in waves for job in wave.jobs],
            [row for wave in waves for row in wave.rows],
            min(wave.since_s for wave in waves),
        )

    def keep(self, positions: NDArray[np.intp]) -> Wave:
        """The samples at some positions, strictly increasing, at least one."""
        if len(positions) == len(self.rows):
            return self
        wanted = positions.tolist()
        return Wave(
            self.source,
            [self.jobs[i] for i in wanted],
            [self.rows[i] for i in wanted],
            self.since_s,
            positions if self.chosen is None else self.chosen[positions],
        )

    def group(self, tail: Tail, k: int) -> Group:
        """The samples as segment k takes them. Only the worker may do this."""
        if isinstance(self.source, Group):
            return self.source if self.chosen is None else tail.keep(self.source, self.chosen)
        return tail.begin(self.arrays(), k)

    def arrays(self) -> Arrays:
        """The samples as host arrays; only where the source is such."""
        assert not isinstance(self.source, Group)
        if self.chosen is None:
            return self.source
        return {name: array[self.chosen] for name, array in self.source.items()}
