"""ONNX Runtime on a GPU. Boundary tensors stay there; only logits come back.

A run ends when the device is done, as ONNX Runtime has it, and the logits have to be waited for anyway. So no
event and no stream is needed between segments, each of which has a stream of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.base import Lane, SessionSettings, policy_tensors
from edgeexit_runtime.backends.cuda_batches import SteadyBatch, has_convolutions
from edgeexit_runtime.backends.cuda_device import Device
from edgeexit_runtime.backends.cuda_lane import CudaLane
from edgeexit_runtime.backends.cuda_rows import Rows
from edgeexit_runtime.backends.cuda_segment import CudaSegment, DeviceTensor
from edgeexit_runtime.backends.handles import HandleLane
from edgeexit_runtime.backends.onnxruntime import check_segment

__all__ = ["CudaBackend", "CudaSegment", "Device", "DeviceTensor"]


class CudaBackend:
    """See `Backend`.

    Args:
        device: Which GPU, and the provider's options.
        steady: Whether segments with convolutions are run at batch sizes that change rarely.

    Raises:
        MissingPartError: This ONNX Runtime was built without CUDA.
        BackendError: There is no driver or no GPU, or CUDA's libraries are missing.
    """

    name = "cuda"

    def __init__(self, device: Device | None = None, *, steady: bool = True) -> None:
        self.device = Device() if device is None else device
        self.device.check()
        self._steady = steady
        self._rows = Rows(self.device)

    def open(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> CudaSegment:
        """See `Backend.open`."""
        segment = self._open(data, entry, policy_tensors(entry, tensors), settings, [entry.logits])
        check_segment(segment.graph, entry)
        return segment

    def open_headless(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> CudaSegment:
        """A segment without its exit's check, to compare with: it hands on the same, and gives no logits.

        The arguments and errors are those of `open`.
        """
        from edgeexit_runtime.headless import headless_graph

        headless = headless_graph(data, entry)
        constants = policy_tensors(entry, tensors)
        left = {name: constants[name] for name in headless.policy_inputs}
        return self._open(headless.data, entry, left, settings, [])

    def rebound(self, segment: CudaSegment, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]) -> CudaSegment:
        """See `Backend.rebound`."""
        return segment.rebound(self._uploaded(policy_tensors(entry, tensors)))

    def lane(
        self,
        segments: Sequence[CudaSegment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
        capacity: int = 1,
    ) -> Lane:
        """See `Backend.lane`. Memory is laid out beforehand for single samples alone."""
        if capacity > 1:
            return HandleLane(self, segments, entries, inputs)
        return CudaLane(self.device, segments, inputs, classes)

    def take(self, handle: DeviceTensor, rows: NDArray[np.intp]) -> DeviceTensor:
        """See `Backend.take`."""
        return DeviceTensor(self._rows.gather(handle.value, rows), len(rows))

    def concat(self, handles: Sequence[DeviceTensor]) -> DeviceTensor:
        """See `Backend.concat`."""
        parts = [(handle.value, np.arange(handle.rows)) for handle in handles]
        return DeviceTensor(self._rows.joined(parts), sum(handle.rows for handle in handles))

    def to_device(self, array: NDArray[Any]) -> DeviceTensor:
        """See `Backend.to_device`."""
        return DeviceTensor(self.device.upload(array), len(array))

    def to_host(self, handle: DeviceTensor) -> NDArray[Any]:
        """See `Backend.to_host`."""
        return self.device.download(handle.value)[: handle.rows]

    def _open(
        self,
        data: bytes,
        entry: SegmentEntry,
        constants: Mapping[str, NDArray[Any]],
        settings: SessionSettings,
        logits: list[str],
    ) -> CudaSegment:
        graph = self.device.graph(
            data,
            entry.file.path,
            settings,
            inputs=[spec.name for spec in entry.inputs],
            outputs=[*(spec.name for spec in entry.outputs), *logits],
            constants=constants,
        )
        batch = SteadyBatch() if self._steady and has_convolutions(data) else None
        return CudaSegment(graph, entry, self._uploaded(constants), self._rows, batch)

    def _uploaded(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {name: self.device.upload(np.ascontiguousarray(array)) for name, array in tensors.items()}
