"""Batch ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import UsageError
from edgeexit_runtime.backends.tensorrt.ranges import DEFAULT_BATCHES, chunks, range_of, ranges_up_to


def test_the_default_ranges_leave_no_batch_out() -> None:
    assert [str(batches) for batches in ranges_up_to(DEFAULT_BATCHES)] == ["1", "2–8", "9–64", "65–128"]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=6, unique=True).map(sorted), st.integers(1, 2000))
def test_each_run_of_a_batch_lies_in_one_range(lasts: list[int], batch: int) -> None:
    ranges = ranges_up_to(lasts)
    parts = list(chunks(ranges, batch))
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(batch))
    for start, stop in parts:
        first, last = ranges[range_of(ranges, stop - start)]
        assert first <= stop - start <= last


@pytest.mark.parametrize("lasts", [(), (0,), (8, 1), (4, 4), (1 << 20,), (-1, 3)])
def test_batch_sizes_that_make_no_ranges_are_refused(lasts: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="make no ranges"):
        ranges_up_to(lasts)
