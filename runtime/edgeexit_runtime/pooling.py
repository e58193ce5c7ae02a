"""Pooling: in a stream, survivors of several batches go on together.

Behind the first exits few samples of a batch are left. Where a row costs less in a large batch, they wait for
those of later batches, until there are enough for the next segment or the first has waited as long as is
allowed. Where a row costs as little alone, nobody waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import Policy
from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.backends.base import Backend, Segment
from edgeexit_runtime.costmodel import CostModel
from edgeexit_runtime.groups import Group, join, keep
from edgeexit_runtime.wiring import Step

__all__ = ["Pool"]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Samples that reached a segment together."""

    group: Group
    rows: NDArray[np.intp]  # positions in the stream
    due_s: float  # when the first of them has waited as long as it may

    def __len__(self) -> int:
        return len(self.rows)


class Pool:
    """Samples of a stream, each waiting in front of the segment that it needs next.

    Args:
        stages: The segments, each with its step.
        asked: For each, whether it has an exit to be asked.
        backend: Where they were opened.
        policy: Decides after each.
        classes: The number of classes.
        costs: How many rows are enough for a segment.
        wait_s: How long a sample may wait, in all.
        clock: Seconds.
    """

    def __init__(
        self,
        stages: Sequence[tuple[Segment, Step]],
        asked: Sequence[bool],
        backend: Backend,
        policy: Policy,
        classes: int,
        costs: CostModel,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._stages = tuple(stages)
        self._asked = tuple(asked)
        self._backend = backend
        self._policy = policy
        self._classes = classes
        self._costs = costs
        self._wait_s = wait_s
        self._clock = clock
        self._queues: list[deque[_Waiting]] = [deque() for _ in stages]

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return any(self._queues)

    def add(self, arrays: Sequence[NDArray[Any]], start: int) -> None:
        """Take a batch, whose first sample has position `start` in the stream."""
        n = len(arrays[0])
        self._queues[0].append(
            _Waiting(
                Group(tuple(map(self._backend.to_device, arrays)), self._policy.start(n, self._classes), n),
                np.arange(start, start + n),
                self._clock() + self._wait_s,
            )
        )

    def work(self) -> Iterator[Resolved]:
        """Run what has enough rows or has waited long enough; the samples that leave, in groups."""
        for k in range(len(self._stages)):
            enough = max(1, self._costs.enough(k))
            while self._ready(k, enough):
                yield from self._run(k, enough)

    def finish(self) -> Iterator[Resolved]:
        """Run everything that is left."""
        for k, queue in enumerate(self._queues):
            while queue:
                yield from self._run(k, max(1, self._costs.enough(k)))

    def _ready(self, k: int, enough: int) -> bool:
        queue = self._queues[k]
        if not queue:
            return False
        return sum(map(len, queue)) >= enough or min(waiting.due_s for waiting in queue) <= self._clock()

    def _run(self, k: int, enough: int) -> Iterator[Resolved]:
        waiting = self._joined(k, enough)
        group, size = waiting.group, len(waiting)
        segment, step = self._stages[k]
        before_s = self._clock()
        outputs, logits = segment.run(step.inputs(group.tensors))
        if not self._asked[k]:
            self._pass_on(k + 1, waiting, Group(tuple(step.carry(group.tensors, outputs)), group.state, size))
            return
        decision, state = self._policy.decide(k, logits, group.state)
        last = k == len(self._stages) - 1
        staying = np.empty(0, np.intp) if last else (~decision.leave).nonzero()[0]
        self._costs.left(k, size - len(staying))
        if len(staying):
            self._pass_on(k + 1, waiting, Group(tuple(step.carry(group.tensors, outputs)), state, size), staying)
        self._costs.ran(k, size, self._clock() - before_s)
        if len(staying) < size:
            leaving = decision.leave.nonzero()[0] if len(staying) else None
            yield Resolved.some(k, waiting.rows, decision, leaving)

    def _pass_on(self, k: int, waiting: _Waiting, group: Group, staying: NDArray[np.intp] | None = None) -> None:
        """Let the `staying` samples, all when None, wait in front of segment k."""
        rows = waiting.rows
        if staying is not None:
            group, rows = keep(self._backend, group, staying), rows[staying]
        self._queues[k].append(_Waiting(group, rows, waiting.due_s))

    def _joined(self, k: int, enough: int) -> _Waiting:
        """The oldest samples of a queue, until they are enough."""
        queue = self._queues[k]
        found = [queue.popleft()]
        while queue and sum(map(len, found)) < enough:
            found.append(queue.popleft())
        if len(found) == 1:
            return found[0]
        return _Waiting(
            join(self._backend, [waiting.group for waiting in found]),
            np.concatenate([waiting.rows for waiting in found]),
            min(waiting.due_s for waiting in found),
        )
