from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.breaker import BreakerSettings
from edgeexit_runtime.offload.choice import Wishes
from edgeexit_runtime.offload.fake import FakeTransport
from edgeexit_runtime.offload.retries import Backoff
from edgeexit_runtime.offload.transport import REASONS, OffloadError, TransportError
from edgeexit_runtime.offload.upstream import Upstream, UpstreamSettings
from edgeexit_runtime.wire.messages import Question, Reply
from runtime.offload.upstreams import BUDGET_S, answering, ask, boundary, now_s, passing, reply_to, upstream

EXACT = Wishes(precision="fp32")
NEVER_OPEN = BreakerSettings(failures=10**9)


def raising(error: BaseException) -> FakeTransport:
    def answer(question: Question) -> Reply:
        raise error

    return FakeTransport(answer)


def failing_first(times: int, status: str = "UNAVAILABLE") -> FakeTransport:
    """Fails so often, then answers."""
    transport = FakeTransport(reply_to)

    def answer(question: Question) -> Reply:
        if len(transport.questions) <= times:
            raise TransportError(status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"), status)
        return reply_to(question)

    transport._answer = answer
    return transport


async def hang(question: Question) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


async def hang_stubbornly(question: Question) -> Reply:
    """Does not let itself be cancelled for ten seconds."""
    end_s = now_s() + 10
    while now_s() < end_s:
        try:
            await asyncio.sleep(end_s - now_s())
        except asyncio.CancelledError:
            continue
    return reply_to(question)


async def cancel_itself(question: Question) -> Reply:
    raise asyncio.CancelledError


# --- answers


def test_an_answer_comes_back_row_by_row() -> None:
    reply = passing(ask(upstream(answering()), rows=3))
    assert isinstance(reply, Reply)
    assert reply.label.tolist() == [0, 1, 2]
    assert reply.tier == ("cloud",) * 3


def test_a_question_names_the_tail_and_what_is_left_of_the_time() -> None:
    transport = answering()
    passing(ask(upstream(transport, model="net"), k=2, budget_s=0.3))
    (question,) = transport.questions
    assert question.model == "net__from_2"
    assert question.timeout_s == pytest.approx(0.3)
    assert not question.wants_logits


def test_no_two_questions_have_the_same_name() -> None:
    transport = failing_first(2)
    up = upstream(transport)

    async def three() -> None:
        for _ in range(3):
            await ask(up)

    passing(three())
    names = [question.request_id for question in transport.questions]
    assert len(names) == len(set(names)) == 5


def test_without_a_deadline_the_one_of_the_settings_counts() -> None:
    async def ended_s() -> float:
        start_s = now_s()
        with pytest.raises(OffloadError, match="deadline"):
            await upstream(FakeTransport(hang), UpstreamSettings(deadline_ms=70)).answer(1, boundary())
        return now_s() - start_s

    assert passing(ended_s()) == pytest.approx(0.07)


# --- deadlines

TRANSPORTS: dict[str, Callable[[], FakeTransport]] = {
    "hangs": lambda: FakeTransport(hang),
    "ignores cancellation": lambda: FakeTransport(hang_stubbornly),
    "cancels itself": lambda: FakeTransport(cancel_itself),
    "raises an error of its own": lambda: raising(ValueError("secret path /etc/passwd")),
    "raises one that lasts": lambda: raising(TransportError(False, "INVALID_ARGUMENT")),
    "raises a transient one for ever": lambda: raising(TransportError(True, "UNAVAILABLE")),
    "gives nothing": lambda: FakeTransport(lambda question: None),  # type: ignore[arg-type,return-value]
    "hangs when asked for metadata": lambda: FakeTransport(reply_to, metadata=hang),  # type: ignore[arg-type]
    "gives metadata that is none": lambda: FakeTransport(reply_to, metadata=lambda model: 7),  # type: ignore[arg-type,return-value]
}


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS.keys())
def test_every_question_ends_by_its_deadline_with_a_known_reason_whatever_the_transport_does(
    transport: Callable[[], FakeTransport],
) -> None:
    async def outcome() -> tuple[object, float]:
        start_s = now_s()
        reason = await ask(upstream(transport()))
        return reason, now_s() - start_s

    reason, took_s = passing(outcome())
    assert reason in REASONS
    assert took_s <= BUDGET_S + 1e-6


def test_an_answer_after_the_deadline_is_none() -> None:
    async def late(question: Question) -> Reply:
        await asyncio.sleep(BUDGET_S + 0.01)
        return reply_to(question)

    assert passing(ask(upstream(FakeTransport(late)))) == "deadline"


def test_nothing_is_sent_when_there_is_no_time_left() -> None:
    transport = answering()
    assert passing(ask(upstream(transport), budget_s=0.0)) == "deadline"
    assert transport.questions == []


def test_what_the_transport_says_of_itself_does_not_get_into_the_reason() -> None:
    async def told() -> str:
        with pytest.raises(OffloadError) as caught:
            await upstream(TRANSPORTS["raises an error of its own"]()).answer(1, boundary())
        return str(caught.value)

    assert "secret" not in passing(told())


# --- retries


def test_a_transient_failure_is_retried() -> None:
    transport = failing_first(2)
    assert isinstance(passing(ask(upstream(transport))), Reply)
    assert len(transport.questions) == 3


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("INVALID_ARGUMENT", "refused"),
        ("NOT_FOUND", "refused"),
        ("UNAUTHENTICATED", "refused"),
        ("INTERNAL", "unavailable"),
        ("DEADLINE_EXCEEDED", "deadline"),
        ("DATA_LOSS", "protocol"),
    ],
)
def test_a_failure_that_lasts_is_not_retried(status: str, reason: str) -> None:
    transport = failing_first(1, status)
    assert passing(ask(upstream(transport))) == reason
    assert len(transport.questions) == 1


@pytest.mark.parametrize(("status", "reason"), [("UNAVAILABLE", "unavailable"), ("RESOURCE_EXHAUSTED", "overloaded")])
def test_after_the_last_retry_the_failure_is_the_reason(status: str, reason: str) -> None:
    transport = failing_first(99, status)
    assert passing(ask(upstream(transport, UpstreamSettings(backoff=Backoff(attempts=3))))) == reason
    assert len(transport.questions) == 3


def test_pauses_between_retries_are_jittered_and_grow() -> None:
    pauses: list[float] = []
    chances = iter([0.0, 0.5, 0.25, 1.0])

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    up = upstream(
        failing_first(3), UpstreamSettings(backoff=Backoff(first_s=0.01)), sleep=sleep, rng=lambda: next(chances)
    )
    assert isinstance(passing(ask(up)), Reply)
    assert pauses == [0.005, 0.005, 0.04]


def test_a_retry_that_would_come_too_late_is_not_waited_for() -> None:
    async def took_s() -> float:
        start_s = now_s()
        up = upstream(failing_first(99), UpstreamSettings(backoff=Backoff(first_s=1.0, longest_s=1.0)))
        assert await ask(up) == "unavailable"
        return now_s() - start_s

    assert passing(took_s()) == 0.0


def test_retries_stop_when_their_budget_is_spent_and_go_on_when_answers_have_refilled_it() -> None:
    settings = UpstreamSettings(retry_tokens=(2.0, 0.5), breaker=NEVER_OPEN)
    transport = failing_first(99)
    up = upstream(transport, settings)

    async def attempts() -> list[int]:
        counts = []
        for fails in (True, True, False, False, True):
            before = len(transport.questions)
            transport._answer = raising(TransportError(True, "UNAVAILABLE"))._answer if fails else reply_to
            await ask(up)
            counts.append(len(transport.questions) - before)
        return counts

    assert passing(attempts()) == [3, 1, 1, 1, 2]


# --- the breaker


def test_a_server_that_fails_is_left_alone_until_one_probe_finds_it_back() -> None:
    settings = UpstreamSettings(
        backoff=Backoff(attempts=1), breaker=BreakerSettings(failures=2, first_open_s=1.0, longest_open_s=1.0)
    )
    transport = failing_first(3)
    up = upstream(transport, settings)

    async def story() -> list[object]:
        seen: list[object] = []
        for pause_s in (0.0, 0.0, 0.0, 0.75, 0.0, 0.75, 0.0):  # at chance one half it is open for 0.75 seconds
            await asyncio.sleep(pause_s)
            found = await ask(up)
            seen.append(found if isinstance(found, str) else "answered")
        return seen

    assert passing(story()) == [
        "unavailable",
        "unavailable",
        "circuit open",
        "unavailable",
        "circuit open",
        "answered",
        "answered",
    ]
    assert len(transport.questions) == 5


def test_while_a_probe_is_under_way_nobody_else_asks() -> None:
    settings = UpstreamSettings(backoff=Backoff(attempts=1), breaker=BreakerSettings(failures=1, first_open_s=1.0))
    transport = failing_first(1)
    up = upstream(transport, settings)

    async def slow(question: Question) -> Reply:
        await asyncio.sleep(0.05)
        return reply_to(question)

    async def story() -> list[object]:
        await ask(up)
        transport._answer = slow
        await asyncio.sleep(1.0)
        found = await asyncio.gather(*(ask(up) for _ in range(3)))
        return ["answered" if isinstance(reply, Reply) else reply for reply in found]

    assert passing(story()) == ["answered", "circuit open", "circuit open"]


def test_a_cancelled_probe_makes_way_for_another() -> None:
    settings = UpstreamSettings(backoff=Backoff(attempts=1), breaker=BreakerSettings(failures=1, first_open_s=1.0))
    transport = failing_first(1)
    up = upstream(transport, settings)

    async def story() -> object:
        await ask(up)
        await asyncio.sleep(1.0)
        transport._answer = hang
        probe = asyncio.ensure_future(ask(up))
        await asyncio.sleep(0.01)
        probe.cancel()
        await asyncio.sleep(0)
        transport._answer = reply_to
        return await ask(up)

    assert isinstance(passing(story()), Reply)


def test_a_server_that_hangs_opens_the_breaker_too() -> None:
    up = upstream(FakeTransport(hang), UpstreamSettings(breaker=BreakerSettings(failures=2)))

    async def story() -> list[object]:
        return [await ask(up) for _ in range(3)]

    assert passing(story()) == ["deadline", "deadline", "circuit open"]


# --- in flight


def test_questions_beyond_the_bound_are_refused_at_once() -> None:
    up = upstream(FakeTransport(hang), UpstreamSettings(max_in_flight=2))

    async def story() -> list[object]:
        return list(await asyncio.gather(*(ask(up) for _ in range(4))))

    assert sorted(map(str, passing(story()))) == ["deadline", "deadline", "in flight full", "in flight full"]


def test_the_place_of_an_answered_question_is_free_again() -> None:
    up = upstream(answering(), UpstreamSettings(max_in_flight=1))

    async def story() -> list[object]:
        return [await ask(up) for _ in range(3)]

    assert all(isinstance(reply, Reply) for reply in passing(story()))
    assert up._flights.taken == 0


def test_what_ignores_its_cancellation_keeps_its_place_until_it_ends() -> None:
    transport = FakeTransport(hang_stubbornly)
    up = upstream(transport, UpstreamSettings(max_in_flight=1))

    async def story() -> list[object]:
        found = [await ask(up), await ask(up)]
        await asyncio.sleep(10)
        transport._answer = reply_to
        return [*found, await ask(up)]

    first, second, third = passing(story())
    assert (first, second) == ("deadline", "in flight full")
    assert isinstance(third, Reply)


def test_what_nobody_waits_for_any_more_is_not_collected_before_it_ends() -> None:
    ends: list[str] = []

    async def deaf(question: Question) -> Reply:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()
        finally:
            ends.append("collected")
        raise AssertionError

    async def story() -> list[str]:
        up = upstream(FakeTransport(deaf))
        assert await ask(up) == "deadline"
        await asyncio.sleep(0.01)
        gc.collect()
        return [*ends, str(up.snapshot().in_flight)]

    assert passing(story()) == ["1"]


def test_cancelling_a_question_cancels_what_is_under_way() -> None:
    ended: list[str] = []

    async def watched(question: Question) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("transport")
        raise AssertionError

    up = upstream(FakeTransport(watched))

    async def story() -> None:
        question = asyncio.ensure_future(ask(up))
        await asyncio.sleep(0.01)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        await asyncio.sleep(0)

    passing(story())
    assert ended == ["transport"]
    assert up._flights.taken == 0


# --- counters


def test_every_question_is_counted_once_as_answered_or_by_its_reason() -> None:
    transport = failing_first(1)
    up = upstream(transport, UpstreamSettings(wishes=EXACT))

    async def story() -> Any:
        await ask(up, rows=2)
        transport._answer = hang
        await ask(up)
        await ask(up, budget_s=0)
        await asyncio.sleep(0.01)
        return up.snapshot()

    seen = passing(story())
    assert (seen.asked, seen.answered, seen.retried) == (3, 1, 1)
    assert seen.failed == {"deadline": 2}
    assert seen.sent == {"boundary fp32": 3}
    assert seen.payload_bytes == (2 + 2 + 1) * 16
    assert (seen.in_flight, seen.breaker) == (0, "closed")


def test_the_link_is_measured_without_the_servers_own_time() -> None:
    async def slow(question: Question) -> Reply:
        await asyncio.sleep(0.05)
        return reply_to(question, server_ms=40.0)

    async def story() -> Any:
        up = upstream(FakeTransport(slow), UpstreamSettings(wishes=EXACT))
        await up.answer(1, boundary(width=25_000), deadline_s=now_s() + 1)
        return up.snapshot()

    seen = passing(story())
    assert seen.rtt_ms == pytest.approx(0.0)  # of the ping, which takes the fake no time
    assert seen.mbit_per_s == pytest.approx(8e-6 * 100_000 / 0.01)


def test_ready_is_an_answer_within_its_time_whatever_the_transport_does() -> None:
    class Hanging(FakeTransport):
        async def ready(self, timeout_s: float = 1.0) -> bool:
            await asyncio.Event().wait()
            return True

    assert passing(upstream(answering()).ready())
    assert not passing(upstream(Hanging(reply_to)).ready(0.1))


def test_closing_closes_the_transport() -> None:
    transport = answering()
    passing(upstream(transport).close())
    assert transport.closed


@pytest.mark.parametrize("rows", [0, 1025])
def test_a_number_of_samples_that_no_message_takes_is_refused_unsent(rows: int) -> None:
    transport = answering()
    assert passing(ask(upstream(transport), rows=rows)) == "refused"
    assert transport.questions == []


@pytest.mark.parametrize("senseless", [{"max_in_flight": 0}, {"deadline_ms": 0.0}])
def test_settings_that_make_no_sense_are_refused(senseless: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        UpstreamSettings(**senseless)  # type: ignore[arg-type]


def test_an_upstream_can_be_made_where_no_event_loop_runs() -> None:
    assert isinstance(upstream(answering()), Upstream)
    assert np.isfinite(upstream(answering()).settings.deadline_ms)
