"""A read-only view of an ONNX graph: who makes and who uses each tensor, and what kind it is.

Three kinds of tensor, and only the third ever crosses a cut:

* *constant*: depends on no input of the graph. Each segment that uses one gets its own copy.
* *shape*: depends on the inputs only through their shapes. Each segment that uses one computes it
  again from the tensors that it has (`edgeexit_exporters.split`).
* *activation*: depends on the inputs' values.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from functools import cached_property

import onnx

from edgeexit.errors import ModelError

__all__ = ["Graph", "Kind", "bits", "used_names"]

_SHAPE_OPERATORS = {"Shape", "Size"}
_RANDOM_OPERATORS = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


class Kind(enum.Enum):
    """What a tensor depends on; see the module's first lines."""

    CONSTANT = "constant"
    SHAPE = "shape"
    ACTIVATION = "activation"


def bits(mask: int) -> Iterator[int]:
    """Positions of the bits that are set, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class Graph:
    """An analysed graph. Sets of nodes are integers with one bit a node, in topological order.

    Args:
        model: A normalised model (`edgeexit_exporters.normalise`): no functions, nodes in
            topological order, no node that leads nowhere.

    Raises:
        ModelError: The graph draws random numbers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in model.graph.output]
        self.uses = [tuple(dict.fromkeys(used_names(node))) for node in self.nodes]
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers: dict[str, int] = {}
        for i, names in enumerate(self.uses):
            for name in names:
                self.consumers[name] = self.consumers.get(name, 0) | 1 << i
        self.kind = self._kinds()

    @cached_property
    def ancestors(self) -> list[int]:
        """For each node, the node and all the activation nodes that it needs."""
        masks: list[int] = []
        for i, names in enumerate(self.uses):
            mask = 1 << i if self.is_activation_node(i) else 0
            for name in names:
                if name in self.producer and self.kind[name] is Kind.ACTIVATION:
                    mask |= masks[self.producer[name]]
            masks.append(mask)
        return masks

    @cached_property
    def activations(self) -> list[str]:
        """Activation tensors that nodes produce, in topological order."""
        return [name for node in self.nodes for name in node.output if name and self.kind[name] is Kind.ACTIVATION]

    def is_activation_node(self, index: int) -> bool:
        """Whether the node computes with the inputs' values."""
        return any(self.kind[name] is Kind.ACTIVATION for name in self.nodes[index].output if name)

    def needs(self, names: Iterable[str]) -> int:
        """The activation nodes that tensors depend on, themselves included."""
        mask = 0
        for name in names:
            if name in self.producer:
                mask |= self.ancestors[self.producer[name]]
        return mask

    def live(self, done: int) -> list[str]:
        """Activations known when the nodes `done` have run that the other nodes still use.

        Uses of a tensor's shape alone do not count: shapes are computed again where needed.
        """
        rest = ((1 << len(self.nodes)) - 1) & ~done & self._activation_nodes
        known = [*self.inputs, *(name for i in bits(done) for name in self.nodes[i].output if name)]
        return [name for name in known if self.consumers.get(name, 0) & rest]

    @cached_property
    def _activation_nodes(self) -> int:
        return sum(1 << i for i in range(len(self.nodes)) if self.is_activation_node(i))

    def _kinds(self) -> dict[str, Kind]:
        kinds = dict.fromkeys(self.initializers, Kind.CONSTANT)
        kinds |= dict.fromkeys(self.inputs, Kind.ACTIVATION)
        for node, names in zip(self.nodes, self.uses, strict=True):
            if node.op_type in _RANDOM_OPERATORS:
                raise ModelError(
                    "the model draws random numbers, so it has no one answer to split",
                    got=f"operator {node.op_type}",
                    remedy="export the model in inference mode",
                )
            of = {kinds[name] for name in names if name in kinds}
            if Kind.ACTIVATION in of:
                kind = Kind.SHAPE if node.op_type in _SHAPE_OPERATORS else Kind.ACTIVATION
            else:
                kind = Kind.SHAPE if Kind.SHAPE in of else Kind.CONSTANT
            kinds |= {name: kind for name in node.output if name}
        return kinds


def used_names(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for graph in graphs:
            inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            for inner in graph.node:
                yield from (name for name in used_names(inner) if name not in inside)
                inside.update(inner.output)
            yield from (value.name for value in graph.output if value.name not in inside)
