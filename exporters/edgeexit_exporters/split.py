"""Split a graph into segments whose chain is the whole graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeexit.errors import ModelError
from edgeexit_exporters.graph import Graph, Kind, bits
from edgeexit_exporters.layout import with_layout_hints
from edgeexit_exporters.normalise import BATCH
from edgeexit_exporters.probe import TensorInfo

__all__ = ["ExitPoint", "HeadNodes", "Segment", "split", "tensor_type"]


@dataclass(frozen=True)
class HeadNodes:
    """The nodes of an exit head, ready to be put behind a segment.

    Attributes:
        nodes: In topological order; they read `reads`, the policy tensors and the initialisers.
        reads: The activations that the head needs.
        policy: Tensors that become inputs of the graph, by name.
        initializers: Constants of the head's arithmetic, and what a trained body learned.
        logits: The output, float32 of shape (batch, classes).
        macs: MACs of one sample.
        body_params: Elements among `initializers` that were learned.
        features: The tensor, float32 of shape (batch, feature_length), from which `policy` gives the logits;
            None for logits that the model brings.
        feature_length: D, its length.
        statistics: What `policy` can be continued from, if anything; see `HeadStatistics.stored`.
    """

    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    logits: str
    policy: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    initializers: tuple[onnx.TensorProto, ...] = ()
    macs: int = 0
    body_params: int = 0
    features: str | None = None
    feature_length: int = 0
    statistics: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Elements of the policy tensors, and of a trained body."""
        return sum(tensor.size for tensor in self.policy.values()) + self.body_params


@dataclass(frozen=True)
class ExitPoint:
    """An exit: it answers when the nodes `done` have run."""

    name: str
    done: int
    head: HeadNodes


@dataclass(frozen=True)
class Segment:
    """A segment's graph and the names of what goes in and out.

    `inputs` and `outputs` are activations; policy inputs and logits are those of `exit.head`.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    exit: ExitPoint


def split(graph: Graph, infos: Mapping[str, TensorInfo], exits: Sequence[ExitPoint], classes: int) -> list[Segment]:
    """One segment for each exit, in the order given.

    Segment k computes what exit k needs and no earlier segment computed. Constants and shape
    arithmetic are repeated in every segment that uses them; a shape of a tensor that is not there
    any more is worked out from the batch size of one that is.

    Args:
        graph: The whole graph.
        infos: What `probe` measured.
        exits: The last one needs every node.
        classes: Number of classes C.

    Raises:
        ModelError: A shape depends on the batch in a way that cannot be worked out again.
    """
    done, parts = 0, []
    for point in exits:
        nodes = (point.done | graph.needs(point.head.reads)) & ~done
        done |= nodes
        parts.append((point, nodes))
    reads = [_reads(graph, nodes, point) for point, nodes in parts]
    segments = []
    for k, (point, nodes) in enumerate(parts):
        later = {name for names in reads[k + 1 :] for name in names}
        made = [name for i in bits(nodes) for name in graph.nodes[i].output]
        outputs = tuple(name for name in made if name in later)
        model = _segment_model(graph, infos, nodes, reads[k], outputs, point.head, classes)
        segments.append(Segment(model, reads[k], outputs, nodes, point))
    return segments


def tensor_type(name: str, info: TensorInfo) -> onnx.ValueInfoProto:
    """The declaration of a batched activation."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype))
    return helper.make_tensor_value_info(name, kind, [BATCH, *info.shape])


def _reads(graph: Graph, nodes: int, point: ExitPoint) -> tuple[str, ...]:
    """Activations that a segment takes from outside, in a stable order."""
    made = {name for i in bits(nodes) for name in graph.nodes[i].output}
    used = [name for i in bits(nodes) for name in graph.uses[i] if graph.kind[name] is Kind.ACTIVATION]
    names = [name for name in dict.fromkeys([*used, *point.head.reads]) if name not in made]
    if not names:
        # Everything the segment computes follows from shapes alone: an input gives it the batch size.
        names = graph.inputs[:1]
    return tuple(names)


def _segment_model(
    graph: Graph,
    infos: Mapping[str, TensorInfo],
    nodes: int,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    head: HeadNodes,
    classes: int,
) -> onnx.ModelProto:
    available = {*inputs, *(name for i in bits(nodes) for name in graph.nodes[i].output)}
    wanted = [name for i in bits(nodes) for name in graph.uses[i]]
    free, constants = _free_nodes(graph, wanted, available)
    kept = []
    rebuilt: list[onnx.NodeProto] = []
    for i in bits(nodes | free):
        node = graph.nodes[i]
        is_root = graph.kind[node.output[0]] is Kind.SHAPE and graph.kind[graph.uses[i][0]] is Kind.ACTIVATION
        if is_root and node.op_type in ("Shape", "Size") and node.input[0] not in available:
            rebuilt += _rebuild_shape(node, infos, inputs)
        else:
            kept.append(node)
    policy = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(t.shape)) for n, t in head.policy.items()]
    body = helper.make_graph(
        with_layout_hints([*rebuilt, *kept, *head.nodes], inputs, infos),
        "segment",
        [*(tensor_type(name, infos[name]) for name in inputs), *policy],
        [
            *(tensor_type(name, infos[name]) for name in outputs),
            helper.make_tensor_value_info(head.logits, TensorProto.FLOAT, [BATCH, classes]),
        ],
        [*(graph.initializers[name] for name in constants), *head.initializers],
    )
    model = helper.make_model(body, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)
    model.producer_name = ""
    return model


def _free_nodes(graph: Graph, wanted: Iterable[str], available: set[str]) -> tuple[int, list[str]]:
    """Constant and shape nodes that these names need, and the initialisers used."""
    mask, constants, stack = 0, dict[str, None](), list(wanted)
    while stack:
        name = stack.pop()
        if name in graph.initializers:
            constants[name] = None
        elif name not in available and name in graph.producer and graph.kind[name] is not Kind.ACTIVATION:
            i = graph.producer[name]
            if not mask >> i & 1:
                mask |= 1 << i
                stack += graph.uses[i]
    return mask, sorted(constants)


def _rebuild_shape(
    node: onnx.NodeProto, infos: Mapping[str, TensorInfo], inputs: tuple[str, ...]
) -> list[onnx.NodeProto]:
    """Nodes that compute Shape or Size of a tensor that is gone, from the batch size of the first input."""
    axes = infos[node.input[0]].axes
    output = node.output[0]
    if node.op_type == "Size":
        fixed = int(np.prod([axis.fixed for axis in axes if not axis.per_sample], dtype=np.int64))
        moving = [axis for axis in axes if axis.per_sample]
        if len(moving) > 1 or any(axis.fixed for axis in moving):
            raise ModelError(f"the number of elements of {node.input[0]} cannot be worked out from the batch size")
        factors = [fixed * moving[0].per_sample if moving else 0]
        terms = [0 if moving else fixed]
    else:
        start = next((a.i for a in node.attribute if a.name == "start"), 0)
        end = next((a.i for a in node.attribute if a.name == "end"), len(axes))
        factors = [axis.per_sample for axis in axes[start:end]]
        terms = [axis.fixed for axis in axes[start:end]]
    anchor = next((name for name in inputs if infos[name].batched), None)
    if anchor is None:
        raise ModelError("a segment has no input whose axis 0 is the batch", got=", ".join(inputs))

    def constant(name: str, values: list[int]) -> onnx.NodeProto:
        array = np.asarray(values, dtype=np.int64)
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))

    batch, factor, term, scaled = (f"{output}.{word}" for word in ("batch", "factor", "term", "scaled"))
    whole = f"{output}.vector" if node.op_type == "Size" else output
    nodes = [
        helper.make_node("Shape", [anchor], [batch], start=0, end=1),
        constant(factor, factors),
        constant(term, terms),
        helper.make_node("Mul", [batch, factor], [scaled]),
        helper.make_node("Add", [scaled, term], [whole]),
    ]
    if node.op_type == "Size":
        nodes.append(helper.make_node("Squeeze", [whole], [output]))
    return nodes
