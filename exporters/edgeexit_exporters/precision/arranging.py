"""Arrange a quantised graph so that it can be cut where 8-bit integers are, and nowhere else is better.

The quantizer writes  maker → t → Quantize → Dequantize → all readers. A cut behind t would take the
rounding away from the maker, a cut behind Dequantize from the readers, and either computes in floating
point what could be integers. Here each reader gets a Dequantize node of its own, and the integers
inherit the name t: whoever cuts after t cuts between Quantize and Dequantize, and 8-bit integers
cross, a quarter of the bytes. Where a reader in floating point would be rounded for no reason, t
stays what it was.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from edgeexit_exporters.graph import Graph

__all__ = ["arrange"]

_Reader = tuple[onnx.NodeProto, int]
"""A node, and which of its inputs."""

_UNROUNDED = {"Gemm", "MatMul"}
"""Operators whose output is left in floating point."""


def arrange(model: onnx.ModelProto, original: Graph, quantised: Collection[int]) -> onnx.ModelProto:
    """A copy of the quantizer's model, arranged. Its nodes are in no order.

    Args:
        model: With nodes named by their position in `original`.
        original: The graph before.
        quantised: Positions of the nodes that were to be quantised.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in copy.graph.node]
    inside = {str(i) for i in quantised}
    rounded = {str(i) for i in quantised if original.nodes[i].op_type not in _UNROUNDED}
    work = _Arrangement(nodes, original, inside, rounded)
    for quantize in [node for node in nodes if node.op_type == "QuantizeLinear"]:
        work.take(quantize)
    del copy.graph.node[:]
    copy.graph.node.extend([*(node for node in nodes if id(node) not in work.removed), *work.added])
    for node in copy.graph.node:
        node.name = ""
    return copy


class _Arrangement:
    """The nodes on the way from the quantizer's form to ours."""

    def __init__(self, nodes: list[onnx.NodeProto], original: Graph, inside: set[str], rounded: set[str]) -> None:
        self.inside = inside
        self.rounded = rounded
        self.inputs = set(original.inputs)
        self.outputs = set(original.outputs)
        self.maker = {name: node for node in nodes for name in node.output}
        self.readers: dict[str, list[_Reader]] = {}
        for node in nodes:
            for i, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, i))
        self.removed: set[int] = set()
        self.added: list[onnx.NodeProto] = []

    def take(self, quantize: onnx.NodeProto) -> None:
        """Arrange what stands around one Quantize node."""
        source, stored = quantize.input[0], quantize.output[0]
        copies = [node for node, _ in self.readers.get(stored, []) if node.op_type == "DequantizeLinear"]
        readers = [reader for node in copies for reader in self.readers.get(node.output[0], [])]
        self.removed.update(id(node) for node in copies)
        if source in self.inputs:
            self._pair_for_each(quantize, readers)
            return
        maker = self.maker[source]
        plain = [] if maker.name in self.rounded else [r for r in readers if r[0].name not in self.inside]
        for reader, at in plain:
            reader.input[at] = source
        others = [reader for reader, _ in self.readers[source] if reader is not quantize]
        name = f"{source}.int8"
        if not (plain or others or source in self.outputs):
            name = source
            maker.output[list(maker.output).index(source)] = quantize.input[0] = f"{source}.float"
        quantize.output[0] = name
        for k, (reader, at) in enumerate(r for r in readers if r not in plain):
            self._dequantise(reader, at, name, f"{source}.dequantised{k}", quantize)

    def _pair_for_each(self, quantize: onnx.NodeProto, readers: list[_Reader]) -> None:
        """A graph's input is quantised for each reader alone: the models of a cascade share it."""
        self.removed.add(id(quantize))
        source = quantize.input[0]
        for reader, at in readers:
            if reader.name not in self.inside:
                reader.input[at] = source
                continue
            name = f"{reader.output[0]}.{source}"
            self.added.append(helper.make_node("QuantizeLinear", list(quantize.input), [f"{name}.int8"]))
            self._dequantise(reader, at, f"{name}.int8", f"{name}.dequantised", quantize)

    def _dequantise(self, reader: onnx.NodeProto, at: int, stored: str, name: str, quantize: onnx.NodeProto) -> None:
        self.added.append(helper.make_node("DequantizeLinear", [stored, *quantize.input[1:]], [name]))
        reader.input[at] = name
