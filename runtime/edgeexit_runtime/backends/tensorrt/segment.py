"""A segment on the device: boundary tensors stay there, and only logits come to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.backends.tensorrt.compaction import concat, slice_rows
from edgeexit_runtime.backends.tensorrt.device import Device, DeviceTensor
from edgeexit_runtime.backends.tensorrt.execution import Execution
from edgeexit_runtime.backends.tensorrt.ranges import chunks

__all__ = ["TensorRTSegment"]


class TensorRTSegment:
    """See `Segment`.

    Args:
        device: Where it runs.
        execution: The engine's context; segments that differ only in policy tensors share it.
        entry: What the manifest says about it.
        bound: The policy tensors by name, on the device.
    """

    def __init__(
        self, device: Device, execution: Execution, entry: SegmentEntry, bound: Mapping[str, DeviceTensor]
    ) -> None:
        self.execution = execution
        self.bound = {name: tensor for name, tensor in bound.items() if name in execution.engine.inputs}
        self._device = device
        self._entry = entry
        self._inputs = [spec.name for spec in entry.inputs]
        self._made = [
            *((spec.name, spec.shape, np.dtype(spec.dtype)) for spec in entry.outputs),
            *([(entry.logits, (execution.engine.classes,), np.dtype(np.float32))] if entry.logits else []),
        ]

    def run(self, inputs: Sequence[DeviceTensor]) -> tuple[list[DeviceTensor], NDArray[np.float32]]:
        """See `Segment.run`. A batch above the engine's largest is run in parts."""
        with self._device as device:
            parts = [
                self._run([slice_rows(device, tensor, start, stop) for tensor in inputs])
                for start, stop in chunks(self.execution.engine.ranges, inputs[0].shape[0])
            ]
            outputs = [concat(device, tensors) for tensors in zip(*parts, strict=True)]
            if self._entry.logits:
                return outputs, device.download(outputs.pop())
        return outputs, np.zeros((inputs[0].shape[0], 0), np.float32)

    def _run(self, inputs: Sequence[DeviceTensor]) -> list[DeviceTensor]:
        """Queue one run, and return its outputs, the logits last where there are any."""
        batch = inputs[0].shape[0]
        outputs = [self._device.empty((batch, *shape), dtype) for _, shape, dtype in self._made]
        self.execution.prepare(batch)
        self.execution.bind({name: tensor.address for name, tensor in self.bound.items()})
        used = zip(self._inputs, inputs, strict=True)
        self.execution.bind({name: tensor.address for name, tensor in used if name in self.execution.engine.inputs})
        self.execution.bind({name: tensor.address for (name, _, _), tensor in zip(self._made, outputs, strict=True)})
        self.execution.queue()
        return outputs

    def fixed(self, tensors: Mapping[str, DeviceTensor], execution: Execution) -> tuple[Execution, DeviceTensor | None]:
        """The segment for batches of one sample in tensors that stay where they are, for a lane.

        Args:
            tensors: All inputs and outputs of the lane's segments by name.
            execution: A context of the lane's own.

        Returns:
            The execution, ready to be queued, and the device's logits, None for a segment without a head.
        """
        execution.prepare(1)
        used = {**tensors, **self.bound}
        logits = None
        if self._entry.logits:
            logits = used[self._entry.logits] = self._device.empty((1, execution.engine.classes), np.float32)
        names = [*execution.engine.inputs, *(name for name, _, _ in self._made)]
        execution.bind({name: used[name].address for name in names})
        return execution, logits
