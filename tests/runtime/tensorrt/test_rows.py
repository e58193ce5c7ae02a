"""Rows on the device: taking, slicing and joining, as NumPy does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgeexit_runtime.backends.tensorrt.compaction import concat, runs, slice_rows, take
from edgeexit_runtime.backends.tensorrt.device import ALIGNMENT, Device, _size_class
from edgeexit_runtime.backends.tensorrt.fake import FakeMemory

TENSORS = arrays.arrays(
    st.sampled_from([np.float32, np.float16, np.uint8, np.int64, np.bool_]),
    arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9),
)


@given(TENSORS, st.data())
def test_taken_rows_are_those_of_numpy(array: NDArray[Any], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(array), max_size=len(array)).filter(any))
    rows = np.flatnonzero(kept)
    with Device(FakeMemory()) as device:
        taken = take(device, device.upload(array), rows)
        np.testing.assert_array_equal(device.download(taken), array[rows])
        again = take(device, taken, np.array([len(rows) - 1]))
        np.testing.assert_array_equal(device.download(again), array[rows[-1:]])
        assert taken.address % ALIGNMENT == again.address % ALIGNMENT == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_joined_tensors_are_those_of_numpy(lengths: list[int]) -> None:
    parts = [np.arange(n * 3, dtype=np.float32).reshape(n, 3) + 100 * n for n in lengths]
    with Device(FakeMemory()) as device:
        joined = concat(device, [device.upload(part) for part in parts])
        np.testing.assert_array_equal(device.download(joined), np.concatenate(parts))


def test_a_copy_is_queued_for_each_run_of_neighbours() -> None:
    memory = FakeMemory()
    with Device(memory) as device:
        take(device, device.upload(np.zeros((9, 3), np.float32)), np.array([0, 1, 4, 6, 7, 8]))
    assert memory.copies["dtod"] == 3


def test_rows_at_the_front_or_at_an_aligned_address_are_not_copied() -> None:
    memory = FakeMemory()
    with Device(memory) as device:
        tensor = device.upload(np.zeros((9, 64), np.float32))
        for start in (0, 1, 5):
            assert slice_rows(device, tensor, start, 9).buffer is tensor.buffer
        narrow = device.upload(np.zeros((9, 3), np.float32))
        assert slice_rows(device, narrow, 0, 4).buffer is narrow.buffer
        assert slice_rows(device, narrow, 1, 4).buffer is not narrow.buffer


@given(st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted))
def test_runs_cover_the_rows_and_nothing_else(rows: list[int]) -> None:
    found = list(runs(np.array(rows)))
    assert [row for start, stop in found for row in range(start, stop)] == rows
    assert all(stop < start for (_, stop), (start, _) in pairwise(found))


@given(st.integers(0, 1 << 34))
def test_a_size_class_wastes_at_most_a_quarter_and_its_alignment(size_bytes: int) -> None:
    rounded = _size_class(size_bytes)
    assert rounded % ALIGNMENT == 0
    assert size_bytes <= rounded <= size_bytes + max(ALIGNMENT, size_bytes // 4)


def test_memory_that_nobody_refers_to_is_used_again() -> None:
    memory = FakeMemory()
    with Device(memory) as device:
        first = device.empty((8, 8), np.float32).address
        assert device.empty((8, 7), np.float32).address == first
    assert len(memory.live) == 1
