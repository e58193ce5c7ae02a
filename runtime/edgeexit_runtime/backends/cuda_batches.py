"""Batch sizes that change rarely.

Since 1.20 ONNX Runtime's CUDA provider keeps cuDNN's plan of a convolution for the batch size of its last run
alone, and making one anew is reported to take milliseconds (microsoft/onnxruntime, issue 23006; what it is here,
`benchmarks/cuda.py` measures as `shapes`). After an exit the batch size is another one in every batch. So a segment
with convolutions is run on a few rows more than it was given, if that is the batch size of its last run.
"""

from __future__ import annotations

from edgeexit_runtime.protobuf import WireError, contents

__all__ = ["SteadyBatch", "has_convolutions"]

MOST_WASTE = 0.25
PATIENCE_RUNS = 64

_MODEL_GRAPH, _GRAPH_NODE, _NODE_OPERATOR = 7, 1, 4  # field numbers of onnx.proto
CONVOLUTIONS = (b"Conv", b"ConvTranspose")


class SteadyBatch:
    """The batch size to run at. Grows at once, and shrinks when much was wasted for a while.

    It may be shared by threads: whatever they do to each other, no result is smaller than what was asked for.
    """

    def __init__(self) -> None:
        self._size = 0
        self._wasteful_runs = 0
        self._largest = 0

    def fit(self, n: int) -> int:
        """How many rows to run n rows with, at least n.

        The size of the last run, as long as no more than a quarter of it is wasted, or not for
        `PATIENCE_RUNS` runs on end yet. After that the largest of these runs.
        """
        size = self._size
        if n > size or n >= (1 - MOST_WASTE) * size:
            size = max(size, n)
            self._wasteful_runs = self._largest = 0
        else:
            self._wasteful_runs += 1
            self._largest = max(self._largest, n)
            if self._wasteful_runs >= PATIENCE_RUNS:
                size = max(self._largest, n)
                self._wasteful_runs = self._largest = 0
        self._size = size
        return size


def has_convolutions(data: bytes) -> bool:
    """Whether an ONNX model's graph has convolutions. Bytes that cannot be read may have some."""
    try:
        return any(
            bytes(operator) in CONVOLUTIONS
            for graph in contents(data, _MODEL_GRAPH)
            for node in contents(graph, _GRAPH_NODE)
            for operator in contents(node, _NODE_OPERATOR)
        )
    except WireError:
        return True
