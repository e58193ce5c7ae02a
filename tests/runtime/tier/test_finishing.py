"""Finishing locally takes time, and is begun only where there is enough of it."""

from __future__ import annotations

from itertools import count
from threading import Event

import numpy as np
import pytest

from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.tier.finishing import MARGIN, Finisher
from edgeexit_runtime.tier.ledger import Pending
from edgeexit_runtime.tier.pace import Pace
from edgeexit_runtime.tier.passage import Unresolved, passage
from runtime.cascades import batch_of
from runtime.tier.fakes import UPTO, fake_tail


def pending(due_s: float, *leaves_at: int) -> Pending:
    x = batch_of(*leaves_at)
    tail = fake_tail(0, UPTO)
    (left,) = passage(tail, tail.begin({"x": x}))
    assert isinstance(left, Unresolved)
    return Pending(0, 0, left.best, tail.arrays(UPTO, left.group), {"x": x}, due_s)


def test_the_later_segments_answer_what_the_earlier_ones_left() -> None:
    finisher = Finisher(fake_tail(UPTO), clock=lambda: 0.0)
    parts = finisher.finish(pending(1.0, 3, 2, 3)).result(30)
    finisher.close()
    assert parts is not None
    assert [(p.exit, p.rows.tolist()) for p in parts if isinstance(p, Resolved) and p.rows is not None] == [
        (2, [1]),
        (3, [0, 2]),
    ]


def test_what_is_too_late_is_not_begun() -> None:
    tail = fake_tail(UPTO)
    finisher = Finisher(tail, clock=lambda: 2.0)
    assert not finisher.in_time(pending(2.0, 3))
    assert finisher.finish(pending(2.0, 3)).result(30) is None
    finisher.close()
    assert [segment.rows for segment in tail._segments] == [[], []]  # type: ignore[attr-defined]


def test_the_time_that_it_takes_is_learned_by_the_row() -> None:
    ticks = count(0.0, 1.0)  # each look at the clock is a second later
    finisher = Finisher(fake_tail(UPTO), clock=lambda: next(ticks))
    assert finisher.reserve_s(8) == 0.0
    finisher.warm_up()
    finisher.close()
    assert finisher.reserve_s(8) == pytest.approx(8 * MARGIN * 1.0)
    assert not finisher.in_time(pending(2.0 + MARGIN, 3))
    assert finisher.in_time(pending(4.0 + MARGIN, 3))


def test_no_array_of_a_pending_sample_is_changed() -> None:
    finisher = Finisher(fake_tail(UPTO), clock=lambda: 0.0)
    entry = pending(1.0, 3, 2)
    before = {name: array.copy() for name, array in entry.arrays.items()}
    finisher.finish(entry).result(30)
    finisher.close()
    for name, array in before.items():
        np.testing.assert_array_equal(array, entry.arrays[name])


def test_what_already_waits_to_be_finished_here_counts_in_what_is_quicker() -> None:
    finisher, free = Finisher(fake_tail(UPTO), pace=Pace(), clock=lambda: 0.0), Event()
    finisher._learn(1, 1.0)  # a second a sample
    finisher.asking_took(2.5)
    one = pending(100.0, 3)
    assert finisher.preferred(one)
    finisher._executor.submit(free.wait)
    waiting = [finisher.finish(one), finisher.finish(one)]
    assert not finisher.preferred(one)
    free.set()
    assert all(future.result(30) for future in waiting)
    finisher._row_s = 1.0
    assert finisher.preferred(one)
    finisher.close()
