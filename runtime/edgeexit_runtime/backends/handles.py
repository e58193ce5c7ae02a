"""A lane over opaque handles, for backends that keep boundary tensors in memory of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.wiring import wire

if TYPE_CHECKING:
    from edgeexit_runtime.backends.base import Backend, Handle, Segment

__all__ = ["HandleLane"]


class HandleLane:
    """See `Lane`. It lays out nothing beforehand, and takes any number of samples.

    Args:
        backend: Where the segments were opened.
        segments: The segments, from the model's inputs on.
        entries: What the manifest says about each.
        inputs: The model's inputs.
    """

    def __init__(
        self,
        backend: Backend,
        segments: Sequence[Segment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
    ) -> None:
        self._backend = backend
        self._stages = tuple(zip(segments, wire(inputs, entries), strict=True))
        self._tensors: list[Handle] = []

    def start(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See `Lane.start`."""
        self._tensors = [self._backend.to_device(array) for array in arrays]

    def run(self, index: int) -> NDArray[np.float32]:
        """See `Lane.run`."""
        segment, step = self._stages[index]
        outputs, logits = segment.run(step.inputs(self._tensors))
        self._tensors = step.carry(self._tensors, outputs)
        return logits

    def keep(self, leave: NDArray[np.bool_]) -> NDArray[np.intp]:
        """See `Lane.keep`."""
        stay = (~leave).nonzero()[0]
        self._tensors = [self._backend.take(tensor, stay) for tensor in self._tensors]
        return stay

    def stop(self) -> None:
        """See `Lane.stop`."""
        self._tensors = []
