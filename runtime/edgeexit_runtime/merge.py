"""Graphs without heads, made from the segments where onnx is installed.

A device needs none of this. `bench` and `eval` do, to compare the cascade with the model as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeexit.errors import BundleError, MissingPartError
from edgeexit.manifest import LAYOUT_HINT, SegmentEntry

if TYPE_CHECKING:
    import onnx

__all__ = ["Merged", "onnx_is_here", "whole_model", "without_head"]


class Merged(NamedTuple):
    """A graph and what is left of its policy inputs."""

    data: bytes
    policy_inputs: frozenset[str]


def onnx_is_here() -> bool:
    """Whether graphs can be edited on this machine."""
    try:
        import onnx  # noqa: F401  (asking is importing: a broken install counts as none)
    except ImportError:
        return False
    return True


def without_head(data: bytes, entry: SegmentEntry) -> Merged:
    """A segment's backbone: its graph without what only the exit's logits need.

    Raises:
        MissingPartError: onnx is not installed.
        BundleError: The graph cannot be read.
    """
    graph = _load(data, entry.file.path)
    return _pruned(graph, [spec.name for spec in entry.outputs], {spec.name for spec in entry.policy_inputs})


def whole_model(segments: Sequence[bytes], entries: Sequence[SegmentEntry]) -> Merged:
    """The model as it was: all segments joined, early heads left out, the last exit's logits kept.

    A tensor that crosses a boundary keeps its name; every other name gets its segment's prefix, since
    two segments may come from different models.

    Raises:
        MissingPartError: onnx is not installed.
        BundleError: A graph cannot be read, or segments that belong together differ in opset.
    """
    models = [_without_hints(_load(data, entry.file.path)) for data, entry in zip(segments, entries, strict=True)]
    needed = _needed(entries)
    whole = models[needed[-1]]
    for k in needed:
        shared = {spec.name for spec in (*entries[k].inputs, *entries[k].policy_inputs, *entries[k].outputs)}
        answer = {entries[k].logits} if k == needed[-1] else set()
        _rename(models[k].graph, shared | answer, f"segment{k}/")
    for k in reversed(needed[:-1]):
        _check_opsets(models[k], whole, entries[k])
        _prepend(whole, models[k])
    kept = [entries[k] for k in needed]
    made = {spec.name for entry in kept for spec in entry.outputs}
    for value in [value for value in whole.graph.input if value.name in made]:
        whole.graph.input.remove(value)
    return _pruned(whole, [entries[-1].logits], {spec.name for entry in kept for spec in entry.policy_inputs})


def _needed(entries: Sequence[SegmentEntry]) -> list[int]:
    """The segments that the last one needs, directly or not, in order, with itself."""
    wanted = {spec.name for spec in entries[-1].inputs}
    needed = [len(entries) - 1]
    for k in reversed(range(len(entries) - 1)):
        if any(spec.name in wanted for spec in entries[k].outputs):
            needed.insert(0, k)
            wanted |= {spec.name for spec in entries[k].inputs}
    return needed


def _without_hints(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out the nodes that only serve the segments' speed: the whole model never had them."""
    graph = model.graph
    hints = {node.output[0]: node.input[0] for node in graph.node if node.name.startswith(LAYOUT_HINT)}
    for node in [node for node in graph.node if node.name.startswith(LAYOUT_HINT)]:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [hints.get(name, name) for name in node.input]
    return model


def _load(data: bytes, name: str) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise MissingPartError.package("merging segments", "onnx") from error
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError and whatever else a parser throws
        raise BundleError(f"{name} is not an ONNX graph", got=type(error).__name__) from error


def _check_opsets(model: onnx.ModelProto, whole: onnx.ModelProto, entry: SegmentEntry) -> None:
    ours = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    theirs = {opset.domain or "ai.onnx": opset.version for opset in whole.opset_import}
    if any(theirs.get(domain, version) != version for domain, version in ours.items()):
        raise BundleError(f"{entry.file.path} has another opset than the last segment", got=ours, expected=theirs)


def _prepend(whole: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Put a model's graph in front of another's."""
    _replace(whole.graph.node, [*model.graph.node, *whole.graph.node])
    whole.graph.initializer.extend(model.graph.initializer)
    whole.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    whole.graph.value_info.extend(model.graph.value_info)
    known = {value.name for value in whole.graph.input}
    whole.graph.input.extend(value for value in model.graph.input if value.name not in known)
    domains = {opset.domain for opset in whole.opset_import}
    whole.opset_import.extend(opset for opset in model.opset_import if opset.domain not in domains)
    functions = {(function.domain, function.name) for function in whole.functions}
    whole.functions.extend(f for f in model.functions if (f.domain, f.name) not in functions)
    whole.ir_version = max(whole.ir_version, model.ir_version)


def _rename(graph: onnx.GraphProto, kept: Collection[str], prefix: str) -> None:
    """Prefix every name that is not kept, in subgraphs too. The empty name stands for "left out"."""

    def renamed(name: str) -> str:
        return name if not name or name in kept else prefix + name

    def rename_all(names: Sequence[str]) -> list[str]:
        return [renamed(name) for name in names]

    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed(value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = renamed(sparse.values.name)
    for node in graph.node:
        node.input[:] = rename_all(node.input)
        node.output[:] = rename_all(node.output)
        for subgraph in _subgraphs(node):
            _rename(subgraph, kept, prefix)


def _pruned(model: onnx.ModelProto, outputs: Sequence[str], policy_inputs: Collection[str]) -> Merged:
    """Keep what these outputs need. Inputs stay, except policy inputs that nobody reads any more."""
    graph = model.graph
    live, nodes = set(outputs), []
    for node in reversed(graph.node):
        if live.intersection(node.output):
            live.update(_reads(node))
            nodes.append(node)
    inputs = [value for value in graph.input if value.name in live or value.name not in policy_inputs]
    known = {value.name: value for value in (*graph.output, *graph.value_info)}
    _replace(graph.node, nodes[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in live])
    _replace(graph.sparse_initializer, [tensor for tensor in graph.sparse_initializer if tensor.values.name in live])
    _replace(graph.input, inputs)
    _replace(graph.output, [known[name] for name in outputs])
    del graph.value_info[:]
    left = frozenset(value.name for value in inputs if value.name in policy_inputs)
    return Merged(model.SerializeToString(), left)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, with what its subgraphs take from outside (and, harmlessly, their own names)."""
    yield from node.input
    for subgraph in _subgraphs(node):
        yield from (value.name for value in subgraph.output)
        for inner in subgraph.node:
            yield from _reads(inner)


def _subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _replace(field: Any, items: Iterable[object]) -> None:
    """Set a repeated field of a protocol buffer."""
    chosen = list(items)
    del field[:]
    field.extend(chosen)
