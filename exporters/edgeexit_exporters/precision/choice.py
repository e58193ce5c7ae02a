"""Which nodes of a graph are worth computing in 8-bit integers."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.graph import bits

__all__ = ["quantisable"]

_LAYERS = {"Conv": 1, "Gemm": 1, "MatMul": 1}
"""Operators with weights, and which input these are."""

_ON_MAPS = {
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Squeeze",
    "Transpose",
}


def quantisable(analysis: Analysis, chosen: Collection[int]) -> list[int]:
    """Positions of the nodes among `chosen` that are quantised.

    Convolutions and matrix products with constant weights, and what works on the maps between
    convolutions: it would otherwise go back and forth between integers and floating point. A
    convolution that makes logits stays in float32, because its output would be rounded to 8 bits;
    the output of a matrix product is not rounded.
    """
    graph, infos = analysis.graph, analysis.infos
    behind = _with_layer_behind(analysis)
    maps: set[str] = set()
    found = []
    for i, node in enumerate(graph.nodes):
        if not graph.is_activation_node(i) or node.domain not in ("", "ai.onnx"):
            continue
        output = infos[node.output[0]]
        if output.dtype != "float32":
            continue
        weights = _LAYERS.get(node.op_type)
        if weights is not None:
            constant = node.input[weights] in graph.initializers
            is_logits = node.op_type == "Conv" and i not in behind and prod(output.shape) == analysis.classes
            if node.op_type == "Conv":
                maps.add(node.output[0])
            if i in chosen and constant and not is_logits:
                found.append(i)
        elif node.op_type in _ON_MAPS and i in behind:
            activations = [name for name in node.input if name in graph.producer and len(infos[name].axes) > 1]
            if activations and all(name in maps for name in activations) and output.batched:
                if len(output.axes) == len(infos[activations[0]].axes):
                    maps.update(node.output)
                if i in chosen:
                    found.append(i)
    return found if any(graph.nodes[i].op_type in _LAYERS for i in found) else []


def _with_layer_behind(analysis: Analysis) -> set[int]:
    """Nodes on whose output a layer with weights depends."""
    graph = analysis.graph
    found: set[int] = set()
    for i, node in enumerate(graph.nodes):
        if node.op_type in _LAYERS and graph.is_activation_node(i):
            found.update(j for j in bits(graph.ancestors[i]) if j != i)
    return found
