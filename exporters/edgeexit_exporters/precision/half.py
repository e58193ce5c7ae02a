"""float16: chosen nodes of a float32 graph compute in half precision, with casts where they meet the others.

A tensor that such a node makes keeps its name and becomes float16; so do boundary tensors, which
halves what crosses a cut. Operators that sum or raise to powers over many values stay in float32,
because their range does not fit, and so do a graph's inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeexit.errors import ModelError
from edgeexit_exporters.graph import Graph
from edgeexit_exporters.probe import TensorInfo

__all__ = ["to_half"]

_WIDE = {
    "CumSum",
    "DequantizeLinear",
    "Exp",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "Pow",
    "QuantizeLinear",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Softmax",
}
_FLOAT, _HALF = "tensor(float)", "tensor(float16)"


def to_half(graph: Graph, infos: Mapping[str, TensorInfo], chosen: Collection[int]) -> onnx.ModelProto:
    """A copy of the graph's model in which the nodes `chosen`, by position, compute in float16.

    Raises:
        ModelError: None of these nodes computes in float32.
    """
    conversion = _Conversion(graph, infos)
    for i, node in enumerate(graph.nodes):
        conversion.add(node, half=i in chosen and graph.is_activation_node(i))
    if not conversion.converted:
        raise ModelError(
            "nothing in the model can be computed in float16",
            expected="layers in float32",
            remedy="leave --precision out: the model's own precision is kept",
        )
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    model.graph.node.extend(conversion.nodes)
    model.graph.initializer.extend(conversion.initializers)
    return model


class _Conversion:
    """The nodes converted so far, and which float32 tensors have become float16."""

    def __init__(self, graph: Graph, infos: Mapping[str, TensorInfo]) -> None:
        self.graph = graph
        self.infos = infos
        self.opset = next(entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx"))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.converted: set[str] = set()
        self._made: set[str] = set()

    def add(self, node: onnx.NodeProto, *, half: bool) -> None:
        """Append a copy of the node, after the casts that it needs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "Cast":  # reads either; makes float16 where it made float32
            if half and self.infos[node.output[0]].dtype == "float32":
                next(a for a in copy.attribute if a.name == "to").i = TensorProto.FLOAT16
                self.converted.add(node.output[0])
            self.nodes.append(copy)
            return
        kinds = self._half_kinds(node) if half else frozenset()
        for i, name in enumerate(node.input):
            if name and self.infos[name].dtype == "float32":
                wants_half = bool(kinds) and _kind(self._schema(node).inputs, i) in kinds
                copy.input[i] = self._read(name, node, half=wants_half)
        self.nodes.append(copy)
        if kinds:
            outputs = self._schema(node).outputs
            made = [n for i, n in enumerate(node.output) if n and _kind(outputs, i) in kinds]
            self.converted.update(name for name in made if self.infos[name].dtype == "float32")

    def _half_kinds(self, node: onnx.NodeProto) -> frozenset[str]:
        """The type variables of the operator that may become float16; empty where the node stays."""
        if node.op_type in _WIDE or node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            return frozenset()
        schema = self._schema(node)
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        found = {
            _kind(schema.inputs, i) for i, name in enumerate(node.input) if name and self.infos[name].dtype == "float32"
        }
        return frozenset(kind for kind in found if {_FLOAT, _HALF} <= allowed.get(kind, set()))

    def _schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema:
        return onnx.defs.get_schema(node.op_type, self.opset, "")

    def _read(self, name: str, node: onnx.NodeProto, *, half: bool) -> str:
        """What to read instead of `name`, made first where it does not exist yet."""
        if half == (name in self.converted):
            return name
        word = "float16" if half else "float32"
        if name in self.graph.initializers:
            return self._constant(name)
        # Names tell which model of a cascade a node belongs to, and inputs belong to all of them.
        new = f"{node.output[0]}.{name}.{word}" if name in self.graph.inputs else f"{name}.{word}"
        if new not in self._made:
            self._made.add(new)
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [name], [new], to=to))
        return new

    def _constant(self, name: str) -> str:
        new = f"{name}.float16"
        if new not in self._made:
            self._made.add(new)
            values = numpy_helper.to_array(self.graph.initializers[name])
            most = float(np.finfo(np.float16).max)
            clipped = np.where(np.isfinite(values), np.clip(values, -most, most), values)
            self.initializers.append(numpy_helper.from_array(clipped.astype(np.float16), new))
        return new


def _kind(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type variable of an operator's input or output; the last one may repeat."""
    return str(formals[min(index, len(formals) - 1)].type_str)
