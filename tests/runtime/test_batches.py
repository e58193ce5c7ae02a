"""Batches: what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.manifest import TensorSpec
from edgeexit_runtime.batches import BatchChecker, blank_batch

IDS = TensorSpec(name="ids", dtype="int64", shape=(8,))
MASK = TensorSpec(name="mask", dtype="bool", shape=(8,))
SCALAR = TensorSpec(name="x", dtype="float32", shape=())


def ids(n: int) -> Any:
    return np.zeros((n, 8), np.int64)


def mask(n: int) -> Any:
    return np.zeros((n, 8), np.bool_)


def test_arrays_come_in_the_order_of_the_inputs() -> None:
    arrays, n = BatchChecker((IDS, MASK)).check({"mask": mask(3), "ids": ids(3)})
    assert ([array.dtype for array in arrays], n) == ([np.int64, np.bool_], 3)


def test_one_input_needs_no_name() -> None:
    batch = ids(2)
    assert BatchChecker((IDS,)).check(batch)[0][0] is batch


def test_one_input_may_have_its_name() -> None:
    assert BatchChecker((IDS,)).check({"ids": ids(2)})[1] == 2


def test_an_array_that_is_not_contiguous_is_made_so() -> None:
    (array,), _ = BatchChecker((IDS,)).check(np.zeros((8, 2), np.int64).T)
    assert array.flags.c_contiguous


def test_an_input_may_be_one_number_a_sample() -> None:
    assert BatchChecker((SCALAR,)).check(np.zeros(5, np.float32))[1] == 5


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (np.zeros((2, 8), np.int64), "several inputs"),
        ({"ids": ids(2)}, "names are not the model's inputs"),
        ({"ids": ids(2), "mask": mask(2), "more": ids(2)}, "names are not the model's inputs"),
        ({"ids": ids(2), "mask": mask(3)}, "differ in length"),
        ({"ids": ids(2).astype(np.int32), "mask": mask(2)}, "ids has the wrong type or shape"),
        ({"ids": ids(2).astype(">i8"), "mask": mask(2)}, "ids has the wrong type or shape"),
        ({"ids": ids(2)[:, :7], "mask": mask(2)}, "ids has the wrong type or shape"),
        ({"ids": ids(2)[0], "mask": mask(2)}, "ids has the wrong type or shape"),
        ({"ids": np.int64(3), "mask": mask(2)}, "ids is no array"),
        ({"ids": [[0] * 8], "mask": mask(1)}, "ids is no array"),
    ],
)
def test_a_batch_that_does_not_fit_is_a_data_error(batch: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        BatchChecker((IDS, MASK)).check(batch)


def test_an_error_says_what_was_expected() -> None:
    with pytest.raises(DataError) as caught:
        BatchChecker((IDS,)).check(np.zeros((2, 7), np.float32))
    assert (caught.value.got, caught.value.expected) == ("float32 (2, 7)", "int64 (n, 8)")


def test_a_blank_batch_fits() -> None:
    assert BatchChecker((IDS, MASK)).check(blank_batch((IDS, MASK), 4))[1] == 4
