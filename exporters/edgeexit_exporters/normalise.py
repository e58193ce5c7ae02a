"""Bring any ONNX model into the one form that the rest works on.

Functions are inlined, the operator set is 18–20, the batch axis is free, nothing is left of the
workstation that wrote the file, and no node leads nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import inliner, version_converter

from edgeexit.errors import ModelError
from edgeexit_exporters.graph import used_names

__all__ = ["BATCH", "OPSETS", "keep_outputs", "normalise", "raise_opset", "strip_metadata"]

BATCH = "batch"
"""Name of the free axis 0 of every input."""

OPSETS = range(18, 21)
_MAX_IR = 10
_MIN_IR = 8
_ONNX_DOMAINS = ("", "ai.onnx")


def normalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """A normalised copy of `model`.

    Raises:
        ModelError: The graph is invalid, or uses operators outside the supported sets.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy = _inline(copy)
    for entry in copy.opset_import:
        entry.domain = "" if entry.domain in _ONNX_DOMAINS else entry.domain
    copy = _convert_opset(copy)
    strip_metadata(copy)
    _free_batch(copy)
    keep_outputs(copy, [value.name for value in copy.graph.output])
    copy.ir_version = min(max(copy.ir_version, _MIN_IR), _MAX_IR)
    return copy


def keep_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Keep these outputs, in this order, and of nodes and initialisers only what they need."""
    graph = model.graph
    _sort_nodes(graph)
    needed, nodes = set(names), []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            nodes.append(node)
            needed.update(used_names(node))
    nodes.reverse()
    outputs = {value.name: value for value in graph.output}
    kept_outputs = [outputs.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    _replace(graph.output, kept_outputs)
    _replace(graph.node, nodes)
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    initialized = {tensor.name for tensor in graph.initializer}
    _replace(graph.input, [value for value in graph.input if value.name not in initialized])
    del graph.value_info[:]


def raise_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy of a normalised model at another operator set within 18–20."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return _to_opset(copy, opset)


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove stack traces, source lines, doc strings and producer marks, in subgraphs too."""
    del model.metadata_props[:]
    model.doc_string = ""
    model.producer_name, model.producer_version, model.domain = "", "", ""
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    parts = [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in parts:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    graph.name = "graph"
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in [attribute.g, *attribute.graphs]:
                if inner.ByteSize():
                    _strip_graph(inner)


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise ModelError("the model's local functions cannot be inlined", got=error) from error


def _convert_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry for entry in model.opset_import if entry.domain in _ONNX_DOMAINS), None)
    if opset is None:
        raise ModelError("the model imports no ONNX operator set", expected="operators of the domain ai.onnx")
    version = opset.version
    if version in OPSETS:
        return model
    return _to_opset(model, OPSETS.start if version < OPSETS.start else OPSETS.stop - 1)


def _to_opset(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    opset = next(entry for entry in model.opset_import if entry.domain in _ONNX_DOMAINS)
    version = opset.version
    if _same_operators(model.graph, version, target):
        opset.version = target
        return model
    try:
        return version_converter.convert_version(model, target)
    except Exception as error:
        raise ModelError(
            f"the model cannot be brought to ONNX opset {target}",
            got=f"opset {version}: {error}",
            expected=f"opset {OPSETS.start} to {OPSETS.stop - 1}",
            remedy=f"export the model with opset {OPSETS.start}",
        ) from error


def _same_operators(graph: onnx.GraphProto, version: int, target: int) -> bool:
    """Whether every operator means the same in both operator sets."""
    low, high = sorted((version, target))
    for node in graph.node:
        if node.domain not in _ONNX_DOMAINS:
            continue
        try:
            since = onnx.defs.get_schema(node.op_type, high, "").since_version
        except onnx.defs.SchemaError:
            return False
        if since > low:
            return False
        inner = [g for a in node.attribute for g in [a.g, *a.graphs] if g.node]
        if not all(_same_operators(g, version, target) for g in inner):
            return False
    return True


def _free_batch(model: onnx.ModelProto) -> None:
    initialized = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in initialized:
            continue
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape") or not tensor.shape.dim:
            raise ModelError(
                f"input {value.name} of the model has no batch axis",
                got=value.type.WhichOneof("value") or "no type",
                expected="a tensor whose axis 0 is the batch",
                remedy="export the model with a batch axis",
            )
        tensor.shape.dim[0].ClearField("dim_value")
        tensor.shape.dim[0].dim_param = BATCH
    for value in model.graph.output:
        if value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.ClearField("shape")


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Topological order, as near to the file's own as it can be."""
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        rest = []
        for node in waiting:
            if all(name in known for name in used_names(node)):
                ordered.append(node)
                known.update(node.output)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            missing = sorted({name for node in rest for name in used_names(node)} - known)
            raise ModelError(
                "the graph reads tensors that nothing produces, or has a cycle", got=", ".join(missing[:5])
            )
        waiting = rest
    _replace(graph.node, ordered)


def _replace(field: object, values: Sequence[object]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]  # type: ignore[attr-defined]
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]
