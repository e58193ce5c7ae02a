"""Batch ranges: an engine has one optimisation profile for each, tuned for its largest batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgeexit.errors import UsageError

__all__ = ["DEFAULT_BATCHES", "BatchRange", "chunks", "range_of", "ranges_up_to"]

DEFAULT_BATCHES = (1, 8, 64, 128)
"""The last batch size of each range: 1, 2–8, 9–64 and 65–128."""

LARGEST_BATCH = 1 << 16


class BatchRange(NamedTuple):
    """Batch sizes that share an optimisation profile, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def ranges_up_to(lasts: Sequence[int]) -> tuple[BatchRange, ...]:
    """Ranges that end at these batch sizes and leave no gap; the first begins at 1.

    Raises:
        UsageError: There are none, they do not rise, or one is out of bounds.
    """
    firsts = [1, *(last + 1 for last in lasts)]
    ranges = tuple(BatchRange(first, last) for first, last in zip(firsts, lasts, strict=False))
    if not ranges or any(not first <= last <= LARGEST_BATCH for first, last in ranges):
        raise UsageError(
            "those batch sizes make no ranges",
            got=",".join(map(str, lasts)) or "none",
            expected=f"rising numbers from 1 to {LARGEST_BATCH}, such as 1,8,64,128",
        )
    return ranges


def range_of(ranges: Sequence[BatchRange], batch: int) -> int:
    """The position of the range that a batch size lies in; the batch is at most the last range's last."""
    return next(index for index, (_, last) in enumerate(ranges) if batch <= last)


def chunks(ranges: Sequence[BatchRange], batch: int) -> Iterator[tuple[int, int]]:
    """First row and row behind the last of each run that a batch of any size takes."""
    largest = ranges[-1].last
    for start in range(0, batch, largest):
        yield start, min(start + largest, batch)
