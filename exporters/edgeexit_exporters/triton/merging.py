"""Merging: the segments of a tail as one graph, from the boundary tensors to the logits of all its exits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, ModelError
from edgeexit.manifest import LAYOUT_HINT, SegmentEntry
from edgeexit.tails import boundary
from edgeexit_exporters.normalise import BATCH
from edgeexit_exporters.renaming import rename
from edgeexit_exporters.triton.payload import declare, restored_name

__all__ = ["LOGITS", "merged_tail"]

LOGITS = "logits"
"""The output of a merged tail, float32 (n, E, C): of its E exits, in order."""


def merged_tail(bundle: Bundle, k: int, precision: str = "fp32") -> onnx.ModelProto:
    """Segments k to the last as one graph.

    Its inputs are the boundary tensors in front of segment k as they travel. Class means and other
    policy tensors are constants. Nobody leaves in it: whoever asks applies the policy to the logits.

    Args:
        bundle: The bundle.
        k: 0 to E − 1; 0 gives the whole cascade.
        precision: What boundary tensors of floating point are sent in; see `edgeexit.payload`. The model's own
            inputs are never rounded.

    Raises:
        BundleError: A segment is not an ONNX graph.
        ModelError: Segments have different operator sets, or an input is called as the output is.
    """
    entries = bundle.manifest.segments
    taken, precision = boundary(bundle.manifest, k), precision if k else "fp32"
    if LOGITS in [spec.name for spec in taken]:
        raise ModelError(f"a tensor in front of segment {k} is called {LOGITS}, which is the output's name")
    crossing = {spec.name for entry in entries[k:] for spec in (*entry.inputs, *entry.outputs)}
    fixed = {name: f"boundary/{name}" for name in crossing} | {
        spec.name: restored_name(spec, precision) for spec in taken
    }
    made = {spec.name for entry in entries[k:] for spec in entry.outputs}
    models = [_loaded(bundle, j, made) for j in range(k, len(entries))]
    opsets = _opsets(models)
    graph = onnx.GraphProto(name="tail")
    declare(graph, taken, precision)
    outputs = []
    for j, model in enumerate(models, k):
        constants = {spec.name: f"policy/{spec.name}" for spec in entries[j].policy_inputs}
        rename(model.graph, f"segment{j}/", {**constants, **fixed})
        graph.node.extend(model.graph.node)
        graph.initializer.extend(model.graph.initializer)
        graph.sparse_initializer.extend(model.graph.sparse_initializer)
        graph.initializer.extend(_constants(bundle, entries[j], constants))
        outputs.append(fixed.get(entries[j].logits, f"segment{j}/{entries[j].logits}"))
    _stack(graph, outputs, len(bundle.manifest.labels))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=max(model.ir_version for model in models),
        functions={(f.domain, f.name): f for model in models for f in model.functions}.values(),
        producer_name="edgeexit",
    )


def _loaded(bundle: Bundle, j: int, made: Iterable[str]) -> onnx.ModelProto:
    """A segment's graph. Hints for tensors that now stay inside the graph are left out: they serve cuts alone."""
    path = bundle.manifest.segments[j].file.path
    try:
        model = onnx.load_model_from_string(bundle.segment(j))
    except Exception as error:  # protobuf's DecodeError and whatever else a parser throws
        raise BundleError(f"{path} is not an ONNX graph", got=type(error).__name__) from error
    inside = set(made)
    hints = [n for n in model.graph.node if n.name.startswith(LAYOUT_HINT) and n.input[0] in inside]
    sources = {node.output[0]: node.input[0] for node in hints}
    for node in hints:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [sources.get(name, name) for name in node.input]
    return model


def _opsets(models: Iterable[onnx.ModelProto]) -> dict[str, int]:
    found: dict[str, int] = {}
    for model in models:
        for entry in model.opset_import:
            if found.setdefault(entry.domain, entry.version) != entry.version:
                raise ModelError(
                    "the segments have different operator sets",
                    got=f"version {entry.version} of {entry.domain or 'ai.onnx'}",
                    expected=f"version {found[entry.domain]}, as an earlier segment has",
                )
    return found


def _constants(bundle: Bundle, entry: SegmentEntry, names: Mapping[str, str]) -> list[onnx.TensorProto]:
    tensors = {spec.name: bundle.exits[spec.name] for spec in entry.policy_inputs}
    return [numpy_helper.from_array(np.ascontiguousarray(array), names[name]) for name, array in tensors.items()]


def _stack(graph: onnx.GraphProto, logits: list[str], classes: int) -> None:
    """The exits' logits (n, C), each, to (n, E, C)."""
    axis = numpy_helper.from_array(np.array([1], np.int64), "exits/axis")
    graph.initializer.append(axis)
    rows = [f"exits/{number}" for number in range(len(logits))]
    graph.node.extend(
        helper.make_node("Unsqueeze", [name, axis.name], [row]) for name, row in zip(logits, rows, strict=True)
    )
    graph.node.append(helper.make_node("Concat", rows, [LOGITS], axis=1))
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, len(logits), classes]))
