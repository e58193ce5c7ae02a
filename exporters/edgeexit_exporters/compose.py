"""Several models of one task become one graph: a cascade of models shares nothing but its input."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from edgeexit.errors import ModelError
from edgeexit_exporters.normalise import raise_opset
from edgeexit_exporters.renaming import rename

__all__ = ["compose", "prefix"]


def prefix(index: int) -> str:
    """What the names of the model with this index begin with in the composed graph."""
    return f"model{index}."


def compose(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Merge normalised models, small to large; their inputs become one.

    Raises:
        ModelError: The inputs differ in number, dtype or shape.
    """
    if len(models) == 1:
        return models[0]
    first = models[0].graph.input
    opset = max(entry.version for model in models for entry in model.opset_import if entry.domain == "")
    merged = onnx.ModelProto()
    merged.ir_version = max(model.ir_version for model in models)
    merged.graph.name = "graph"
    merged.graph.input.extend(first)
    domains: dict[str, int] = {}
    for index, original in enumerate(models):
        model = raise_opset(original, opset)
        _check_inputs(first, model.graph.input, index)
        renamed = {theirs.name: ours.name for ours, theirs in zip(first, model.graph.input, strict=True)}
        rename(model.graph, prefix(index), renamed)
        merged.graph.node.extend(model.graph.node)
        merged.graph.initializer.extend(model.graph.initializer)
        merged.graph.output.extend(model.graph.output)
        domains |= {entry.domain: entry.version for entry in model.opset_import}
    merged.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in domains.items())
    return merged


def _check_inputs(ours: Sequence[onnx.ValueInfoProto], theirs: Sequence[onnx.ValueInfoProto], index: int) -> None:
    def describe(values: Sequence[onnx.ValueInfoProto]) -> list[tuple[int, tuple[int, ...]]]:
        kinds = [value.type.tensor_type for value in values]
        return [(kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim[1:])) for kind in kinds]

    if describe(ours) != describe(theirs):
        raise ModelError(
            f"model {index} of the cascade takes other inputs than the first",
            got=describe(theirs),
            expected=describe(ours),
            remedy="give models for the same input",
        )
