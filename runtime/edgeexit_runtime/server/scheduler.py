"""Requests of many clients through one tail: at whatever depth they come in, they share batches.

    submit ─▶ queue k ─▶ segment k ─┬─ sure: answered
                                    └─ not: queue k+1 ─▶ segment k+1 ─ …

Queues belong to the event loop; segments run in one worker thread, which goes on with what is left of a batch
by itself for as long as nobody else waits. The engine never idles while samples wait: a request that comes to an
idle server runs at once, and batches form while it is busy. A request is refused at once where it finds its queue
full, or could not be answered in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from edgeexit.errors import DataError
from edgeexit_runtime.batches import Arrays, BatchChecker
from edgeexit_runtime.offload.answerer import Answerer
from edgeexit_runtime.server.counts import Counts
from edgeexit_runtime.server.forecast import Forecast
from edgeexit_runtime.server.handing import HandingOn
from edgeexit_runtime.server.jobs import Job, OnRow, Row, Wave
from edgeexit_runtime.server.queues import BATCH_SHARE, Queues
from edgeexit_runtime.server.touring import Step, tour
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Reply, WireError

__all__ = ["Scheduler"]


class Scheduler:
    """Runs a tail for many requests at once. It belongs to one event loop.

    Args:
        tail: The segments.
        executor: Where they run: one worker thread.
        delay_ms: How long what is left of a batch may wait in front of a segment for more to join it, while
            there is other work.
        max_batch: Samples in a batch, at most.
        max_queue_rows: Samples that may wait in front of a segment. A few more may where they come from the
            segment before it, at most twice `max_batch`.
        tier: This tier's name, for the answers.
        onward: The next tier, for samples that are unresolved after the tail's last segment. Without one they
            get this tier's answer, marked as degraded.
        clock: Seconds; the event loop's.
        on_failure: Told of what a segment or the next tier raised that nobody expects.

    Attributes:
        tail, tier: As given.
        counts: What happened so far.
        stopping: Whether new requests are refused because the server goes down.
    """

    def __init__(
        self,
        tail: Tail,
        executor: Executor,
        *,
        delay_ms: float = 2.0,
        max_batch: int = 64,
        max_queue_rows: int = 1024,
        tier: str = "server",
        onward: Answerer | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.tail = tail
        self.tier = tier
        self.counts = Counts(range(tail.first, tail.last + 1))
        self.stopping = False
        self._executor = executor
        self._max_queue_rows = max_queue_rows
        self._handing = None if onward is None else HandingOn(tail, onward, self._put, on_failure)
        self._clock = clock
        self._on_failure = on_failure
        self._checkers = {k: BatchChecker(tail.takes(k)) for k in range(tail.first, tail.last + 1)}
        segments = len(tail.manifest.segments)
        self._forecast = Forecast(segments)
        self._queues = Queues(tail, delay_ms / 1e3, max_batch, self._forecast.rows_within)
        self._max_batch = max_batch
        self._busy = False
        self._jobs: set[Job] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._unresolved = (
            f"this tier runs segments {tail.first} to {tail.last} of {segments} and none of its exits was sure"
            if tail.last + 1 < segments
            else None
        )

    @property
    def waiting(self) -> dict[int, int]:
        """Samples in front of each segment."""
        return {k: self._queues.waiting[k] for k in range(self.tail.first, self.tail.last + 1)}

    @property
    def dropped(self) -> int:
        """Samples that were accepted and not run to the end, because their request had ended."""
        return self._queues.dropped

    @property
    def open_requests(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    async def submit(self, k: int, arrays: Arrays, deadline_s: float, on_row: OnRow | None = None) -> Reply:
        """Answer the samples of a request.

        Args:
            k: The segment that they are in front of.
            arrays: (n, …), n ≥ 1, by the names of `Tail.takes`. They may not change.
            deadline_s: On the scheduler's clock.
            on_row: Called in the event loop for each sample as soon as it is answered. It must not raise.

        Raises:
            WireError: INVALID_ARGUMENT, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, UNAVAILABLE or INTERNAL.
        """
        job = self._accepted(k, arrays, deadline_s, on_row)
        self._jobs.add(job)
        self._idle.clear()
        if not self._busy:
            self._dispatch()
        try:
            return await job.future
        finally:
            now_s = self._clock()
            self._forecast.ended(now_s, job.promised_s, now_s - job.start_s)
            self._jobs.discard(job)
            if not self._jobs:
                self._idle.set()

    def refuse_the_hopeless(self, deadline_s: float) -> None:
        """Refuse a request before anything of it is read, if nobody could be answered by then.

        Raises:
            WireError: RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED or UNAVAILABLE.
        """
        self._expected_s(self.tail.first, 0, deadline_s, self._clock())

    async def drain(self) -> None:
        """Refuse new requests, and wait until those that are there have ended."""
        self.stopping = True
        await self._idle.wait()

    def _accepted(self, k: int, arrays: Arrays, deadline_s: float, on_row: OnRow | None) -> Job:
        now_s = self._clock()
        try:
            _, n = self._checkers[k].check(arrays)
        except DataError as error:
            raise WireError("INVALID_ARGUMENT", " ".join(str(error).split())) from error
        if n == 0:
            raise WireError("INVALID_ARGUMENT", "the request has no samples")
        if self._queues.waiting[k] + n > self._max_queue_rows:
            raise WireError("RESOURCE_EXHAUSTED", "the queue is full")
        expected_s = self._expected_s(k, n, deadline_s, now_s)
        promised_s = expected_s and expected_s + self._joining_s(k, deadline_s - now_s - expected_s)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        inputs = arrays if k == 0 and self._handing is not None else None
        job = Job(n, deadline_s, now_s, future, inputs, on_row, promised_s)
        self._queues.add(k, Wave.of(job, arrays, now_s))
        return job

    def _expected_s(self, k: int, n: int, deadline_s: float, now_s: float) -> float:
        """How long it takes until n more samples in front of segment k are answered, and all that are there.

        Raises:
            WireError: That is too long, or the server goes down.
        """
        if self.stopping:
            raise WireError("UNAVAILABLE", "the server is going down")
        if deadline_s <= now_s:
            raise WireError("DEADLINE_EXCEEDED", "the deadline was over when the request came")
        if not self._busy:
            return 0.0
        rows = self._queues.waiting.copy()
        rows[k] += n
        expected_s = self._forecast.running_s(now_s) + self._forecast.work_s(rows)
        if not self._forecast.fits(expected_s, deadline_s - now_s, queued=self._queues.rows > 0):
            raise WireError("RESOURCE_EXHAUSTED", "the queue is too long for the deadline")
        return expected_s

    def _joining_s(self, k: int, left_s: float) -> float:
        """What those take at most who come later and share the batch."""
        rows = [0] * len(self._queues.waiting)
        rows[k] = self._max_batch
        return min(BATCH_SHARE * left_s, self._forecast.work_s(rows))

    def _dispatch(self) -> None:
        """Give the worker the next batch, if there is one."""
        now_s = self._clock()
        found = self._queues.next(now_s)
        self._busy = found is not None
        if found is not None:
            k, waves = found
            self._forecast.given(k, sum(map(len, waves)), now_s)
            self._executor.submit(self._work, asyncio.get_running_loop(), k, waves)

    def _work(self, loop: asyncio.AbstractEventLoop, k: int, waves: Sequence[Wave]) -> None:
        """In the worker: tell the loop whenever samples left, and when the tour ends."""
        steps: list[Step] = []
        jobs = [job for wave in waves for job in wave.jobs]
        try:
            others_wait, to_host = (lambda: self._queues.rows), self._handing is not None
            for step in tour(self.tail, k, waves, others_wait, self._clock, to_host=to_host):
                steps.append(step)
                if step.someone_left or not step.goes_on:
                    told, steps = steps, []
                    loop.call_soon_threadsafe(self._stepped, told)
                if step.staying is not None:
                    jobs = step.staying.jobs
        except Exception as error:
            loop.call_soon_threadsafe(self._failed, error, jobs)

    def _stepped(self, steps: Sequence[Step]) -> None:
        """Back in the loop: answer who leaves, and let the others wait for the next segment."""
        for step in steps:
            rows = len(step.wave)
            self._forecast.ran(step.k, rows, 0 if step.staying is None else len(step.staying), step.took_s)
            self.counts.batches[step.k].add(rows)
        last = steps[-1]
        if not last.goes_on:
            self._forecast.returned(self._clock())
            if last.staying is not None and last.k < self.tail.last:
                self._queues.add(last.k + 1, last.staying)
            self._dispatch()  # first of all: the engine should not wait for answers to be written
        if last.someone_left or last.k == self.tail.last:
            self._answer(last)

    def _answer(self, step: Step) -> None:
        ends = step.k == self.tail.last
        columns = (step.decision.label, step.decision.probability, step.decision.score, step.decision.leave)
        unsure: dict[Job, list[Row]] = {}
        values = zip(step.wave.jobs, step.wave.rows, *(column.tolist() for column in columns), strict=True)
        for job, row, label, probability, score, leaves in values:
            if leaves:
                self._put(job, Row(row, label, probability, step.k, score, False, self.tier, None))
            elif ends:
                answer = Row(row, label, probability, step.k, score, True, self.tier, self._unresolved)
                unsure.setdefault(job, []).append(answer)
        if unsure and self._handing is not None and step.staying is not None:
            for job in unsure:
                job.promised_s = 0.0  # what the next tier takes was not foreseen
            self._handing.hand_on(step.staying, unsure)
        else:
            for job, answers in unsure.items():
                for answer in answers:
                    self._put(job, answer)

    def _put(self, job: Job, row: Row) -> None:
        if not job.wanted:
            return
        self.counts.rows[row.exit, row.tier] += 1
        self.counts.degraded += row.degraded
        if job.put(row):
            now_s = self._clock()
            self.counts.latency_s.add(now_s - job.start_s)
            job.finish(now_s)

    def _failed(self, error: Exception, jobs: Sequence[Job]) -> None:
        """Back in the loop: a segment failed."""
        self._on_failure(error)
        for job in jobs:
            job.fail(WireError("INTERNAL", "the model failed on this request"))
        self._dispatch()
