"""An ONNX graph as a torch module: straight-line code, one call of a torch function for each operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx

from edgeexit.errors import ModelError
from edgeexit.manifest import LAYOUT_HINT
from edgeexit_exporters.rivals.operators import OPERATORS, Node, untranslatable

__all__ = ["translate"]

_DOMAINS = ("", "ai.onnx")


def translate(
    model: onnx.ModelProto,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor] | None = None,
) -> fx.GraphModule:
    """Write a graph in torch. Whatever depends on constants alone is worked out now.

    Nothing of the graph but numbers gets into the code that is generated: names in it are torch's own.

    Args:
        model: The graph. Nodes that only hint at a layout are left out.
        examples: A value for each input, in the order in which the module takes them; they tell how many
            axes a tensor has.
        outputs: What the module returns, a tuple.
        constants: Inputs of the graph that are bound once.

    Returns:
        A module without parameters that require gradients.

    Raises:
        ModelError: An operator has no equivalent here, or torch cannot do what it asks for.
    """
    root = torch.nn.Module()
    graph = fx.Graph()
    tracer = _Tracer(graph, root)
    known: dict[str, Tensor | None] = {"": None}
    known |= {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}
    known |= constants or {}
    recorded: dict[str, Any] = dict(known)
    for i, (name, example) in enumerate(examples.items()):
        known[name] = example
        recorded[name] = fx.Proxy(graph.placeholder(f"input_{i}"), tracer)
    with torch.no_grad():
        for node in model.graph.node:
            _step(node, known, recorded)
    graph.output(tuple(tracer.create_arg(recorded[name]) for name in outputs))
    graph.lint()
    module = fx.GraphModule(root, graph, class_name="Segment")
    graph.eliminate_dead_code()
    module.recompile()
    return module.eval()


class _Tracer(fx.proxy.GraphAppendingTracer):
    """Records calls; a tensor that is used in one becomes a buffer of the module."""

    def __init__(self, graph: fx.Graph, root: torch.nn.Module) -> None:
        super().__init__(graph)
        self._root = root
        self._buffers: dict[int, tuple[Tensor, str]] = {}

    def create_arg(self, a: Any) -> Any:
        """See `torch.fx.Tracer`."""
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        if id(a) not in self._buffers:
            name = f"tensor_{len(self._buffers)}"
            self._root.register_buffer(name, a)
            self._buffers[id(a)] = (a, name)  # the tensor is kept, so that its id stays its own
        return self.graph.get_attr(self._buffers[id(a)][1])


def _step(proto: onnx.NodeProto, known: dict[str, Tensor | None], recorded: dict[str, Any]) -> None:
    """Translate one node: run it on the examples, and record it where it depends on an input."""
    if proto.name.startswith(LAYOUT_HINT):
        known[proto.output[0]], recorded[proto.output[0]] = known[proto.input[0]], recorded[proto.input[0]]
        return
    operator = OPERATORS.get(proto.op_type) if proto.domain in _DOMAINS else None
    if operator is None:
        raise untranslatable(proto.op_type if proto.domain in _DOMAINS else f"{proto.domain}.{proto.op_type}")
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    examples = tuple(known[name] for name in proto.input)
    names = [name for name in proto.output if name]
    node = Node(proto.op_type, attributes, examples, len(names))
    try:
        values = _parts(node, operator(node, *examples))
        arguments = [recorded[name] for name in proto.input]
        depends = any(isinstance(argument, fx.Proxy) for argument in arguments)
        steps = _parts(node, operator(node, *arguments)) if depends else values
    except ModelError:
        raise
    except Exception as error:  # torch raises a dozen types for what it cannot do
        raise ModelError(
            f"no torch equivalent of this {proto.op_type}", got=f"{type(error).__name__}: {error}".splitlines()[0]
        ) from error
    known.update(zip(names, values, strict=True))
    recorded.update(zip(names, steps, strict=True))


def _parts(node: Node, result: Any) -> list[Any]:
    """One value per output; None for what only training uses, such as Dropout's mask."""
    if node.type == "Split":
        return [result[i] for i in range(node.outputs)]
    return [result, *[None] * (node.outputs - 1)]
