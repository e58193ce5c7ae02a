"""Multiply-accumulates and parameters.

Convention: one MAC is one multiplication with its addition, in convolutions, matrix products and
recurrent cells, for one sample. Everything else (normalisation, activation functions, pooling,
biases, data movement) counts zero, as in the tables of the papers: ResNet-18 has 1.81 GMACs at 224².
Work that depends on no input is done once, when a model is loaded, and counts zero too.
Parameters are the elements of floating-point and quantised initialisers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx

from edgeexit_exporters.graph import Graph
from edgeexit_exporters.probe import PROBE_BATCHES, TensorInfo

__all__ = ["count_macs", "count_params"]

Shape = tuple[int, ...]
Counter = Callable[[onnx.NodeProto, list[Shape], Shape], int]

_SCALARS = 1


def count_macs(graph: Graph, infos: Mapping[str, TensorInfo]) -> list[int]:
    """MACs of every node for one sample, in the graph's order."""
    low, high = PROBE_BATCHES
    counts = []
    for i, node in enumerate(graph.nodes):
        counter = _COUNTERS.get(node.op_type)
        if counter is None or not graph.is_activation_node(i):
            counts.append(0)
            continue
        totals = []
        for batch in (low, high):
            inputs = [infos[name].at(batch) if name else () for name in node.input]
            totals.append(counter(node, inputs, infos[node.output[0]].at(batch)))
        counts.append(max(0, (totals[1] - totals[0]) // (high - low)))
    return counts


def count_params(graph: Graph) -> int:
    """Elements of the initialisers that hold weights; scalars and integer shape constants left out.

    Of quantised weights and biases the integers count, their scales and zero points don't.
    """
    rounding = [node for node in graph.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in rounding for name in node.input[1:]}
    values = {node.input[0] for node in rounding}
    return sum(_weights(t, name in values) for name, t in graph.initializers.items() if name not in scales)


def _weights(tensor: onnx.TensorProto, is_dequantised: bool) -> int:
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    is_weight = np.issubdtype(kind, np.floating) or kind in (np.int8, np.uint8) or kind.name == "bfloat16"
    is_weight = is_weight or is_dequantised
    size = prod(tensor.dims)
    return size if is_weight and size > _SCALARS else 0


def _convolution(weight_at: int) -> Counter:
    def count(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
        weight = inputs[weight_at]  # (out, in / groups, kernel…)
        return prod(output) * prod(weight[1:])

    return count


def _transposed_convolution(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return prod(inputs[0]) * prod(inputs[1][1:])  # weight (in, out / groups, kernel…)


def _matmul(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return prod(output) * inputs[0][-1]


def _gemm(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return prod(output) * inputs[0][0 if transposed else 1]


def _einsum(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    lengths: dict[str, int] = {}
    for term, shape in zip(equation.split("->")[0].split(","), inputs, strict=False):
        if "." in term:
            return prod(output)
        lengths |= dict(zip(term, shape, strict=True))
    return prod(lengths.values()) if len(inputs) > 1 else 0


def _recurrent(gates: int) -> Counter:
    def count(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
        sequence, batch = inputs[0][:2]
        directions, _, features = inputs[1]
        hidden = inputs[2][-1]
        return sequence * batch * directions * gates * hidden * (features + hidden)

    return count


_COUNTERS: dict[str, Counter] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "DeformConv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "Einsum": _einsum,
    "RNN": _recurrent(1),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4),
}
