from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

from edgeexit_runtime.server.jobs import Job, Wave
from edgeexit_runtime.server.queues import BATCH_SHARE, Queues
from runtime.cascades import batch_of
from runtime.server.tiers import FOREVER_S, fake_tail


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def waiting(queues: Queues, rows: int, deadline_s: float = FOREVER_S) -> Job:
    """A request in front of segment 0."""
    job = Job(rows, deadline_s, 0.0, asyncio.get_running_loop().create_future())
    queues.add(0, Wave.of(job, {"x": batch_of(*[0] * rows)}, 0.0))
    return job


def sizes(queues: Queues, now_s: float = 0.0) -> list[int]:
    """Of the batches until nobody waits."""
    found = []
    while (batch := queues.next(now_s)) is not None:
        found.append(sum(map(len, batch[1])))
    return found


def one_a_second(k: int, time_s: float) -> int:
    return int(time_s)


@in_a_loop
async def test_a_batch_is_no_larger_than_its_oldest_samples_have_time_for() -> None:
    queues = Queues(fake_tail(), 0.0, 64, one_a_second)
    for _ in range(8):
        waiting(queues, 1, deadline_s=4 / BATCH_SHARE)
    assert sizes(queues) == [4, 4]


@in_a_loop
async def test_samples_without_hurry_fill_batches() -> None:
    queues = Queues(fake_tail(), 0.0, 6, one_a_second)
    for _ in range(8):
        waiting(queues, 1)
    assert sizes(queues) == [6, 2]


@in_a_loop
async def test_samples_that_have_next_to_no_time_left_still_run() -> None:
    queues = Queues(fake_tail(), 0.0, 64, one_a_second)
    for _ in range(2):
        waiting(queues, 1, deadline_s=0.5)
    assert sizes(queues) == [1, 1]


@in_a_loop
async def test_a_request_that_is_over_does_not_say_how_large_a_batch_is() -> None:
    queues = Queues(fake_tail(), 0.0, 64, one_a_second)
    late = waiting(queues, 1, deadline_s=1.0)
    for _ in range(8):
        waiting(queues, 1)
    assert sizes(queues, now_s=2.0) == [8]
    assert not late.wanted


@in_a_loop
async def test_where_nothing_is_known_of_times_batches_are_full() -> None:
    queues = Queues(fake_tail(), 0.0, 64)
    for _ in range(8):
        waiting(queues, 1, deadline_s=0.1)
    assert sizes(queues) == [8]


@in_a_loop
async def test_who_comes_in_front_of_a_later_segment_does_not_keep_the_earlier_ones_waiting_for_ever() -> None:
    queues = Queues(fake_tail(), 0.001, 64)
    waiting(queues, 1)
    chosen = []
    for now_s in range(1, 5):
        job = Job(8, FOREVER_S, float(now_s), asyncio.get_running_loop().create_future())
        queues.add(1, Wave.of(job, {"h0": batch_of(*[1] * 8)}, float(now_s)))
        found = queues.next(now_s + 0.5)
        assert found is not None
        chosen.append(found[0])
    assert 0 in chosen
