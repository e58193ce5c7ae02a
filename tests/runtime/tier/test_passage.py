"""A passage runs each segment on those that are left, and says of those that stay what the last exit thought."""

from __future__ import annotations

import numpy as np

from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.tier.passage import Unresolved, passage
from runtime.cascades import batch_of
from runtime.tier.fakes import SEGMENTS, UPTO, fake_tail


def test_samples_leave_exit_by_exit_and_the_rest_stays_in_front_of_the_next_segment() -> None:
    tail, x = fake_tail(0, UPTO), batch_of(3, 0, 1, 2, 0)
    first, second, rest = passage(tail, tail.begin({"x": x}))
    assert isinstance(first, Resolved)
    assert isinstance(second, Resolved)
    assert isinstance(rest, Unresolved)
    assert [(first.exit, np.asarray(first.rows).tolist()), (second.exit, np.asarray(second.rows).tolist())] == [
        (0, [1, 4]),
        (1, [2]),
    ]
    assert rest.rows.tolist() == np.asarray(rest.best.rows).tolist() == [0, 3]
    assert (rest.best.exit, rest.best.decision.leave.tolist()) == (UPTO - 1, [False, False])
    np.testing.assert_array_equal(tail.arrays(UPTO, rest.group)["h1"], x[[0, 3]])


def test_segments_run_only_on_those_that_are_left() -> None:
    tail = fake_tail(0, SEGMENTS)
    list(passage(tail, tail.begin({"x": batch_of(0, 0, 1, 2)})))
    assert [segment.rows for segment in tail._segments] == [[4], [2], [1], []]  # type: ignore[attr-defined]


def test_at_the_bundle_s_last_exit_nobody_stays() -> None:
    tail = fake_tail(UPTO, SEGMENTS)
    parts = list(passage(tail, tail.begin({"h1": batch_of(9, 9)})))
    assert [(type(part), part.exit) for part in parts if isinstance(part, Resolved)] == [(Resolved, SEGMENTS - 1)]
