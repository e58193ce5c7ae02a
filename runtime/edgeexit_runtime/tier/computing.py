"""Computing: the thread that reads batches, runs the local segments and hands on what they leave unresolved."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.batches import Arrays, Batch, BatchChecker
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier.finishing import Finisher
from edgeexit_runtime.tier.ledger import Pending
from edgeexit_runtime.tier.passage import Unresolved, passage
from edgeexit_runtime.tier.replies import FAILED, TierAnswer
from edgeexit_runtime.wire.messages import Reply

__all__ = ["Ask", "Computing", "Event", "Events", "Listener", "Settings"]

BATCHES_AHEAD = 2
LEAVING_S = 1.0

Ask = Callable[[int, Arrays, Arrays, float], "Future[Reply]"]
"""Hands samples on: the segment they stand in front of, what it takes, the model's inputs, and when the answer is
needed, on the stream's clock. The future fails with something that has a `reason`."""

Event = Callable[[], Iterator[TierAnswer]]
"""Something that happened: whoever takes the answers calls it, and nobody else."""

Events = queue.SimpleQueue[Event]


@dataclass(frozen=True)
class Settings:
    """What a stream keeps to.

    Attributes:
        name: What this tier is called in answers.
        deadline_s: How long after the start of its batch a sample is answered, at the latest.
        in_flight: How many questions may be on their way at once.
        clock: Seconds.
        reason: Why samples are degraded where there is nobody to ask.
    """

    name: str
    deadline_s: float
    in_flight: int
    clock: Callable[[], float]
    reason: str


class Listener(Protocol):
    """Makes answers of what happens. Its methods are called as events."""

    def resolved(self, resolved: Resolved, start: int) -> Iterator[TierAnswer]:
        """Samples of the batch that begins at `start` left at a local exit."""

    def degraded(self, pending: Pending, reason: str) -> Iterator[TierAnswer]:
        """Samples were not handed on."""

    def entered(self, pending: Pending) -> Iterator[TierAnswer]:
        """Samples are handed on, and hold one of the places in flight until they are answered."""

    def replied(self, key: int, future: Future[Reply]) -> Iterator[TierAnswer]:
        """Something came of the question."""

    def failed(self, key: int, reason: str) -> Iterator[TierAnswer]:
        """Nothing will come of the question."""

    def batch_done(self) -> Iterator[TierAnswer]:
        """All samples of a batch were resolved or handed on."""

    def ended(self, error: Exception | None) -> Iterator[TierAnswer]:
        """There are no more batches, or the next one failed."""


class Computing:
    """The thread.

    Args:
        tail: The local segments, from the first on.
        ask: Hands on what they leave unresolved; None: there is nobody to ask.
        finisher: Runs the later segments where that fails; None: there are none here.
        settings: What is kept to.
        events: Where it tells what happened.
        listener: Whose methods the events are.
    """

    def __init__(
        self,
        tail: Tail,
        ask: Ask | None,
        finisher: Finisher | None,
        settings: Settings,
        events: Events,
        listener: Listener,
    ) -> None:
        self._tail = tail
        self._ask = ask
        self._finisher = finisher
        self._settings = settings
        self._clock = settings.clock
        self._events = events
        self._listener = listener
        self._checker = BatchChecker(tail.manifest.inputs)
        self._keys = count()
        self._ahead = threading.Semaphore(BATCHES_AHEAD)
        self._slots = threading.Semaphore(settings.in_flight)
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, batches: Iterable[Batch]) -> None:
        """Begin, with at most two batches ahead of `batch_taken`."""
        self._thread = threading.Thread(target=self._run, args=(batches,), name="edgeexit-tier", daemon=True)
        self._thread.start()

    def batch_taken(self) -> None:
        """All that was told of a batch was heard: there is room for another."""
        self._ahead.release()

    def settled(self) -> None:
        """One of those in flight was answered: there is room for another."""
        self._slots.release()

    def stop(self) -> None:
        """End soon. A batch that is being read is not waited for beyond a second."""
        self._left.set()
        self._ahead.release()
        self._slots.release()
        if self._thread is not None:
            self._thread.join(LEAVING_S)

    def _run(self, batches: Iterable[Batch]) -> None:
        error: Exception | None = None
        try:
            start = 0
            remaining = iter(batches)
            while self._go_on() and (batch := next(remaining, None)) is not None:
                arrays, n = self._checker.check(batch)
                if n:
                    self._batch({s.name: a for s, a in zip(self._tail.manifest.inputs, arrays, strict=True)}, start)
                start += n
                self._events.put(self._listener.batch_done)
        except Exception as problem:  # whatever it is, it is raised where the answers are taken
            error = problem
        self._events.put(partial(self._listener.ended, error))

    def _go_on(self) -> bool:
        """Whether another batch is wanted; waits until there is room for it."""
        self._ahead.acquire()
        return not self._left.is_set()

    def _batch(self, inputs: Mapping[str, NDArray[Any]], start: int) -> None:
        due_s = self._clock() + self._settings.deadline_s
        for part in passage(self._tail, self._tail.begin(inputs)):
            if isinstance(part, Resolved):
                self._events.put(partial(self._listener.resolved, part, start))
                continue
            for pending in self._pending(part, inputs, start, due_s).pieces(self._keys):
                if self._ask is None and self._finisher is None:
                    self._events.put(partial(self._listener.degraded, pending, self._settings.reason))
                else:
                    self._hand_on(pending)

    def _pending(self, part: Unresolved, inputs: Mapping[str, NDArray[Any]], start: int, due_s: float) -> Pending:
        arrays = self._tail.arrays(self._tail.last + 1, part.group)
        kept = {name: array[part.rows] for name, array in inputs.items()}
        return Pending(next(self._keys), start, part.best, arrays, kept, due_s)

    def _hand_on(self, pending: Pending) -> None:
        listener, key = self._listener, pending.key
        if not self._slots.acquire(timeout=max(0.0, pending.due_s - self._clock())):
            self._events.put(partial(listener.degraded, pending, "in flight full"))
            return
        self._events.put(partial(listener.entered, pending))
        if self._ask is None:
            self._events.put(partial(listener.failed, key, self._settings.reason))
            return
        if self._finisher is not None and self._finisher.preferred(pending):
            self._events.put(partial(listener.failed, key, "deadline"))  # the reason where it takes too long after all
            return
        asked_s = self._clock()
        try:
            future = self._ask(self._tail.last + 1, pending.arrays, pending.inputs, self._answer_due_s(pending))
        except Exception:  # the device always answers
            self._events.put(partial(listener.failed, key, FAILED))
            return
        future.add_done_callback(lambda done: self._replied(key, asked_s, done))

    def _replied(self, key: int, asked_s: float, future: Future[Reply]) -> None:
        if self._finisher is not None:
            self._finisher.asking_took(self._clock() - asked_s)
        self._events.put(partial(self._listener.replied, key, future))

    def _answer_due_s(self, pending: Pending) -> float:
        """When an answer from upstream is needed, so that samples can be finished here without one.

        Where that would take half of the time left or more, upstream is given all of it.
        """
        if self._finisher is None:
            return pending.due_s
        reserve_s = self._finisher.reserve_s(len(pending))
        return pending.due_s - (reserve_s if reserve_s < (pending.due_s - self._clock()) / 2 else 0.0)
