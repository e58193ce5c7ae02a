"""A lane: one sample's way through all segments, every address known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.tensorrt.device import Device, DeviceTensor
from edgeexit_runtime.backends.tensorrt.execution import Execution, Scratch
from edgeexit_runtime.backends.tensorrt.segment import TensorRTSegment

__all__ = ["TensorRTLane"]


class TensorRTLane:
    """See `Lane`, of capacity 1. Its contexts are its own: no other batch changes their profiles.

    Args:
        device: Where it runs.
        scratch: The layers' memory.
        segments: The segments, from the model's inputs on.
        entries: What the manifest says about each.
        inputs: The model's inputs.
    """

    def __init__(
        self,
        device: Device,
        scratch: Scratch,
        segments: Sequence[TensorRTSegment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
    ) -> None:
        self._device = device
        with device:
            specs = (*inputs, *(spec for entry in entries for spec in entry.outputs))
            self._tensors = {spec.name: device.empty((1, *spec.shape), np.dtype(spec.dtype)) for spec in specs}
            self._inputs = [(_pinned(device, self._tensors[spec.name]), self._tensors[spec.name]) for spec in inputs]
            self._bound = [segment.bound for segment in segments]  # their memory is in use as long as the lane is
            self._runs = [
                _Run(
                    device,
                    *segment.fixed(
                        self._tensors,
                        Execution(
                            segment.execution.engine, device, scratch, {spec.name: spec.shape for spec in entry.inputs}
                        ),
                    ),
                )
                for segment, entry in zip(segments, entries, strict=True)
            ]

    def start(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See `Lane.start`."""
        with self._device as device:
            for (pinned, tensor), array in zip(self._inputs, arrays, strict=True):
                pinned[...] = array
                device.memory.copy(tensor.address, pinned, tensor.size_bytes)

    def run(self, index: int) -> NDArray[np.float32]:
        """See `Lane.run`."""
        with self._device:
            return self._runs[index]()

    def keep(self, leave: NDArray[np.bool_]) -> NDArray[np.intp]:
        """See `Lane.keep`: of one row, none leaves before all do."""
        return (~leave).nonzero()[0]

    def stop(self) -> None:
        """See `Lane.stop`."""


class _Run:
    """One segment of the lane, and where its logits arrive."""

    def __init__(self, device: Device, execution: Execution, logits: DeviceTensor | None) -> None:
        self._device = device
        self._execution = execution
        self._logits = logits
        self._arrived = np.zeros((1, 0), np.float32) if logits is None else _pinned(device, logits)

    def __call__(self) -> NDArray[np.float32]:
        device = self._device
        self._execution.prepare(1)  # other segments may have made the scratch memory larger
        self._execution.queue()
        if self._logits is not None:
            device.memory.copy(self._arrived, self._logits.address, self._logits.size_bytes)
            device.synchronise()
        return self._arrived


def _pinned(device: Device, tensor: DeviceTensor) -> NDArray[Any]:
    """Page-locked memory for a tensor."""
    size_bytes = tensor.size_bytes
    return device.memory.pinned(max(size_bytes, 1))[:size_bytes].view(tensor.dtype).reshape(tensor.shape)
