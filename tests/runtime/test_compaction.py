"""Compaction: who is carried on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit_runtime import FakeBackend
from edgeexit_runtime.compaction import compact, split

flags = st.lists(st.booleans(), min_size=1, max_size=20).map(np.array)


@given(flags)
def test_everybody_either_leaves_or_stays(leave: np.ndarray) -> None:
    gone, stay = split(leave)
    assert sorted([*gone, *stay]) == list(range(len(leave)))
    assert leave[gone].all()
    assert not leave[stay].any()


def test_tensors_state_and_rows_keep_the_same_samples() -> None:
    tensor, state = np.array([[10], [11], [12]]), np.array([20.0, 21.0, 22.0], np.float32)
    kept = compact(FakeBackend([]), [tensor], (state,), None, np.array([0, 2]))
    assert (kept.tensors[0].tolist(), kept.state[0].tolist(), kept.rows.tolist()) == ([[10], [12]], [20, 22], [0, 2])


def test_rows_are_those_of_the_batch_that_was_given() -> None:
    kept = compact(FakeBackend([]), [], (), np.array([1, 4, 7]), np.array([1, 2]))
    assert kept.rows.tolist() == [4, 7]
