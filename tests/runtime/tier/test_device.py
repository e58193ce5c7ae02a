"""A tier answers every sample once and in time: as one cascade would, or degraded and with the reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.errors import BackendError, DataError, UsageError
from edgeexit_runtime.offload.background import Background
from edgeexit_runtime.offload.spool import Spool
from edgeexit_runtime.offload.transport import REASONS, OffloadError
from edgeexit_runtime.tier import Tier, TierAnswer
from edgeexit_runtime.wire.messages import Reply
from runtime.cascades import F32, batch_of
from runtime.tier.fakes import (
    NEVER_MS,
    UPTO,
    Arrays,
    Upstream,
    answered,
    cut,
    failing,
    fake_tail,
    honest,
    silent,
    whole_cascade,
)

X = batch_of(0, 3, 1, 2, 2, 0, 3, 3, 1, 2)
"""Ten samples, of which six are not resolved by two segments."""

HANDED_ON = [1, 3, 4, 6, 7, 9]


def tier(upstream: Any = None, **settings_: Any) -> Tier:
    return Tier(fake_tail(0, UPTO), upstream, **{"deadline_ms": NEVER_MS, **settings_})


def given_by(a_tier: Tier, batches: Any) -> list[TierAnswer]:
    with a_tier:
        found = sorted(a_tier.stream(batches), key=lambda answer: answer.index)
    assert [answer.index for answer in found] == list(range(sum(map(len, batches))))
    return found


def check_undegraded(found: list[TierAnswer], x: NDArray[np.float32] = X) -> None:
    expected = whole_cascade().run(x)
    for a in found:
        if not a.degraded:
            assert (a.label, a.exit) == (expected.label[a.index], expected.exit[a.index])
            assert a.probability == pytest.approx(float(expected.probability[a.index]))
            assert a.score == pytest.approx(float(expected.score[a.index]))
            assert a.reason is None


def check_degraded(found: list[TierAnswer], reason: str) -> None:
    """Those that were handed on have the best local answer and this reason; the others are as ever."""
    assert [a.index for a in found if a.degraded] == HANDED_ON
    local = whole_cascade().logits(X)[UPTO - 1].argmax(axis=1)
    for a in found:
        assert a.tier == "local"
        if a.degraded:
            assert (a.label, a.exit, a.reason) == (local[a.index], UPTO - 1, reason)
    check_undegraded(found)


@pytest.mark.parametrize("sizes", [(), (1,) * 9, (3, 3, 3), (0, 1, 0, 7)])
def test_with_an_honest_upstream_the_answers_are_those_of_one_cascade(sizes: tuple[int, ...]) -> None:
    upstream = honest()
    found = given_by(tier(upstream), cut(X, sizes))
    check_undegraded(found)
    assert not any(a.degraded for a in found)
    assert [a.index for a in found if a.tier == "server"] == HANDED_ON
    assert {k for k, _, _ in upstream.asked} == {UPTO}
    assert sum(rows for _, rows, _ in upstream.asked) == len(HANDED_ON)


def test_run_answers_a_batch_in_its_order() -> None:
    with tier(honest()) as a_tier:
        assert [a.index for a in a_tier.run(X)] == list(range(len(X)))
        assert a_tier.run(X[:0]) == []


@pytest.mark.parametrize("reason", REASONS)
def test_what_upstream_fails_to_answer_gets_the_best_local_answer_and_the_reason(reason: str) -> None:
    check_degraded(given_by(tier(failing(OffloadError(reason))), cut(X, (4, 1))), reason)


def test_an_upstream_that_says_nothing_costs_the_deadline_and_no_answer() -> None:
    check_degraded(given_by(tier(silent(), deadline_ms=30), cut(X, (4, 1))), "deadline")


def test_an_upstream_that_breaks_costs_no_answer() -> None:
    check_degraded(given_by(tier(failing(ZeroDivisionError())), [X]), "failed")


def test_a_background_that_is_closed_costs_no_answer() -> None:
    background = Background()
    background.close()
    check_degraded(given_by(tier(honest(), background=background), [X]), "failed")


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_reply_about_other_samples_is_not_used(rows: int) -> None:
    check_degraded(given_by(tier(Upstream(lambda k, arrays: blank_reply(rows))), [X]), "protocol")


def test_without_an_upstream_samples_say_that_segments_are_missing() -> None:
    check_degraded(given_by(tier(None), [X]), "this tier runs 2 of 4 segments and none of its exits was sure")


def test_what_is_degraded_upstream_keeps_its_answer_its_tier_and_its_reason() -> None:
    reply = replace(blank_reply(6), degraded=np.array([0, 1, 0, 0, 1, 0], np.bool_), tier=("a", "b") * 3, reason="gone")
    found = {a.index: a for a in given_by(tier(Upstream(lambda k, arrays: reply)), [X])}
    assert [(found[i].degraded, found[i].reason) for i in HANDED_ON[:3]] == [
        (False, None),
        (True, "gone"),
        (False, None),
    ]
    assert [found[i].tier for i in HANDED_ON] == ["a", "b"] * 3


@pytest.mark.parametrize("upstream", [None, failing(OffloadError("unavailable"))])
def test_where_it_may_the_device_finishes_what_upstream_did_not_answer(upstream: Any) -> None:
    a_tier = tier(upstream, finish_locally=fake_tail(UPTO))
    a_tier.warm_up()
    found = given_by(a_tier, cut(X, (4, 1)))
    check_undegraded(found)
    assert {(a.degraded, a.tier) for a in found} == {(False, "local")}


@pytest.mark.parametrize(("quicker", "questions"), [(False, 4), (True, 1)])
def test_what_takes_less_time_here_than_upstream_need_not_be_handed_on(quicker: bool, questions: int) -> None:
    """A question takes a second, and finishing takes none; that is known after the first."""
    now_s = [0.0]
    later = fake_tail(UPTO)

    def slow(k: int, arrays: Arrays) -> Reply:
        now_s[0] += 1.0
        return answered(later, arrays)

    upstream = Upstream(slow)
    with tier(upstream, finish_locally=fake_tail(UPTO), quicker=quicker, clock=lambda: now_s[0]) as a_tier:
        a_tier.warm_up()
        found = [answer for i in HANDED_ON[:4] for answer in a_tier.run(X[i : i + 1])]
    assert len(upstream.asked) == questions
    assert [a.tier for a in found] == ["server"] * questions + ["local"] * (4 - questions)
    assert not any(a.degraded for a in found)


def test_warming_up_makes_upstream_ready_for_what_the_device_hands_on() -> None:
    upstream = honest()
    with tier(upstream) as device:
        device.warm_up()
    assert upstream.prepared == [(UPTO, NEVER_MS / 1e3)]


def test_a_device_that_runs_every_segment_needs_nobody_to_be_ready() -> None:
    upstream = honest()
    with Tier(fake_tail(), upstream, deadline_ms=NEVER_MS) as device:
        device.warm_up()
    assert upstream.prepared == []


def test_what_the_device_cannot_finish_either_is_degraded_with_the_upstream_s_reason() -> None:
    found = given_by(tier(failing(OffloadError("refused")), finish_locally=fake_tail(UPTO, UPTO + 1)), [X])
    assert {a.index: (a.exit, a.reason) for a in found if a.degraded} == dict.fromkeys([1, 6, 7], (UPTO, "refused"))
    check_undegraded(found)


def test_segments_that_fail_when_they_are_to_finish_cost_no_answer() -> None:
    later = fake_tail(UPTO)

    def broken(x: Any) -> Any:
        raise BackendError("the device failed")

    later._segments[0].function = broken  # type: ignore[attr-defined]
    check_degraded(given_by(tier(failing(OffloadError("refused")), finish_locally=later), [X]), "refused")


def test_the_next_batch_is_computed_while_the_last_one_travels() -> None:
    """The first question is answered only when the second is asked."""
    tail, second = fake_tail(UPTO), asyncio.Event()

    async def answer(k: int, arrays: Arrays) -> Reply:
        if len(upstream.asked) == 2:
            second.set()
        await second.wait()
        return answered(tail, arrays)

    upstream = Upstream(answer)
    assert not any(a.degraded for a in given_by(tier(upstream), cut(X[HANDED_ON], (3,))))


def test_an_answer_does_not_wait_for_the_next_batch_to_be_read() -> None:
    came = threading.Event()

    def batches() -> Iterator[Any]:
        yield X[1:2]
        assert came.wait(30)
        yield X[1:2]

    with tier(honest()) as a_tier:
        answers = a_tier.stream(batches())
        assert next(answers).tier == "server"
        came.set()
        assert next(answers).tier == "server"


def test_no_more_batches_are_in_flight_than_allowed() -> None:
    tail, open_, most = fake_tail(UPTO), 0, 0

    async def answer(k: int, arrays: Arrays) -> Reply:
        nonlocal open_, most
        open_ += 1
        most = max(most, open_)
        for _ in range(50):  # let others come, if they may
            await asyncio.sleep(0)
        open_ -= 1
        return answered(tail, arrays)

    found = given_by(tier(Upstream(answer), in_flight=2), cut(X[HANDED_ON], (1,) * 5))
    assert not any(a.degraded for a in found)
    assert 1 <= most <= 2


def test_batches_are_read_at_most_two_ahead_of_whoever_takes_the_answers() -> None:
    read = []

    def batches() -> Iterator[Any]:
        for i in range(6):
            read.append(i)
            yield X[:1]

    with tier(honest()) as a_tier:
        for taken, _ in enumerate(a_tier.stream(batches()), start=1):
            assert len(read) <= taken + 2
    assert len(read) == 6


def test_a_batch_that_cannot_be_used_is_refused_after_those_before_it_were_answered() -> None:
    with tier(honest()) as a_tier:
        answers = a_tier.stream([X, np.zeros((1, 5), F32), X])
        assert sorted(next(answers).index for _ in X) == list(range(len(X)))
        with pytest.raises(DataError, match="shape"):
            next(answers)


def test_whoever_stops_taking_answers_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with tier(silent(), finish_locally=fake_tail(UPTO)) as a_tier:
        answers = a_tier.stream([X] * 10)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_upstream_is_given_the_time_that_is_left_of_the_deadline_and_of_finishing() -> None:
    now_s = 100.0
    upstream = failing(OffloadError("refused"))
    given_by(tier(upstream, deadline_ms=200.0, clock=lambda: now_s), [X])
    assert [due_s for _, _, due_s in upstream.asked] == [pytest.approx(100.2)]


def test_degraded_samples_are_spooled_under_their_names(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        with tier(failing(OffloadError("circuit open")), spool=spool) as a_tier:
            list(a_tier.stream(cut(X, (4,)), names=[f"picture {i}" for i in range(len(X))]))
        kept = list(spool)
    assert [sample.note.name for sample in kept] == [f"picture {i}" for i in HANDED_ON]
    assert {(sample.note.reason, sample.note.exit) for sample in kept} == {("circuit open", UPTO - 1)}
    np.testing.assert_array_equal(np.concatenate([sample.arrays["x"] for sample in kept]), X[HANDED_ON])


@pytest.mark.parametrize(
    "arguments",
    [
        {"deadline_ms": 0.0},
        {"deadline_ms": float("nan")},
        {"deadline_ms": float("inf")},
        {"in_flight": 0},
        {"finish_locally": fake_tail(UPTO + 1)},
        {"tail": fake_tail(1, 2)},
    ],
)
def test_settings_that_make_no_tier_are_refused(arguments: Any) -> None:
    with pytest.raises(UsageError):
        Tier(**{"tail": fake_tail(0, UPTO), "upstream": None, "deadline_ms": 1.0, **arguments})


BEHAVIOURS = ("honest", "late", "never", "refused", "broken", "short")


@settings(max_examples=60, deadline=None)
@given(
    leaves_at=st.lists(st.integers(0, 3), min_size=1, max_size=24),
    sizes=st.lists(st.integers(0, 6), max_size=6),
    script=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=8),
    finish=st.booleans(),
    in_flight=st.integers(1, 3),
)
def test_whatever_upstream_does_every_sample_is_answered_once_and_never_wrong(
    leaves_at: list[int], sizes: list[int], script: list[str], finish: bool, in_flight: int
) -> None:
    x, tail = batch_of(*leaves_at), fake_tail(UPTO)

    async def answer(k: int, arrays: Arrays) -> Reply:
        behaviour = script[len(upstream.asked) % len(script)]
        if behaviour == "late":
            await asyncio.sleep(0.012)
        if behaviour == "never":
            await asyncio.Event().wait()
        if behaviour == "refused":
            raise OffloadError("refused")
        if behaviour == "broken":
            raise KeyError
        return blank_reply(len(arrays["h1"]) - 1) if behaviour == "short" else answered(tail, arrays)

    upstream = Upstream(answer)
    a_tier = tier(upstream, deadline_ms=12, in_flight=in_flight, finish_locally=fake_tail(UPTO) if finish else None)
    batches = [batch for batch in cut(x, sizes) if len(batch)]
    found = given_by(a_tier, batches)
    check_undegraded(found, x)
    assert all((a.reason is not None) == a.degraded for a in found)


def blank_reply(rows: int) -> Reply:
    columns = np.zeros(rows, np.int64), np.zeros(rows, F32), np.full(rows, 3, np.int64), np.zeros(rows, F32)
    return Reply(*columns, np.zeros(rows, np.bool_), ("server",) * rows)
