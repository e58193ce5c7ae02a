"""How samples go through the segments: alone, or in batches that shrink as samples leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit.policies import Decision, Policy, State, Verdict
from edgeexit.policies.single import FEW_CLASSES
from edgeexit_runtime.answers import Answers, Resolved
from edgeexit_runtime.backends.base import Backend, Lane, Segment
from edgeexit_runtime.costmodel import CostModel

__all__ = ["Resolver"]

Arrays = Sequence[NDArray[Any]]


class Resolver:
    """Takes samples through the segments until the policy lets them go.

    Lanes are kept for the next call, and no two threads are ever given the same.

    Args:
        policy: Decides after each segment.
        backend: Where the segments were opened.
        segments: The segments that are run.
        entries: What the manifest says about each.
        inputs: The model's inputs.
        classes: The number of classes.
        costs: Decides how batches are cut up, and when compaction pays.
    """

    def __init__(
        self,
        policy: Policy,
        backend: Backend,
        segments: Sequence[Segment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
        costs: CostModel,
    ) -> None:
        self._policy = policy
        self._backend = backend
        self._segments = segments
        self._entries = entries
        self._inputs = inputs
        self._classes = classes
        self._costs = costs
        self._last = len(segments) - 1
        self._asked = [bool(entry.logits) for entry in entries]
        self._few_rows: int = getattr(policy, "few_rows", 0) if classes <= FEW_CLASSES else 0
        self._lanes: dict[int, list[Lane]] = {}

    def one(self, arrays: Arrays) -> tuple[int, Verdict]:
        """The exit that answers a single sample, and what it says."""
        lanes, lane = self._lane(1)
        try:
            return self._one(lane, arrays)
        finally:
            lane.stop()
            lanes.append(lane)

    def warm_up(self) -> None:
        """Run every segment once on a sample of zeros: the first run of a segment is slower than the rest."""
        lanes, lane = self._lane(1)
        try:
            lane.start([np.zeros((1, *spec.shape), spec.dtype) for spec in self._inputs])
            for k in range(self._last + 1):
                lane.run(k)
        finally:
            lane.stop()
            lanes.append(lane)

    def batch(self, arrays: Arrays, n: int) -> Iterator[Resolved]:
        """The samples of a batch in groups, as they leave."""
        for start, size, part in self._parts(arrays, n):
            if size == 1:
                yield Resolved.one(*self._alone(part), start)
            else:
                yield from self._together(part, size, None if size == n else np.arange(start, start + size))

    def fill(self, arrays: Arrays, n: int, answers: Answers, *, degrades: bool) -> None:
        """Write the answers of a batch; see `Answers.put`."""
        for start, size, part in self._parts(arrays, n):
            if size == 1:
                answers.put_one(start, *self._alone(part), degrades=degrades)
            else:
                for resolved in self._together(part, size, None if size == n else np.arange(start, start + size)):
                    answers.put(resolved, degrades=degrades)

    def _parts(self, arrays: Arrays, n: int) -> Iterator[tuple[int, int, Arrays]]:
        """The pieces that a batch is cut into: where each begins, its size, and its arrays."""
        start = 0
        for size in self._costs.sizes(n):
            yield start, size, arrays if size == n else [array[start : start + size] for array in arrays]
            start += size

    def _one(self, lane: Lane, arrays: Arrays) -> tuple[int, Verdict]:
        policy = self._policy
        lane.start(arrays)
        state = policy.start(1, self._classes)
        for k, asked in enumerate(self._asked):
            logits = lane.run(k)
            if not asked:
                continue
            verdict, state = policy.decide_one(k, logits, state)
            if verdict.leave:
                break
        return k, verdict

    def _watched(self, lane: Lane, arrays: Arrays) -> tuple[int, Verdict]:
        """As `_one`, with an eye on the clock."""
        policy, ran = self._policy, self._costs.ran
        before_s = perf_counter()
        lane.start(arrays)
        state = policy.start(1, self._classes)
        for k, asked in enumerate(self._asked):
            logits = lane.run(k)
            if asked:
                verdict, state = policy.decide_one(k, logits, state)
            now_s = perf_counter()
            ran(k, 1, now_s - before_s)
            before_s = now_s
            if asked and verdict.leave:
                break
        return k, verdict

    def _alone(self, arrays: Arrays) -> tuple[int, Verdict]:
        lanes, lane = self._lane(1)
        try:
            k, verdict = (self._watched if self._costs.watches() else self._one)(lane, arrays)
        finally:
            lane.stop()
            lanes.append(lane)
        self._costs.left(k, 1)
        return k, verdict

    def _together(self, arrays: Arrays, n: int, rows: NDArray[np.intp] | None) -> Iterator[Resolved]:
        policy, costs = self._policy, self._costs
        lanes, lane = self._lane(n)
        gone: NDArray[np.bool_] | None = None  # rows that left and are still carried on
        waste_s = 0.0
        try:
            before_s = perf_counter()
            lane.start(arrays)
            state = policy.start(n, self._classes)
            for k in range(self._last + 1):
                logits = lane.run(k)
                width = len(logits)
                if not self._asked[k]:
                    continue
                decision, state = self._decide(k, logits, state)
                leave = decision.leave if gone is None else decision.leave & ~gone
                leaving = int(np.count_nonzero(leave))
                staying = width - leaving - (0 if gone is None else int(np.count_nonzero(gone)))
                costs.left(k, leaving if k < self._last else leaving + staying)
                if k == self._last or not staying:
                    chosen = None if gone is None else (~gone).nonzero()[0]
                    costs.ran(k, width, perf_counter() - before_s)
                    yield Resolved.some(k, rows, decision, chosen)
                    return
                if leaving:
                    paused_s = perf_counter()
                    yield Resolved.some(k, rows, decision, leave.nonzero()[0])
                    before_s += perf_counter() - paused_s  # whoever takes the answers may take his time
                    gone = leave if gone is None else gone | leave
                if gone is not None:
                    waste_s += costs.saved_s(k, width, staying)
                    if waste_s >= costs.compaction_s(k, width, staying):
                        order = lane.keep(gone)
                        state = tuple(array[order] for array in state)
                        rows = order if rows is None else rows[order]
                        gone, waste_s = None, 0.0
                now_s = perf_counter()
                costs.ran(k, width, now_s - before_s)
                before_s = now_s
        finally:
            lane.stop()
            lanes.append(lane)

    def _decide(self, k: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        """The policy's word on all rows; of a few it is quicker to ask one by one."""
        if len(logits) > self._few_rows:
            return self._policy.decide(k, logits, state)
        verdicts, states = [], []
        for i in range(len(logits)):
            verdict, after = self._policy.decide_one(k, logits[i : i + 1], tuple([a[i : i + 1] for a in state]))
            verdicts.append(verdict)
            states.append(after)
        return Decision.of(verdicts), tuple(map(np.concatenate, zip(*states, strict=True)))

    def _lane(self, n: int) -> tuple[list[Lane], Lane]:
        """A lane for n samples, and where to put it back."""
        capacity = 1 << (n - 1).bit_length()
        lanes = self._lanes.setdefault(capacity, [])
        try:
            return lanes, lanes.pop()
        except IndexError:  # all in use by other threads, or none made yet
            lane = self._backend.lane(self._segments, self._entries, self._inputs, self._classes, capacity)
            return lanes, lane
