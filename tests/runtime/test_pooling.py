"""Pooled streams: who waits for whom, how long, and that it changes no answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.errors import UsageError
from edgeexit_runtime import Cascade
from edgeexit_runtime.costmodel import WholeBatches
from runtime.cascades import batch_of, fake_cascade, rows_run

SEGMENTS = 4


class Many(WholeBatches):
    """A row is cheapest among `rows`, except in the first segment."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def enough(self, index: int) -> int:
        return self.rows if index else 1

    def pools(self, n: int) -> bool:
        return True


def cascade_of(rows: int, upto: int | None = None) -> Cascade:
    plain = fake_cascade(SEGMENTS, upto=upto)
    return Cascade(plain.manifest, plain.policy, plain._backend, plain._segments, costs=Many(rows))


def batches_of(plans: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    return [batch_of(*plan) for plan in plans]


@given(st.lists(st.lists(st.integers(0, SEGMENTS - 1), max_size=6), max_size=8), st.integers(1, 9))
def test_pooling_changes_no_answer(plans: list[list[int]], rows: int) -> None:
    plain = sorted(fake_cascade(SEGMENTS).stream(batches_of(plans)), key=lambda answer: answer.index)
    pooled = sorted(cascade_of(rows).stream(batches_of(plans), wait_ms=1e6), key=lambda answer: answer.index)
    assert [(a.index, a.label, a.exit, a.degraded) for a in plain] == [
        (a.index, a.label, a.exit, a.degraded) for a in pooled
    ]
    np.testing.assert_allclose([a.score for a in plain], [a.score for a in pooled], rtol=1e-6)


def test_survivors_wait_until_they_are_enough() -> None:
    cascade = cascade_of(4)
    list(cascade.stream(batches_of([[0, 1], [0, 1], [1, 0], [1, 1]]), wait_ms=1e6))
    assert rows_run(cascade)[:2] == [[2, 2, 2, 2], [5]]


def test_what_is_left_at_the_end_waits_for_nobody() -> None:
    cascade = cascade_of(100)
    answers = list(cascade.stream(batches_of([[3, 0], [3, 0]]), wait_ms=1e6))
    assert sorted(a.index for a in answers) == [0, 1, 2, 3]
    assert rows_run(cascade) == [[2, 2], [2], [2], [2]]


def test_nobody_waits_longer_than_is_allowed() -> None:
    now = [0.0]

    def arriving() -> Iterator[NDArray[np.float32]]:
        for _ in range(4):
            yield batch_of(0, 3)
            now[0] += 0.010

    cascade = cascade_of(100)
    found = [(a.index, round(now[0] * 1e3)) for a in cascade.stream(arriving(), wait_ms=15, clock=lambda: now[0])]
    assert found == [(0, 0), (2, 10), (4, 20), (1, 20), (3, 20), (5, 20), (6, 30), (7, 40)]


def test_a_wait_of_0_holds_nobody() -> None:
    cascade = cascade_of(100)
    assert [a.index for a in cascade.stream(batches_of([[3, 0], [3, 0]]), wait_ms=0)] == [1, 0, 3, 2]


def test_where_pooling_does_not_pay_nobody_waits() -> None:
    cascade = fake_cascade(SEGMENTS)
    assert [a.index for a in cascade.stream(batches_of([[3, 0], [3, 0]]), wait_ms=1e6)] == [1, 0, 3, 2]


def test_a_tier_that_ends_early_degrades_pooled_samples_too() -> None:
    answers = sorted(cascade_of(4, upto=2).stream(batches_of([[3, 0], [1, 3]]), wait_ms=1e6), key=lambda a: a.index)
    assert [(a.exit, a.degraded, a.reason is not None) for a in answers] == [
        (1, True, True),
        (0, False, False),
        (1, False, False),
        (1, True, True),
    ]


def test_a_negative_wait_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="below 0"):
        list(fake_cascade(2).stream([], wait_ms=-1))
