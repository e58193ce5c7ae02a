"""One sample's way through segments on a device, in memory that is laid out beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit.manifest import TensorSpec
from edgeexit_runtime.backends.cuda_device import Device
from edgeexit_runtime.backends.cuda_segment import CudaSegment
from edgeexit_runtime.backends.ort_errors import running_error

__all__ = ["CudaLane"]


class CudaLane:
    """See `Lane`. It takes one sample at a time.

    Args:
        device: Where the segments were opened.
        segments: The segments, from the model's inputs on.
        inputs: The model's inputs.
        classes: The number of classes.
    """

    def __init__(
        self, device: Device, segments: Sequence[CudaSegment], inputs: Sequence[TensorSpec], classes: int
    ) -> None:
        specs = (*inputs, *(spec for segment in segments for spec in segment.entry.outputs))
        memory = {spec.name: device.empty((1, *spec.shape), spec.dtype) for spec in specs}
        self._inputs = [memory[spec.name] for spec in inputs]
        self._logits = [np.zeros((1, classes if segment.gives_logits else 0), np.float32) for segment in segments]
        self._stages = []
        for segment, logits in zip(segments, self._logits, strict=True):
            outputs = {spec.name: memory[spec.name] for spec in segment.entry.outputs}
            if segment.gives_logits:
                outputs[segment.entry.logits] = ort.OrtValue.ortvalue_from_numpy(logits)
            feeds = {spec.name: memory[spec.name] for spec in segment.entry.inputs}
            self._stages.append((segment, segment.bound(feeds, outputs)))

    def start(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See `Lane.start`."""
        try:
            for value, array in zip(self._inputs, arrays, strict=True):
                value.update_inplace(array)
        except Exception as error:  # ONNX Runtime's exceptions have no common base below Exception
            raise running_error("a copy to the device", error) from error

    def run(self, index: int) -> NDArray[np.float32]:
        """See `Lane.run`."""
        segment, binding = self._stages[index]
        try:
            segment.graph.session.run_with_iobinding(binding)
        except Exception as error:
            raise running_error(segment.graph.name, error) from error
        return self._logits[index]

    def keep(self, leave: NDArray[np.bool_]) -> NDArray[np.intp]:
        """See `Lane.keep`. A single sample that does not leave is kept as it is."""
        return np.flatnonzero(~leave)

    def stop(self) -> None:
        """See `Lane.stop`. There is nothing to let go of."""
