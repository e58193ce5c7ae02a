"""A relay: one stream of batches, each sample answered here or by another tier, once and in time.

Three threads have a part in it. One computes, see `edgeexit_runtime.tier.computing`, so that the next batch is computed
while the last one travels. Whatever carries questions upstream has its own. And whoever iterates over the answers
listens to both: every event is a call that gives answers, made by that thread alone, so that the ledger needs no
lock and nobody is answered twice.

When nothing is heard of samples until they are due, the best local answer is given.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from edgeexit_runtime.answers import Answer, Resolved
from edgeexit_runtime.batches import Batch
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier.computing import Ask, Computing, Event, Events, Settings
from edgeexit_runtime.tier.finishing import Finisher
from edgeexit_runtime.tier.ledger import Ledger, Pending
from edgeexit_runtime.tier.passage import Unresolved
from edgeexit_runtime.tier.replies import DEGRADED, TierAnswer, from_here, from_upstream, outcome
from edgeexit_runtime.wire.messages import Reply

__all__ = ["Relay", "Unheard"]

PATIENCE_S = 0.01
"""How long after they were due samples are answered at the latest while there is other news."""

Unheard = Callable[[Pending, str], None]
"""Told of samples that got a degraded answer, and the reason."""


class Relay:
    """One stream; its other methods are those of `computing.Listener`.

    Args:
        tail: The local segments, from the first on.
        ask: Hands on what they leave unresolved; None: there is nobody to ask.
        finisher: Runs the later segments where that fails; None: there are none here.
        settings: What is kept to.
        unheard: Called with samples that got a degraded answer, and the reason, after they got it. It should come
            back soon. None to forget them.
    """

    def __init__(
        self,
        tail: Tail,
        ask: Ask | None,
        finisher: Finisher | None,
        settings: Settings,
        unheard: Unheard | None = None,
    ) -> None:
        self._finisher = finisher
        self._settings = settings
        self._unheard = unheard
        self._clock = settings.clock
        self._ledger = Ledger()
        self._events: Events = queue.SimpleQueue()
        self._computing = Computing(tail, ask, finisher, settings, self._events, self)
        self._open = True
        self._error: Exception | None = None

    def answers(self, batches: Iterable[Batch]) -> Iterator[TierAnswer]:
        """Answer all samples, each as soon as it is resolved. To be called once.

        Raises:
            DataError, BackendError: After the answers to all batches before the one that failed.
        """
        self._computing.start(batches)
        try:
            while self._open or self._ledger:
                event = self._event()
                if event is not None:
                    yield from event()
                late_s = self._clock() - (0.0 if event is None else PATIENCE_S)
                for pending in self._ledger.overdue(late_s):
                    yield from self._settled(pending, "deadline")
        finally:
            self._computing.stop()
        if self._error is not None:
            raise self._error

    def resolved(self, resolved: Resolved, start: int) -> Iterator[TierAnswer]:
        """See `Listener`."""
        return self._told(resolved.answers(start, None))

    def degraded(self, pending: Pending, reason: str) -> Iterator[TierAnswer]:
        """See `Listener`."""
        yield from self._told(pending.answers(reason))
        self._remember(pending, reason)

    def entered(self, pending: Pending) -> Iterator[TierAnswer]:
        """See `Listener`."""
        self._ledger.enter(pending)
        return iter(())

    def replied(self, key: int, future: Future[Reply]) -> Iterator[TierAnswer]:
        """See `Listener`."""
        pending = self._ledger.waits(key)
        if pending is None:
            return
        reply, reason = outcome(future, len(pending))
        if reply is None:
            yield from self.failed(key, reason)
            return
        self._ledger.settle(key)
        self._computing.settled()
        yield from from_upstream(pending, reply)
        if reply.degraded.any():
            self._remember(pending.some(reply.degraded.nonzero()[0]), reply.reason or DEGRADED)

    def failed(self, key: int, reason: str) -> Iterator[TierAnswer]:
        """See `Listener`: the later segments are run here, or the best local answer it is."""
        pending = self._ledger.waits(key)
        if pending is None:
            return
        if self._finisher is not None and self._finisher.in_time(pending):
            future = self._finisher.finish(pending)
            future.add_done_callback(lambda done: self._events.put(partial(self._finished, key, reason, done)))
            return
        self._ledger.settle(key)
        yield from self._settled(pending, reason)

    def batch_done(self) -> Iterator[TierAnswer]:
        """See `Listener`."""
        self._computing.batch_taken()
        return iter(())

    def ended(self, error: Exception | None) -> Iterator[TierAnswer]:
        """See `Listener`."""
        self._open, self._error = False, error
        return iter(())

    def _event(self) -> Event | None:
        """What comes next; None when somebody's time has come before."""
        due_s = self._ledger.next_due_s()
        try:
            return self._events.get(timeout=None if due_s is None else max(0.0, due_s - self._clock()))
        except queue.Empty:
            return None

    def _finished(
        self, key: int, reason: str, future: Future[list[Resolved | Unresolved] | None]
    ) -> Iterator[TierAnswer]:
        pending = self._ledger.settle(key)
        if pending is None:
            return
        parts = None if future.cancelled() or future.exception() is not None else future.result()
        if parts is None:
            yield from self._settled(pending, reason)
            return
        self._computing.settled()
        assert pending.best.rows is not None
        for part in parts:
            resolved = part.best if isinstance(part, Unresolved) else part
            where = Resolved(resolved.exit, pending.best.rows[resolved.rows], resolved.decision)
            yield from self._told(where.answers(pending.start, reason))
            if isinstance(part, Unresolved):
                self._remember(pending.some(part.rows), reason)

    def _settled(self, pending: Pending, reason: str) -> Iterator[TierAnswer]:
        """The best local answers to samples that were struck out of the ledger."""
        self._computing.settled()
        yield from self.degraded(pending, reason)

    def _told(self, answers: Iterator[Answer]) -> Iterator[TierAnswer]:
        return from_here(answers, self._settings.name)

    def _remember(self, pending: Pending, reason: str) -> None:
        if self._unheard is not None:
            self._unheard(pending, reason)
