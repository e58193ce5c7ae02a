"""A course: the batches of a profile, and the ways to run and time them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends import Lane
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.costs import leaving_at
from edgeexit_runtime.energy import Meter, joules_each
from edgeexit_runtime.profiling.spent import Spent
from edgeexit_runtime.profiling.subject import Subject

__all__ = ["Course", "Samples"]

SMALL_BATCH = 16
"""Smaller batches are repeated within a round, as often as makes this many samples."""

Samples = Mapping[str, NDArray[Any]]


class Course:
    """The batches, and the ways to run and time them.

    Attributes:
        subject: As given.
        batches: As given.
        turns: Compaction is timed behind two segments a round; so many rounds reach them all.
    """

    def __init__(self, subject: Subject, samples: Samples, batches: Sequence[int], clock: Callable[[], float]) -> None:
        manifest = subject.bundle.manifest
        self.subject, self.batches, self._clock = subject, tuple(batches), clock
        self._count = len(subject.segments)
        self.turns = max(1, self._count // 2)
        self._classes = len(manifest.labels)
        largest = max(*batches, SMALL_BATCH)
        rows = np.resize(np.arange(len(next(iter(samples.values())))), largest)
        self._pool = [np.ascontiguousarray(samples[spec.name][rows]) for spec in manifest.inputs]
        self._names = [spec.name for spec in manifest.inputs]
        self._lane: Lane = subject.backend.lane(
            subject.segments, manifest.segments, manifest.inputs, self._classes, max(batches)
        )
        cascade = Cascade(manifest, subject.policy, subject.backend, subject.segments)
        self._leaving = [leaving_at(cascade, k) for k in range(self._count)]

    def round(self, number: int, spent: Spent) -> None:
        """Every batch size, with and without checks, and every exit, in an order that depends on the round."""
        for turn in range(len(self.batches)):
            n = self.batches[(turn + number) % len(self.batches)]
            for repeat in range(max(1, SMALL_BATCH // n)):
                arrays = self._arrays(n, repeat)
                passes = (self._checked, self._unchecked)
                for run in passes if (number + repeat) % 2 == 0 else passes[::-1]:
                    run(arrays, spent)
                if n > 1:
                    self._compacted(arrays, number + repeat, spent)
                self._to_each_exit(number + repeat, spent)

    def energy_mj(self, meter: Meter, seconds: float) -> list[float]:
        """Millijoules of a sample that leaves at each exit."""
        calls = [partial(cascade.run, self._sample(0)) for cascade in self._leaving]
        return [1e3 * joules for joules in joules_each(meter, calls, seconds=seconds, clock=self._clock)]

    def _arrays(self, n: int, repeat: int) -> list[NDArray[Any]]:
        if n > 1:
            return [array[:n] for array in self._pool]
        return [array[repeat : repeat + 1] for array in self._pool]

    def _sample(self, repeat: int) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._arrays(1, repeat), strict=True))

    def _to_each_exit(self, number: int, spent: Spent) -> None:
        """A sample to every exit, another one every time, in an order that rotates."""
        sample = self._sample(number % SMALL_BATCH)
        for turn in range(self._count):
            k = (turn + number) % self._count
            start_s = self._clock()
            self._leaving[k].run(sample)
            spent.exits[k].append(self._clock() - start_s)

    def _checked(self, arrays: Sequence[NDArray[Any]], spent: Spent) -> None:
        """All segments, each with its check and the decision."""
        n, policy, clock = len(arrays[0]), self.subject.policy, self._clock
        decide = policy.decide_one if n == 1 else policy.decide
        state = policy.start(n, self._classes)
        self._lane.start(arrays)
        for k in range(self._count):
            start_s = clock()
            logits = self._lane.run(k)
            ran_s = clock()
            _, state = decide(k, logits, state)
            decided_s = clock()
            spent.add("run", k, n, ran_s - start_s)
            spent.add("decide", k, n, decided_s - ran_s)
        self._lane.stop()

    def _unchecked(self, arrays: Sequence[NDArray[Any]], spent: Spent) -> None:
        """All segments, none with a check."""
        if self.subject.unchecked is not None:
            for k, seconds in enumerate(self.subject.unchecked.seconds(arrays, self._clock)):
                spent.add("bare", k, len(arrays[0]), seconds)

    def _compacted(self, arrays: Sequence[NDArray[Any]], number: int, spent: Spent) -> None:
        """Every second sample is kept behind one segment of each half of the chain, another one every time."""
        n, policy = len(arrays[0]), self.subject.policy
        state = policy.start(n, self._classes)
        self._lane.start(arrays)
        for k in range(self._count - 1):
            logits = self._lane.run(k)
            _, state = policy.decide(k, logits, state)
            if k % self.turns == number % self.turns and n > 1:
                leave = np.arange(n) % 2 == 1  # no two that stay lie side by side, which is the worst case
                start_s = self._clock()
                order = self._lane.keep(leave)
                state = tuple(array[order] for array in state)
                n = len(order)
                spent.add("compact", k, n, self._clock() - start_s)
        self._lane.stop()
