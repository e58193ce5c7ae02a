from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit_runtime.offload.breaker import BreakerSettings
from edgeexit_runtime.offload.fake import FakeTransport
from edgeexit_runtime.offload.transport import REASONS, TransportError
from edgeexit_runtime.offload.upstream import UpstreamSettings
from edgeexit_runtime.wire.messages import Question, Reply
from runtime.offload.upstreams import CLASSES, F32, ask, now_s, passing, reply_to, upstream

STATUSES = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "DATA_LOSS", "INTERNAL", "DEADLINE_EXCEEDED")
BEHAVIOURS = ("answers", "is late", "hangs", "will not stop", "raises", "fails", "lies", "gives nothing")

behaviours = st.tuples(st.sampled_from(BEHAVIOURS), st.floats(0, 0.3), st.sampled_from(STATUSES))
questions = st.tuples(st.integers(1, 5), st.floats(0, 0.3), st.floats(0, 0.2))


def transport_of(behaviour: list[tuple[str, float, str]]) -> FakeTransport:
    """Behaves in one way after another, over and over."""
    count = 0

    async def answer(question: Question) -> Any:
        nonlocal count
        kind, seconds, status = behaviour[count % len(behaviour)]
        count += 1
        if kind == "hangs":
            await asyncio.Event().wait()
        end_s = now_s() + (5 if kind == "will not stop" else seconds)
        while now_s() < end_s:
            try:
                await asyncio.sleep(end_s - now_s())
            except asyncio.CancelledError:
                if kind != "will not stop":
                    raise
        if kind == "raises":
            raise OSError("broken")
        if kind == "fails":
            raise TransportError(status in STATUSES[:2], status)
        if kind == "lies":
            return reply_to(question, label=np.full(question.rows, CLASSES))
        return None if kind == "gives nothing" else reply_to(question)

    return FakeTransport(answer)


@given(st.lists(behaviours, min_size=1, max_size=4), st.lists(questions, min_size=1, max_size=12), st.random_module())
def test_every_question_has_one_end_by_its_deadline_and_what_is_answered_is_right(
    behaviour: list[tuple[str, float, str]], asked: list[tuple[int, float, float]], random: Any
) -> None:
    settings = UpstreamSettings(max_in_flight=4, breaker=BreakerSettings(failures=3, first_open_s=0.2))

    async def one(up: Any, rows: int, budget_s: float) -> None:
        deadline_s = now_s() + budget_s
        found = await ask(up, rows, budget_s)
        assert now_s() <= deadline_s + 1e-6
        if isinstance(found, Reply):
            assert found.label.tolist() == [row % CLASSES for row in range(rows)]
            assert found.probability.dtype == F32
        else:
            assert found in REASONS

    async def story() -> Any:
        up = upstream(transport_of(behaviour), settings)
        tasks = []
        for rows, budget_s, pause_s in asked:
            tasks.append(asyncio.ensure_future(one(up, rows, budget_s)))
            await asyncio.sleep(pause_s)
        await asyncio.gather(*tasks)
        await asyncio.sleep(10)
        return up.snapshot()

    seen = passing(story())
    assert seen.asked == len(asked) == seen.answered + sum(seen.failed.values())
    assert seen.in_flight == 0
