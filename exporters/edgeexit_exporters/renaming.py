"""Other names in a graph: its own, so that it can be merged with others, and better ones for its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from edgeexit_exporters.graph import Graph

__all__ = ["name_outputs", "rename"]


def rename(graph: onnx.GraphProto, start: str, fixed: Mapping[str, str]) -> None:
    """Prefix every name in a graph and its subgraphs, but for those in `fixed`, which become what stands there.

    The empty name stands for "left out", and stays.
    """

    def new(name: str) -> str:
        return fixed.get(name, start + name) if name else ""

    def all_new(names: Sequence[str]) -> list[str]:
        return [new(name) for name in names]

    for node in graph.node:
        node.input[:], node.output[:] = all_new(node.input), all_new(node.output)
        node.name = start + node.name if node.name else ""
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.ByteSize():
                    rename(inner, start, fixed)
    for part in (graph.initializer, graph.input, graph.output, graph.value_info):
        for entry in part:
            entry.name = new(entry.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)


def name_outputs(model: onnx.ModelProto, names: object) -> None:
    """Call the outputs of a normalised model, where there are several, by the names that its source has for them.

    Args:
        model: Changed in place.
        names: Distinct strings, as many as outputs, none of them taken by another tensor. With anything else the
            outputs keep their names: an attribute of some user's module may mean something else.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        return
    graph = Graph(model)
    outputs = graph.outputs
    taken = {*graph.inputs, *graph.initializers, *graph.producer} - set(outputs)
    fitting = all(isinstance(name, str) and name and name not in taken for name in names)
    if fitting and len(outputs) > 1 and len(set(outputs)) == len(set(names)) == len(names) == len(outputs):
        rename(model.graph, "", dict(zip(outputs, names, strict=True)))
