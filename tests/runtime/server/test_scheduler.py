"""Requests share batches at whatever depth they come in, are answered alone, and are refused in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from threading import get_ident
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.errors import BackendError
from edgeexit.policies import MaxProbability
from edgeexit_runtime import FakeBackend
from edgeexit_runtime.backends.fake import SegmentFunction
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.offload.transport import OffloadError
from edgeexit_runtime.server.jobs import Row
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Reply, WireError
from runtime.cascades import batch_of, sample, told_by_the_sample
from runtime.server.tiers import FOREVER_S, ByHand, Clock, asked, fake_manifest, fake_tail, rows_run, settle

LIMIT_S = 20


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), LIMIT_S))

    return run


def status_of(task: asyncio.Task[Any]) -> str:
    error = task.exception()
    assert isinstance(error, WireError)
    return error.status


@in_a_loop
async def test_each_sample_gets_the_answer_of_the_exit_that_is_sure_of_it() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor)
    task = asked(scheduler, 0, batch_of(2, 0, 1, 0))
    await settle()
    await executor.finish()
    reply = task.result()
    assert (reply.exit.tolist(), reply.label.tolist()) == ([2, 0, 1, 0], [0, 1, 2, 0])
    assert reply.tier == ("server",) * 4
    assert not reply.degraded.any()
    assert rows_run(scheduler.tail) == [[4], [2], [1]]


@in_a_loop
async def test_a_request_to_an_idle_server_runs_at_once() -> None:
    executor, clock = ByHand(), Clock()
    scheduler = Scheduler(fake_tail(), executor, delay_ms=1e6, clock=clock)
    task = asked(scheduler, 0, batch_of(2))
    await settle()
    await executor.turn()
    assert task.done()  # in a single turn of the worker, and no time has passed
    assert rows_run(scheduler.tail) == [[1], [1], [1]]


@in_a_loop
async def test_requests_that_come_while_the_engine_is_busy_share_a_batch() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor)
    tasks = [asked(scheduler, 0, batch_of(0))]
    await settle()
    tasks += [asked(scheduler, 0, batch_of(0)) for _ in range(5)]
    await settle()
    await executor.finish()
    assert all(task.done() for task in tasks)
    assert rows_run(scheduler.tail)[0] == [1, 5]


@in_a_loop
async def test_clients_at_different_depths_share_batches() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor, clock=Clock())
    early = asked(scheduler, 0, batch_of(2, 2))
    await settle()
    late = asked(scheduler, 1, batch_of(2))
    await settle()
    await executor.finish()
    assert rows_run(scheduler.tail) == [[2], [3], [3]]
    assert early.result().exit.tolist() == [2, 2]
    assert late.result().exit.tolist() == [2]


@in_a_loop
async def test_what_is_left_of_a_batch_waits_for_more_no_longer_than_the_delay() -> None:
    executor, clock = ByHand(), Clock()
    scheduler = Scheduler(fake_tail(), executor, delay_ms=5, clock=clock, max_batch=2)
    deep = asked(scheduler, 0, batch_of(1))
    await settle()
    others = [asked(scheduler, 0, batch_of(0, 0)) for _ in range(4)]
    await settle()
    await executor.turn()  # segment 0 for `deep`, which then waits
    await executor.turn()
    assert not deep.done()
    clock.now_s = 0.006
    await executor.turn()  # chosen before the time was over
    assert not deep.done()
    await executor.turn()
    assert deep.done()
    assert not all(task.done() for task in others)
    await executor.finish()


@in_a_loop
async def test_a_full_batch_in_front_of_a_later_segment_goes_first() -> None:
    executor, clock = ByHand(), Clock()
    scheduler = Scheduler(fake_tail(), executor, delay_ms=1e6, clock=clock, max_batch=4)
    tasks = [asked(scheduler, 0, batch_of(1, 1, 1, 1)) for _ in range(3)]
    await settle()
    await executor.finish()
    assert all(task.done() for task in tasks)
    assert max(max(rows) for rows in rows_run(scheduler.tail)[:2]) == 4
    assert tasks[0].result().exit.tolist() == [1] * 4


@in_a_loop
async def test_a_request_larger_than_a_batch_runs_in_several() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor, max_batch=4)
    leaves = [0, 1, 2, 1, 0, 2, 2, 1, 0, 1]
    task = asked(scheduler, 0, batch_of(*leaves))
    await settle()
    await executor.finish()
    assert task.result().exit.tolist() == leaves
    assert rows_run(scheduler.tail)[0] == [4, 4, 2]


@in_a_loop
async def test_samples_are_told_of_as_soon_as_they_are_answered() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor)
    rows: list[Row] = []
    task = asyncio.ensure_future(scheduler.submit(0, {"x": batch_of(2, 0)}, FOREVER_S, rows.append))
    await settle()
    asked(scheduler, 0, batch_of(0))  # so that the worker comes back after each segment
    await settle()
    await executor.turn()
    assert [(row.row, row.exit) for row in rows] == [(1, 0)]
    assert not task.done()
    await executor.finish()
    assert [(row.row, row.exit) for row in rows] == [(1, 0), (0, 2)]


@in_a_loop
async def test_work_whose_deadline_is_over_is_not_run() -> None:
    executor, clock = ByHand(), Clock()
    scheduler = Scheduler(fake_tail(), executor, clock=clock)
    first = asked(scheduler, 0, batch_of(0))
    await settle()
    late, patient = asked(scheduler, 0, batch_of(0, 0), 1.0), asked(scheduler, 0, batch_of(0), 9.0)
    await settle()
    clock.now_s = 2.0
    await executor.finish()
    assert status_of(late) == "DEADLINE_EXCEEDED"
    assert first.done()
    assert patient.result().exit.tolist() == [0]
    assert rows_run(scheduler.tail)[0] == [1, 1]
    assert scheduler.dropped == 2


@in_a_loop
async def test_work_whose_deadline_runs_out_on_the_way_stops_there() -> None:
    clock, executor = Clock(), ByHand()

    def slow(x: NDArray[np.float32]) -> Any:
        clock.now_s += 5
        return (x,), np.zeros((len(x), 3), np.float32)

    scheduler = Scheduler(fake_tail(functions=[slow, slow, slow]), executor, clock=clock)
    task = asked(scheduler, 0, batch_of(2), 7.0)
    await settle()
    await executor.finish()
    assert status_of(task) == "DEADLINE_EXCEEDED"
    assert rows_run(scheduler.tail) == [[1], [1], []]


@in_a_loop
async def test_work_that_nobody_waits_for_any_more_is_not_run() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor)
    asked(scheduler, 0, batch_of(0))
    await settle()
    gone = asked(scheduler, 0, batch_of(0))
    await settle()
    gone.cancel()
    await settle()
    await executor.finish()
    assert rows_run(scheduler.tail)[0] == [1]
    assert scheduler.open_requests == 0


@in_a_loop
async def test_a_full_queue_refuses_at_once_and_takes_again_when_it_has_room() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor, max_queue_rows=3)
    tasks = [asked(scheduler, 0, batch_of(0))]
    await settle()
    tasks += [asked(scheduler, 0, batch_of(0)) for _ in range(5)]
    await settle()
    assert [task.done() for task in tasks] == [False, False, False, False, True, True]
    assert {status_of(task) for task in tasks[4:]} == {"RESOURCE_EXHAUSTED"}
    assert scheduler.waiting == {0: 3, 1: 0, 2: 0}
    await executor.finish()
    last = asked(scheduler, 0, batch_of(0))
    await settle()
    await executor.finish()
    assert last.result().exit.tolist() == [0]


@in_a_loop
async def test_a_request_that_could_not_be_answered_in_time_is_refused_at_once() -> None:
    clock, executor = Clock(), ByHand()

    def one_second_a_row(x: NDArray[np.float32]) -> Any:
        clock.now_s += len(x)
        return (x,), np.array([[9.0, 0, 0]] * len(x), np.float32)

    scheduler = Scheduler(fake_tail(1, functions=[one_second_a_row]), executor, clock=clock)
    asked(scheduler, 0, batch_of(0))
    await settle()
    await executor.finish()  # now it is known what a sample takes
    tasks = [asked(scheduler, 0, batch_of(*[0] * 4), clock.now_s + 100)]
    await settle()
    hasty = asked(scheduler, 0, batch_of(0), clock.now_s + 4)
    with pytest.raises(WireError, match="RESOURCE_EXHAUSTED"):
        scheduler.refuse_the_hopeless(clock.now_s + 4)  # before anything of it is read
    scheduler.refuse_the_hopeless(clock.now_s + 6)
    patient = asked(scheduler, 0, batch_of(0), clock.now_s + 6)
    await settle()
    assert status_of(hasty) == "RESOURCE_EXHAUSTED"
    await executor.finish()
    assert tasks[0].done()
    assert patient.result().rows == 1


@in_a_loop
async def test_survivors_never_pile_up_behind_the_bound() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor, delay_ms=1e6, max_batch=4, max_queue_rows=16, clock=Clock())
    tasks: list[asyncio.Task[Any]] = []
    largest = 0
    for _ in range(30):
        tasks += [asked(scheduler, 0, batch_of(2, 2, 2, 0)) for _ in range(6)]
        await settle()
        largest = max(largest, *list(scheduler.waiting.values())[1:])
        await executor.turn()
    await executor.finish()
    assert 3 <= largest <= 8
    assert {task.done() for task in tasks} == {True}
    assert {None, "RESOURCE_EXHAUSTED"} == {status_of(t) if t.exception() else None for t in tasks}


@in_a_loop
async def test_what_is_not_fit_for_the_segment_is_refused_and_runs_nothing() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor)
    wrong: list[Mapping[str, NDArray[Any]]] = [
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros((0, 4), np.float32)},
        {"y": np.zeros((1, 4), np.float32)},
    ]
    for arrays in wrong:
        with pytest.raises(WireError, match="INVALID_ARGUMENT"):
            await scheduler.submit(0, arrays, FOREVER_S)
    assert not executor.work
    assert scheduler.open_requests == 0


@in_a_loop
async def test_a_segment_that_fails_fails_its_requests_and_no_others() -> None:
    executor, failures = ByHand(), []

    def fails_on_nine(x: NDArray[np.float32]) -> Any:
        if (x[:, 0] == 9).any():
            raise BackendError("secret of the device")
        return (), np.array([[9.0, 0, 0]] * len(x), np.float32)

    tail = fake_tail(1, functions=[fails_on_nine])
    scheduler = Scheduler(tail, executor, max_batch=1, on_failure=failures.append)
    bad, good = asked(scheduler, 0, batch_of(9)), asked(scheduler, 0, batch_of(0))
    await settle()
    await executor.finish()
    assert status_of(bad) == "INTERNAL"
    assert "secret" not in str(bad.exception())
    assert good.result().rows == 1
    assert len(failures) == 1


@in_a_loop
async def test_draining_answers_what_is_there_and_refuses_what_comes() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(), executor)
    there = asked(scheduler, 0, batch_of(2))
    await settle()
    drained = asyncio.ensure_future(scheduler.drain())
    await settle()
    late = asked(scheduler, 0, batch_of(0))
    await settle()
    assert status_of(late) == "UNAVAILABLE"
    assert not drained.done()
    await executor.finish()
    assert drained.done()
    assert there.result().rows == 1


@in_a_loop
async def test_a_tier_that_ends_early_says_which_answers_are_not_sure() -> None:
    executor = ByHand()
    scheduler = Scheduler(fake_tail(upto=2), executor)
    task = asked(scheduler, 0, batch_of(0, 2, 1))
    await settle()
    await executor.finish()
    reply = task.result()
    assert reply.degraded.tolist() == [False, True, False]
    assert reply.exit.tolist() == [0, 1, 1]
    assert reply.reason is not None
    assert "segments 0 to 1 of 3" in reply.reason
    assert scheduler.counts.degraded == 1


class NextTier:
    """Answers everything at exit 2 with the label of the sample, or refuses."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.asked: list[tuple[int, Arrays, Arrays | None, float]] = []

    async def answer(
        self,
        k: int,
        arrays: Arrays,
        inputs: Arrays | None,
        *,
        deadline_s: float,
    ) -> Reply:
        self.asked.append((k, arrays, inputs, deadline_s))
        if self.reason is not None:
            raise OffloadError(self.reason, "at a secret address")
        n = len(arrays["h1"])
        return Reply(
            label=arrays["h1"][:, 1].astype(np.int64),
            probability=np.full(n, 0.5, np.float32),
            exit=np.full(n, 2, np.int64),
            score=np.full(n, 0.5, np.float32),
            degraded=np.zeros(n, np.bool_),
            tier=("cloud",) * n,
        )

    async def prepare(self, k: int, arrays: Arrays, inputs: Arrays | None, *, timeout_s: float) -> bool:
        return True


@in_a_loop
async def test_what_this_tier_cannot_resolve_is_handed_on_request_by_request() -> None:
    executor, cloud = ByHand(), NextTier()
    scheduler = Scheduler(fake_tail(upto=2), executor, tier="gateway", onward=cloud)
    asked(scheduler, 0, batch_of(0))
    await settle()
    tasks = [asked(scheduler, 0, batch_of(2, 0, 2)), asked(scheduler, 1, batch_of(2))]
    await settle()
    await executor.finish()
    await settle()
    reply = tasks[0].result()
    assert reply.exit.tolist() == [2, 0, 2]
    assert reply.label.tolist() == [0, 1, 2]
    assert reply.tier == ("cloud", "gateway", "cloud")
    assert reply.reason is None
    assert tasks[1].result().tier == ("cloud",)
    (k, arrays, inputs, _), (_, _, none, _) = sorted(cloud.asked, key=lambda call: -len(call[1]["h1"]))
    assert (k, len(arrays["h1"])) == (2, 2)
    assert inputs is not None
    assert inputs["x"][:, 1].tolist() == [0, 2]
    assert none is None  # whoever came in behind segment 0 sent no inputs


@in_a_loop
async def test_when_the_next_tier_is_silent_this_one_s_answer_holds_and_says_so() -> None:
    executor, cloud = ByHand(), NextTier("unavailable")
    scheduler = Scheduler(fake_tail(upto=2), executor, onward=cloud)
    task = asked(scheduler, 0, batch_of(2, 1))
    await settle()
    await executor.finish()
    reply = task.result()
    assert reply.degraded.tolist() == [True, False]
    assert reply.exit.tolist() == [1, 1]
    assert reply.reason == "next tier: unavailable"


@in_a_loop
async def test_the_next_tier_is_given_less_time_than_this_one_has() -> None:
    executor, cloud = ByHand(), NextTier()
    scheduler = Scheduler(fake_tail(upto=2), executor, onward=cloud, clock=Clock())
    asked(scheduler, 0, batch_of(2), 3.0)
    await settle()
    await executor.finish()
    assert 2.9 < cloud.asked[0][3] < 3.0


class OfOneThread(FakeBackend):
    """A backend that takes note of the threads that use it."""

    def __init__(self, functions: Sequence[SegmentFunction]) -> None:
        super().__init__(functions)
        self.threads: set[int] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in ("take", "concat", "to_device", "to_host"):
            self.threads.add(get_ident())
        return super().__getattribute__(name)


@in_a_loop
async def test_a_device_is_used_by_the_worker_alone() -> None:
    backend = OfOneThread([told_by_the_sample(k) for k in range(3)])
    policy = MaxProbability((1.0,) * 3, (0.75, 0.75, np.inf))
    tail = Tail(fake_manifest(3), policy, backend, backend.segments[:2])
    cloud = NextTier()
    with ThreadPoolExecutor(1) as executor:
        scheduler = Scheduler(tail, executor, onward=cloud, max_batch=3)
        tasks = [asked(scheduler, 0, batch_of(0, 2, 1, 2, 0)) for _ in range(4)]
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[0].result().exit.tolist() == [0, 2, 1, 2, 0]
        assert backend.threads == {executor.submit(get_ident).result()}
    assert backend.taken


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6)),
        min_size=1,
        max_size=25,
    ),
    max_batch=st.integers(1, 9),
    delay_ms=st.sampled_from([0.0, 0.5, 1e6]),
)
@settings(max_examples=60, deadline=None)
def test_nothing_of_one_request_reaches_another(
    requests: list[tuple[int, list[tuple[int, int]]]], max_batch: int, delay_ms: float
) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            scheduler = Scheduler(fake_tail(), executor, max_batch=max_batch, delay_ms=delay_ms)
            tasks = [asked(scheduler, k, np.array([sample(*s) for s in rows], np.float32)) for k, rows in requests]
            replies = await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)
            for (k, rows), reply in zip(requests, replies, strict=True):
                assert reply.label.tolist() == [label for _, label in rows]
                assert reply.exit.tolist() == [max(k, leaves) for leaves, _ in rows]
            assert scheduler.open_requests == 0
            assert set(scheduler.waiting.values()) == {0}

    asyncio.run(run())
