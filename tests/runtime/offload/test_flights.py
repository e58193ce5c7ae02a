from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from edgeexit_runtime.offload.flights import Flights
from edgeexit_runtime.offload.transport import TransportError
from runtime.offload.upstreams import now_s, passing


def test_work_that_fails_while_whoever_asked_is_cancelled_is_not_reported() -> None:
    reported: list[dict[str, Any]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        asked: list[asyncio.Task[None]] = []

        async def fails() -> None:
            await asyncio.sleep(0.1)
            asked[0].cancel()
            raise TransportError(False, "DEADLINE_EXCEEDED")

        asked.append(asyncio.ensure_future(Flights(1, now_s).by(now_s() + 1, fails())))
        with pytest.raises(asyncio.CancelledError):
            await asked[0]
        asked.clear()
        gc.collect()
        await asyncio.sleep(0)

    passing(story())
    gc.collect()
    assert reported == []


def test_work_that_ignores_its_end_keeps_its_place_until_it_ends() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    async def story() -> list[int]:
        flights = Flights(1, now_s)
        with pytest.raises(Exception, match="deadline"):
            await flights.by(now_s() + 0.1, stubborn())
        taken = [flights.taken]
        await asyncio.sleep(3)
        return [*taken, flights.taken]

    assert passing(story()) == [1, 0]
