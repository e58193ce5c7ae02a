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

from edgeexit.policies import Policy, State
from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.backends.base import Backend, Handle, Segment
from edgeexit_runtime.costmodel import CostModel
from edgeexit_runtime.wiring import Step

__all__ = ["Pool"]


@dataclass
class _Group:
    """Samples that reached a segment together; axis 0 of everything is the same samples."""

    tensors: list[Handle]
    state: State
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
        self._queues: list[deque[_Group]] = [deque() for _ in stages]

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return any(self._queues)

    def add(self, arrays: Sequence[NDArray[Any]], start: int) -> None:
        """Take a batch, whose first sample has position `start` in the stream."""
        n = len(arrays[0])
        self._queues[0].append(
            _Group(
                [self._backend.to_device(array) for array in arrays],
                self._policy.start(n, self._classes),
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
        return sum(map(len, queue)) >= enough or min(group.due_s for group in queue) <= self._clock()

    def _run(self, k: int, enough: int) -> Iterator[Resolved]:
        group = self._joined(k, enough)
        segment, step = self._stages[k]
        before_s = self._clock()
        outputs, logits = segment.run(step.inputs(group.tensors))
        if not self._asked[k]:
            self._queues[k + 1].append(_Group(step.carry(group.tensors, outputs), group.state, group.rows, group.due_s))
            return
        decision, state = self._policy.decide(k, logits, group.state)
        last = k == len(self._stages) - 1
        staying = 0 if last else len(group) - int(np.count_nonzero(decision.leave))
        self._costs.left(k, len(group) - staying)
        if staying:
            tensors = step.carry(group.tensors, outputs)
            rows = group.rows
            if staying < len(group):
                kept = (~decision.leave).nonzero()[0]
                tensors = [self._backend.take(tensor, kept) for tensor in tensors]
                state, rows = tuple(array[kept] for array in state), rows[kept]
            self._queues[k + 1].append(_Group(tensors, state, rows, group.due_s))
        self._costs.ran(k, len(group), self._clock() - before_s)
        if staying < len(group):
            yield Resolved.some(k, group.rows, decision, None if not staying else decision.leave.nonzero()[0])

    def _joined(self, k: int, enough: int) -> _Group:
        """The oldest groups of a queue, until they are enough, as one."""
        queue = self._queues[k]
        groups = [queue.popleft()]
        while queue and sum(map(len, groups)) < enough:
            groups.append(queue.popleft())
        if len(groups) == 1:
            return groups[0]
        return _Group(
            [self._backend.concat(parts) for parts in zip(*(group.tensors for group in groups), strict=True)],
            tuple(np.concatenate(parts) for parts in zip(*(group.state for group in groups), strict=True)),
            np.concatenate([group.rows for group in groups]),
            min(group.due_s for group in groups),
        )
