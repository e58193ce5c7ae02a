"""The fake backend: a segment is a Python function. It ships so that nobody has to patch anything.

    def first(x):
        return (x + 1,), x[:, :3]          # boundary tensors, logits

    backend = FakeBackend([first, second])
    cascade = Cascade(manifest, policy, backend, backend.segments)
    cascade.run(batch)
    backend.segments[0].rows               # [64]: one run, of 64 rows

The functions get and give NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.base import Handle, SessionSettings
from edgeexit_runtime.backends.handles import HandleLane

__all__ = ["FakeBackend", "FakeSegment", "SegmentFunction"]

SegmentFunction = Callable[..., tuple[Sequence[NDArray[Any]], NDArray[np.float32]]]
"""Takes one array per input; returns the boundary tensors and the logits (n, classes)."""


class FakeSegment:
    """A segment that calls a function and counts.

    Attributes:
        rows: The number of samples of each run so far; its length is the number of runs.
    """

    def __init__(self, function: SegmentFunction) -> None:
        self.function = function
        self.rows: list[int] = []

    @property
    def runs(self) -> int:
        """How often the segment ran."""
        return len(self.rows)

    def run(self, inputs: Sequence[Handle]) -> tuple[Sequence[Handle], NDArray[np.float32]]:
        """See `Segment.run`."""
        outputs, logits = self.function(*inputs)
        self.rows.append(len(logits))
        return outputs, logits


class FakeBackend:
    """Segments made of functions, opened in the order in which the functions are given.

    Attributes:
        segments: One per function.
        taken: The number of rows kept by each call of `take`.
    """

    name = "fake"

    def __init__(self, functions: Sequence[SegmentFunction]) -> None:
        self.segments = [FakeSegment(function) for function in functions]
        self.taken: list[int] = []
        self._unopened = list(self.segments)

    def open(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> FakeSegment:
        """The next function's segment; the bytes are not looked at."""
        if not self._unopened:
            raise BundleError(
                "the fake backend has no function left for a segment", got=entry.file.path, expected="one per segment"
            )
        return self._unopened.pop(0)

    def rebound(self, segment: FakeSegment, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]) -> FakeSegment:
        """The segment itself: its function has no tensors."""
        return segment

    def lane(
        self,
        segments: Sequence[FakeSegment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
        capacity: int = 1,
    ) -> HandleLane:
        """A lane that runs the segments, and so counts."""
        return HandleLane(self, segments, entries, inputs)

    def take(self, handle: Handle, rows: NDArray[np.intp]) -> Handle:
        """See `Backend.take`."""
        self.taken.append(len(rows))
        return handle[rows]

    def concat(self, handles: Sequence[Handle]) -> Handle:
        """See `Backend.concat`."""
        return np.concatenate(handles)

    def to_device(self, array: NDArray[Any]) -> Handle:
        """The array itself."""
        return array

    def to_host(self, handle: Handle) -> NDArray[Any]:
        """The array itself."""
        array: NDArray[Any] = handle
        return array
