"""ONNX Runtime on the CPU. Handles are NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.base import SessionSettings, policy_tensors
from edgeexit_runtime.backends.onnx_graph import Graph, describe_shape, trim_heap

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeLane", "OnnxRuntimeSegment"]


class OnnxRuntimeSegment:
    """See `Segment`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[list[NDArray[Any]], NDArray[np.float32]]:
        """See `Segment.run`."""
        outputs = self.graph.run(inputs)
        logits = outputs.pop()
        return outputs, logits


class OnnxRuntimeLane:
    """See `Lane`. All arrays are made once, and every graph is bound to them.

    Args:
        graphs: One per segment.
        entries: The segments' entries; their outputs are the boundary tensors.
        inputs: The model's inputs.
        classes: Per segment the number of classes, or None where the graph gives no logits.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: Sequence[int | None],
    ) -> None:
        specs = (*inputs, *(spec for entry in entries for spec in entry.outputs))
        arrays = {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in specs}
        self._inputs = [arrays[spec.name] for spec in inputs]
        self._logits = [np.zeros((1, count or 0), np.float32) for count in classes]
        self._runs = [
            graph.bound(arrays if count is None else {**arrays, entry.logits: logits})
            for graph, entry, count, logits in zip(graphs, entries, classes, self._logits, strict=True)
        ]

    def start(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See `Lane.start`."""
        for kept, array in zip(self._inputs, arrays, strict=True):
            kept[...] = array

    def run(self, index: int) -> NDArray[np.float32]:
        """See `Lane.run`."""
        self._runs[index]()
        return self._logits[index]


class OnnxRuntimeBackend:
    """See `Backend`."""

    name = "onnxruntime"

    def open(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> OnnxRuntimeSegment:
        """See `Backend.open`."""
        graph = Graph(
            data,
            entry.file.path,
            settings,
            inputs=[spec.name for spec in entry.inputs],
            outputs=[*(spec.name for spec in entry.outputs), entry.logits],
            constants=policy_tensors(entry, tensors),
        )
        _check_segment(graph, entry)
        return OnnxRuntimeSegment(graph)

    def rebound(
        self, segment: OnnxRuntimeSegment, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]
    ) -> OnnxRuntimeSegment:
        """See `Backend.rebound`."""
        return OnnxRuntimeSegment(segment.graph.with_constants(policy_tensors(entry, tensors)))

    def lane(
        self,
        segments: Sequence[OnnxRuntimeSegment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
    ) -> OnnxRuntimeLane:
        """See `Backend.lane`."""
        trim_heap()  # by now the bundle has been let go
        return OnnxRuntimeLane([segment.graph for segment in segments], entries, inputs, [classes] * len(entries))

    def take(self, handle: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        """See `Backend.take`. Neighbouring rows are not copied."""
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            return handle[first : last + 1]
        return handle.take(rows, axis=0)

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def to_host(self, handle: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return handle


def _check_segment(graph: Graph, entry: SegmentEntry) -> None:
    """Hold the graph against the manifest."""
    for spec in entry.policy_inputs:
        graph.expect(spec.name, spec.dtype, spec.shape)
    for spec in (*entry.inputs, *entry.outputs):
        graph.expect(spec.name, spec.dtype, (None, *spec.shape))
    graph.expect(entry.logits, "float32", (None, None))
    for spec in entry.inputs:
        if graph.tensor(spec.name)[1][0] is not None:
            raise BundleError(
                f"{graph.name}: the input {spec.name} has a fixed batch size",
                got=describe_shape(graph.tensor(spec.name)[1]),
                expected=describe_shape((None, *spec.shape)),
            )
