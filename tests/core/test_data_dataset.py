"""Datasets: batches, selections and splits, over a source that lives in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.data import Dataset
from edgeexit.data.joined import Joined
from edgeexit.errors import DataError, UsageError


class Numbers:
    """A source whose sample i is the number `first` + i; `broken` cannot be read."""

    def __init__(self, count: int, first: int = 0, workers: int = 0, broken: int | None = None) -> None:
        self.values = np.arange(first, first + count, dtype=np.float32)
        self.workers = workers
        self.broken = broken
        self.reads = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.values)

    def read(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        with self._lock:
            self.reads += 1
        if self.broken is not None and self.broken in rows:
            raise DataError(f"sample {self.broken} is broken")
        return {"x": self.values[rows]}


def dataset(source: Any, labels: list[int] | None = None) -> Dataset:
    rows = np.arange(len(source), dtype=np.int64)
    names = tuple(f"sample {row}" for row in rows)
    if labels is None:
        return Dataset(source, rows, None, (), names)
    classes = tuple(f"class {index}" for index in range(max(labels) + 1))
    return Dataset(source, rows, np.asarray(labels, dtype=np.int64), classes, names)


def values(batches: Iterator[dict[str, NDArray[Any]]]) -> list[float]:
    return [float(value) for batch in batches for value in batch["x"]]


@given(count=st.integers(0, 40), size=st.integers(1, 50), workers=st.integers(0, 3))
def test_batches_put_together_are_the_whole_whatever_their_size(count: int, size: int, workers: int) -> None:
    assert values(dataset(Numbers(count)).batches(size, workers=workers)) == list(range(count))


@given(count=st.integers(1, 40), size=st.integers(1, 50))
def test_every_batch_but_the_last_is_full(count: int, size: int) -> None:
    sizes = [len(batch["x"]) for batch in dataset(Numbers(count)).batches(size)]
    assert all(length == size for length in sizes[:-1])
    assert 1 <= sizes[-1] <= size


@given(indices=st.lists(st.integers(0, 9), max_size=20), size=st.integers(1, 5))
def test_batches_of_indices_equal_the_batches_of_what_was_taken(indices: list[int], size: int) -> None:
    whole = dataset(Numbers(10))
    assert values(whole.batches(size, indices)) == values(whole.take(indices).batches(size)) == indices


@given(outer=st.permutations(range(8)), inner=st.lists(st.integers(0, 7), max_size=10))
def test_taking_twice_selects_among_what_was_taken_first(outer: list[int], inner: list[int]) -> None:
    whole = dataset(Numbers(8), labels=[0, 1] * 4)
    twice = whole.take(outer).take(inner)
    wanted = [outer[index] for index in inner]
    assert values(twice.batches(3)) == wanted
    assert list(twice.names) == [f"sample {index}" for index in wanted]
    assert twice.labels is not None
    assert twice.labels.tolist() == [index % 2 for index in wanted]


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_split_partitions_the_samples(labels: list[int], fraction: float, seed: int) -> None:
    rest, held_out = dataset(Numbers(len(labels)), labels).split(fraction, seed)
    assert sorted([*rest.rows.tolist(), *held_out.rows.tolist()]) == list(range(len(labels)))


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_class_of_two_samples_or_more_is_in_both_parts_of_a_split(
    labels: list[int], fraction: float, seed: int
) -> None:
    rest, held_out = dataset(Numbers(len(labels)), labels).split(fraction, seed)
    assert rest.labels is not None
    assert held_out.labels is not None
    for label in set(labels):
        assert label in rest.labels
        assert (label in held_out.labels) == (labels.count(label) > 1)


def test_a_split_holds_out_the_stated_share_of_every_class() -> None:
    _, held_out = dataset(Numbers(100), [0] * 20 + [1] * 80).split(0.25, seed=1)
    assert held_out.labels is not None
    assert np.bincount(held_out.labels).tolist() == [5, 20]


def test_equal_seeds_give_equal_splits() -> None:
    whole = dataset(Numbers(50), [0, 1] * 25)
    assert whole.split(0.2, seed=7)[1].rows.tolist() == whole.split(0.2, seed=7)[1].rows.tolist()


def test_other_seeds_give_other_splits() -> None:
    whole = dataset(Numbers(50), [0, 1] * 25)
    assert whole.split(0.2, seed=7)[1].rows.tolist() != whole.split(0.2, seed=8)[1].rows.tolist()


def test_samples_without_labels_can_be_split() -> None:
    rest, held_out = dataset(Numbers(10)).split(0.3, seed=0)
    assert (len(rest), len(held_out)) == (7, 3)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 20.0, float("nan")])
def test_a_share_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="share"):
        dataset(Numbers(10)).split(fraction, seed=0)


def test_a_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="batch size"):
        dataset(Numbers(10)).batches(0)


def test_nothing_is_read_before_a_batch_is_asked_for() -> None:
    source = Numbers(10, workers=2)
    dataset(source).batches(1)
    assert source.reads == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_ahead_stops_a_few_batches_before_the_end(workers: int) -> None:
    source = Numbers(100)
    batches = dataset(source).batches(1, workers=workers)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert source.reads <= workers + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_raises_where_its_batch_is_due(workers: int) -> None:
    batches = dataset(Numbers(10, broken=5)).batches(2, workers=workers)
    assert [len(next(batches)["x"]) for _ in range(2)] == [2, 2]
    with pytest.raises(DataError, match="sample 5"):
        next(batches)


def test_a_consumer_that_stops_early_leaves_no_threads_behind() -> None:
    batches = dataset(Numbers(100)).batches(1, workers=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeexit-data")]


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_joined_sources_read_as_one(lengths: list[int], data: st.DataObject) -> None:
    starts = np.cumsum([0, *lengths])
    joined = Joined(tuple(Numbers(length, int(start)) for length, start in zip(lengths, starts, strict=False)))
    rows = data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, max_size=12))
    assert joined.read(np.asarray(rows, dtype=np.int64))["x"].tolist() == rows
