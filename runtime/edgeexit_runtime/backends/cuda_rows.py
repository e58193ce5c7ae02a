"""Rows of tensors on a device, chosen and joined there: a graph of one `Gather`, run on device memory.

The graph is written byte by byte, since the device side has no onnx. It sees every tensor as a table, a row a
sample, so one session an element type will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends.base import SessionSettings
from edgeexit_runtime.backends.cuda_device import Device
from edgeexit_runtime.backends.onnx_graph import ONNX_TYPES, Graph
from edgeexit_runtime.backends.ort_errors import running_error
from edgeexit_runtime.protobuf import length_delimited, number

__all__ = ["Rows", "gather_graph"]

NAME = "the choice of rows"
IR_VERSION = 8
OPSET = 13
INT64 = 7  # of onnx.TensorProto

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8  # field numbers of onnx.proto
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR = 1, 2, 4
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIMENSION, _DIMENSION_NAME = 1, 2
_OPSET_VERSION = 2


class Rows:
    """Chooses and joins rows (axis 0) of tensors on a device. One session an element type, opened when first needed.

    A run waits for its end: the next session has a stream of its own, and could begin before.

    Args:
        device: Where.

    Attributes:
        device: As given.

    Raises:
        BackendError: The device does not run anything.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._graphs: dict[int, Graph] = {}
        self._graph(1)  # float32: also shows early whether anything can be opened here

    def gather(self, value: Any, rows: NDArray[np.integer[Any]]) -> Any:
        """The rows at `rows`, (m,), as memory of their own. A row may be taken more than once.

        Raises:
            BackendError: The device failed.
        """
        return self.joined([(value, rows)])

    def joined(self, parts: Sequence[tuple[Any, NDArray[np.integer[Any]]]]) -> Any:
        """The rows chosen out of each of several tensors, one behind the other.

        Args:
            parts: Tensors of one dtype that differ in length alone, with the rows to take, (m,) each.

        Raises:
            BackendError: The device failed.
        """
        first = parts[0][0]
        shape, graph = first.shape()[1:], self._graph(first.element_type())
        dtype = np.dtype(ONNX_TYPES[first.data_type()[len("tensor(") : -1]])
        result = self.device.empty([sum(len(rows) for _, rows in parts), *shape], dtype.name)
        width, address = math.prod(shape), result.data_ptr()
        for value, rows in parts:
            self._run(graph, value, rows, (dtype.type, width), address)
            address += len(rows) * width * dtype.itemsize
        return result

    def _run(
        self, graph: Graph, value: Any, rows: NDArray[np.integer[Any]], row: tuple[type[Any], int], address: int
    ) -> None:
        """Write rows of a tensor to an address; `row` is a row's dtype and length."""
        (dtype, width), device = row, (self.device.kind, self.device.index)
        indices = self.device.upload(np.ascontiguousarray(rows, dtype=np.int64))
        try:
            binding = graph.session.io_binding()
            binding.bind_input("tensor", *device, dtype, [value.shape()[0], width], value.data_ptr())
            binding.bind_ortvalue_input("rows", indices)
            binding.bind_output("chosen", *device, dtype, [len(rows), width], address)
            graph.session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions have no common base below Exception
            raise running_error(NAME, error) from error

    def _graph(self, element: int) -> Graph:
        graph = self._graphs.get(element)
        if graph is None:
            graph = self._graphs[element] = self.device.graph(gather_graph(element), NAME, SessionSettings())
        return graph


def gather_graph(element: int) -> bytes:
    """An ONNX model: tensor (n, w), rows (m,) int64 → chosen (m, w).

    Args:
        element: The tensor's element type, as `onnx.TensorProto` numbers them.
    """
    node = b"".join(
        (
            length_delimited(_NODE_INPUT, b"tensor"),
            length_delimited(_NODE_INPUT, b"rows"),
            length_delimited(_NODE_OUTPUT, b"chosen"),
            length_delimited(_NODE_OPERATOR, b"Gather"),
        )
    )
    graph = b"".join(
        (
            length_delimited(_GRAPH_NODE, node),
            length_delimited(_GRAPH_NAME, b"rows"),
            length_delimited(_GRAPH_INPUT, _value(b"tensor", element, b"n", b"w")),
            length_delimited(_GRAPH_INPUT, _value(b"rows", INT64, b"m")),
            length_delimited(_GRAPH_OUTPUT, _value(b"chosen", element, b"m", b"w")),
        )
    )
    opset = number(_OPSET_VERSION, OPSET)
    return b"".join(
        (
            number(_MODEL_IR_VERSION, IR_VERSION),
            length_delimited(_MODEL_GRAPH, graph),
            length_delimited(_MODEL_OPSET, opset),
        )
    )


def _value(name: bytes, element: int, *lengths: bytes) -> bytes:
    """A ValueInfoProto of a shape whose lengths are open, and named."""
    shape = b"".join(length_delimited(_SHAPE_DIMENSION, length_delimited(_DIMENSION_NAME, n)) for n in lengths)
    tensor = number(_TENSOR_ELEMENT, element) + length_delimited(_TENSOR_SHAPE, shape)
    kind = length_delimited(_TYPE_TENSOR, tensor)
    return length_delimited(_VALUE_NAME, name) + length_delimited(_VALUE_TYPE, kind)
