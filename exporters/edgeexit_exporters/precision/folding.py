"""Batch normalisation behind a convolution becomes part of it, so that both are rounded once."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgeexit_exporters.graph import Graph

__all__ = ["fold_normalisations"]

_EPSILON = 1e-5


def fold_normalisations(graph: Graph) -> onnx.ModelProto | None:
    """A copy of the graph's model without the normalisations that a convolution can take over.

    That is where the convolution's output goes nowhere else, and every weight is constant.

    Returns:
        The copy; None where there is nothing to fold.
    """
    folded: dict[int, onnx.NodeProto] = {}
    gone: set[int] = set()
    weights: list[onnx.TensorProto] = []
    for i, node in enumerate(graph.nodes):
        at = graph.producer.get(node.input[0], -1) if node.op_type == "BatchNormalization" else -1
        if at < 0 or graph.nodes[at].op_type != "Conv" or node.input[0] in graph.outputs:
            continue
        conv = graph.nodes[at]
        if graph.consumers[conv.output[0]] != 1 << i or not _constant(graph, [*conv.input[1:], *node.input[1:]]):
            continue
        folded[at], made = _joined(graph, conv, node)
        weights += made
        gone.add(i)
    if not folded:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    model.graph.node.extend(folded.get(i, node) for i, node in enumerate(graph.nodes) if i not in gone)
    model.graph.initializer.extend(weights)
    return model


def _constant(graph: Graph, names: list[str]) -> bool:
    return all(name in graph.initializers for name in names if name)


def _joined(graph: Graph, conv: onnx.NodeProto, norm: onnx.NodeProto) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """The convolution that computes both, with its new weights."""

    def values(name: str) -> np.ndarray:
        return numpy_helper.to_array(graph.initializers[name]).astype(np.float64)

    weight = values(conv.input[1])
    bias = values(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else 0.0
    scale, shift, mean, variance = (values(name) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), _EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    output = norm.output[0]
    arrays = {
        f"{output}.weight": weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)),
        f"{output}.bias": (bias - mean) * factor + shift,
    }
    kind = numpy_helper.to_array(graph.initializers[conv.input[1]]).dtype
    copy = onnx.NodeProto()
    copy.CopyFrom(conv)
    del copy.input[1:]
    copy.input.extend(arrays)
    copy.output[0] = output
    return copy, [numpy_helper.from_array(array.astype(kind), name) for name, array in arrays.items()]
