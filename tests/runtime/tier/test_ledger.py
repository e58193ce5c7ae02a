"""The ledger knows who waits; whoever is struck out is not answered again."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.policies import Decision
from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.tier.ledger import Ledger, Pending


def pending(key: int = 0, due_s: float = 1.0, rows: int = 2) -> Pending:
    columns = np.zeros(rows, np.float32), np.full(rows, 0.5, np.float32), np.arange(rows)
    best = Resolved(1, np.arange(rows) * 10, Decision(*columns, np.zeros(rows, np.bool_)))
    x = np.arange(rows, dtype=np.float32)[:, None]
    return Pending(key, 100, best, {"h": x}, {"x": x + 0.5}, due_s)


def test_an_entry_is_settled_once() -> None:
    ledger = Ledger()
    ledger.enter(pending(7))
    assert ledger.waits(7) is ledger.settle(7)
    assert (ledger.settle(7), ledger.waits(7), len(ledger)) == (None, None, 0)


def test_entries_whose_time_has_come_are_struck_out_the_most_urgent_first() -> None:
    ledger = Ledger()
    for key, due_s in enumerate((3.0, 1.0, 2.0)):
        ledger.enter(pending(key, due_s))
    assert ledger.next_due_s() == 1.0
    assert [entry.key for entry in ledger.overdue(2.0)] == [1, 2]
    assert (ledger.settle(1), ledger.next_due_s()) == (None, 3.0)
    assert [ledger.overdue(2.5), len(ledger)] == [[], 1]


def test_nobody_is_due_where_nobody_waits() -> None:
    assert (Ledger().next_due_s(), Ledger().overdue(1e9)) == (None, [])


def test_the_best_local_answers_are_degraded_for_the_reason() -> None:
    found = list(pending().answers("unavailable"))
    assert [(a.index, a.label, a.exit, a.degraded, a.reason) for a in found] == [
        (100, 0, 1, True, "unavailable"),
        (110, 1, 1, True, "unavailable"),
    ]


@given(rows=st.integers(1, 40), max_rows=st.integers(1, 50), max_bytes=st.integers(0, 100))
def test_pieces_fit_into_a_message_and_lose_nobody(rows: int, max_rows: int, max_bytes: int) -> None:
    whole = pending(rows=rows)
    pieces = whole.pieces(count(1), max_rows, max_bytes)
    assert max(map(len, pieces)) <= max(1, min(max_rows, max_bytes // 4))
    assert len({piece.key for piece in pieces}) == len(pieces)
    assert [a for piece in pieces for a in piece.answers("")] == list(whole.answers(""))
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(np.concatenate([piece.arrays[name] for piece in pieces]), array)
    np.testing.assert_array_equal(np.concatenate([piece.inputs["x"] for piece in pieces]), whole.inputs["x"])


def test_samples_that_fit_stay_together() -> None:
    whole = pending()
    assert whole.pieces(count()) == [whole]


@pytest.mark.parametrize("chosen", [[0], [1], [0, 1]])
def test_some_of_the_samples_keep_their_places(chosen: list[int]) -> None:
    some = pending().some(np.array(chosen))
    assert [a.index for a in some.answers("")] == [100 + 10 * i for i in chosen]
