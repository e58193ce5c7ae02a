"""Payloads in a graph: what `edgeexit.payload.unpack` does, as nodes in front of a tail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeexit.manifest import TensorSpec
from edgeexit.payload import OFFSET, SCALE, packed_specs
from edgeexit_exporters.normalise import BATCH

__all__ = ["declare", "restored_name"]


def restored_name(spec: TensorSpec, precision: str) -> str:
    """What the tail's own nodes call a boundary tensor that arrives in this precision."""
    return spec.name if packed_specs(spec, precision) == (spec,) else f"restored/{spec.name}"


def declare(graph: onnx.GraphProto, specs: Sequence[TensorSpec], precision: str) -> None:
    """Declare a graph's inputs as they travel, and restore them in front of all other nodes.

    Args:
        graph: Without inputs; its nodes read `restored_name` of each tensor.
        specs: The boundary tensors.
        precision: One of `edgeexit.payload.PRECISIONS`.
    """
    for spec in specs:
        parts = packed_specs(spec, precision)
        graph.input.extend(
            helper.make_tensor_value_info(part.name, _element(part.dtype), [BATCH, *part.shape]) for part in parts
        )
        if len(parts) > 1:
            _dequantise(graph, spec)
        elif parts != (spec,):
            graph.node.append(_cast(spec.name, restored_name(spec, precision), _element(spec.dtype)))


def _dequantise(graph: onnx.GraphProto, spec: TensorSpec) -> None:
    """Value = offset + scale · q, per sample and channel."""
    start = f"restored/{spec.name}"
    factors = []
    for suffix in (SCALE, OFFSET):
        name = spec.name + suffix
        if len(spec.shape) > 1:
            axes = numpy_helper.from_array(np.arange(2, 1 + len(spec.shape), dtype=np.int64), f"{start}{suffix}/axes")
            graph.initializer.append(axes)
            graph.node.append(helper.make_node("Unsqueeze", [name, axes.name], [f"{start}{suffix}"]))
            name = f"{start}{suffix}"
        factors.append(name)
    scale, offset = factors
    graph.node.extend(
        [
            _cast(spec.name, f"{start}/levels", TensorProto.FLOAT),
            helper.make_node("Mul", [f"{start}/levels", scale], [f"{start}/scaled"]),
            helper.make_node("Add", [f"{start}/scaled", offset], [f"{start}/values"]),
            _cast(f"{start}/values", start, _element(spec.dtype)),
        ]
    )


def _cast(source: str, made: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [made], to=element)


def _element(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
