"""ONNX Runtime on the CPU. Handles are NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.base import SessionSettings, policy_tensors
from edgeexit_runtime.backends.lanes import OnnxRuntimeLane
from edgeexit_runtime.backends.onnx_graph import Graph, describe_shape, trim_heap

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeLane", "OnnxRuntimeSegment", "check_segment"]


class OnnxRuntimeSegment:
    """See `Segment`."""

    def __init__(self, graph: Graph, *, has_logits: bool = True) -> None:
        self.graph = graph
        self.has_logits = has_logits

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[list[NDArray[Any]], NDArray[np.float32]]:
        """See `Segment.run`."""
        outputs = self.graph.run(inputs)
        logits = outputs.pop() if self.has_logits else np.zeros((len(inputs[0]), 0), np.float32)
        return outputs, logits


class OnnxRuntimeBackend:
    """See `Backend`."""

    name = "onnxruntime"

    def open(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> OnnxRuntimeSegment:
        """See `Backend.open`. An entry with empty `logits` is of a graph without a head."""
        graph = Graph(
            data,
            entry.file.path,
            settings,
            inputs=[spec.name for spec in entry.inputs],
            outputs=[*(spec.name for spec in entry.outputs), *([entry.logits] if entry.logits else [])],
            constants=policy_tensors(entry, tensors),
        )
        check_segment(graph, entry)
        return OnnxRuntimeSegment(graph, has_logits=bool(entry.logits))

    def rebound(
        self, segment: OnnxRuntimeSegment, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]
    ) -> OnnxRuntimeSegment:
        """See `Backend.rebound`."""
        changed = segment.graph.with_constants(policy_tensors(entry, tensors))
        return OnnxRuntimeSegment(changed, has_logits=segment.has_logits)

    def lane(
        self,
        segments: Sequence[OnnxRuntimeSegment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
        capacity: int = 1,
    ) -> OnnxRuntimeLane:
        """See `Backend.lane`."""
        trim_heap()  # by now the bundle has been let go
        graphs = [segment.graph for segment in segments]
        return OnnxRuntimeLane(
            graphs, entries, inputs, [classes if entry.logits else None for entry in entries], capacity
        )

    def take(self, handle: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        """See `Backend.take`. Neighbouring rows are not copied."""
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            return handle[first : last + 1]
        return handle.take(rows, axis=0)

    def concat(self, handles: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """See `Backend.concat`. One handle alone is not copied."""
        return handles[0] if len(handles) == 1 else np.concatenate(handles)

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def to_host(self, handle: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return handle


def check_segment(graph: Graph, entry: SegmentEntry) -> None:
    """Hold a segment's graph against the manifest.

    Raises:
        BundleError: A tensor has another dtype or shape than the manifest says, or a fixed batch size.
    """
    for spec in entry.policy_inputs:
        graph.expect(spec.name, spec.dtype, spec.shape)
    for spec in (*entry.inputs, *entry.outputs):
        graph.expect(spec.name, spec.dtype, (None, *spec.shape))
    if entry.logits:
        graph.expect(entry.logits, "float32", (None, None))
    for spec in entry.inputs:
        if graph.tensor(spec.name)[1][0] is not None:
            raise BundleError(
                f"{graph.name}: the input {spec.name} has a fixed batch size",
                got=describe_shape(graph.tensor(spec.name)[1]),
                expected=describe_shape((None, *spec.shape)),
            )
