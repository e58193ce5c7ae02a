from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from edgeexit.errors import BackendError
from edgeexit_runtime.offload.background import Background


async def where() -> str:
    return threading.current_thread().name


async def for_ever(started: threading.Event, ended: threading.Event) -> None:
    try:
        started.set()
        await asyncio.Event().wait()
    finally:
        ended.set()


def test_coroutines_run_in_a_thread_of_their_own() -> None:
    with Background("tiers") as background:
        assert background.submit(where()).result(10) == "tiers"


def test_a_coroutines_error_comes_back() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with Background() as background, pytest.raises(KeyError):
        background.submit(fail()).result(10)


def test_its_clock_is_the_loops() -> None:
    async def now() -> float:
        return asyncio.get_running_loop().time()

    with Background() as background:
        before = background.now_s()
        assert before <= background.submit(now()).result(10) <= background.now_s()


def test_cancelling_the_future_cancels_the_coroutine() -> None:
    started, ended = threading.Event(), threading.Event()
    with Background() as background:
        future = background.submit(for_ever(started, ended))
        assert started.wait(10)
        future.cancel()
        assert ended.wait(10)


def test_a_coroutine_whose_future_nobody_keeps_runs_on() -> None:
    started, ended = threading.Event(), threading.Event()
    with Background() as background:
        background.submit(for_ever(started, ended))
        assert started.wait(10)
        for _ in range(3):
            gc.collect()
        assert background.submit(where()).result(10)
        assert not ended.is_set()
    assert ended.is_set()


def test_closing_cancels_what_runs_and_ends_the_thread() -> None:
    started, ended = threading.Event(), threading.Event()
    background = Background("soon-gone")
    future = background.submit(for_ever(started, ended))
    assert started.wait(10)
    background.close()
    background.close()
    assert ended.is_set()
    assert future.cancelled()
    assert "soon-gone" not in [thread.name for thread in threading.enumerate()]


def test_closing_does_not_wait_for_what_ignores_its_cancellation() -> None:
    started = threading.Event()

    async def stubborn() -> None:
        started.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    background = Background("stubborn")
    background.submit(stubborn())
    assert started.wait(10)
    background.close(patience_s=0.01)
    assert "stubborn" not in [thread.name for thread in threading.enumerate()]


def test_a_closed_loop_takes_nothing() -> None:
    background = Background()
    background.close()
    with pytest.raises(BackendError):
        background.submit(where())
