"""The precision that a graph computes in, read from the graph itself."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from edgeexit_exporters.precision.plan import Precision

__all__ = ["stored_precision"]


def stored_precision(model: onnx.ModelProto) -> Precision:
    """int8 where weights are stored as 8-bit integers, else fp16 where any are float16, else fp32."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer if tensor.dims}
    quantised = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    if any(kinds.get(name) in (TensorProto.INT8, TensorProto.UINT8) for name in quantised):
        return "int8"
    declared = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    return "fp16" if TensorProto.FLOAT16 in (*kinds.values(), *declared) else "fp32"
