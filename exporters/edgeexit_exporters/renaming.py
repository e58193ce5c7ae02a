"""Names of a graph made its own, so that it can be merged with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

__all__ = ["rename"]


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
