"""A segment without its exit's check, made from the bytes of one that has it. No onnx is needed.

Two things are known with it: what a check costs on this device (the segment's time with it less that
without), and a chain that carries on where no exit is worth asking. The hashed bytes stay untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from edgeexit.errors import BundleError
from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.protobuf import LENGTH_DELIMITED, Field, WireError, contents, fields, length_delimited

__all__ = ["Headless", "headless_graph"]

_MODEL_GRAPH = 7  # field numbers of onnx.proto
_GRAPH_NODE = 1
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_GRAPH_VALUE_INFO = 13
_GRAPH_QUANTIZATION = 14
_GRAPH_SPARSE_INITIALIZER = 15
_NODE_INPUT = 1
_NODE_OUTPUT = 2
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_GRAPHS = (6, 11)
_VALUE_NAME = 1
_TENSOR_NAME = 8
_SPARSE_VALUES = 1

Names = Collection[bytes]


class Headless(NamedTuple):
    """A graph without its head.

    Attributes:
        data: The ONNX bytes. Its outputs are those of the entry; it gives no logits.
        policy_inputs: Those of the entry's policy inputs that it still takes; none for a fitted head.
    """

    data: bytes
    policy_inputs: frozenset[str]


def headless_graph(data: bytes, entry: SegmentEntry) -> Headless:
    """The segment's graph without the logits and whatever serves them alone.

    A segment that hands nothing on is all head: what is left of it has no node and no output, and is
    not worth opening.

    Args:
        data: The ONNX bytes of the bundle.
        entry: What the manifest says about them.

    Raises:
        BundleError: The bytes are no ONNX graph, or a boundary tensor is no output of it.
    """
    outputs = {spec.name.encode() for spec in entry.outputs}
    policy = {spec.name.encode() for spec in entry.policy_inputs}
    try:
        parts = [field for field in fields(data) if _is(field, _MODEL_GRAPH)]
        graph = [field for part in parts for field in fields(part.content)]
        _check_outputs(graph, outputs, entry)
        live = _live(graph, outputs)
        keep = _keeper(graph, live, outputs, policy)
        pruned = b"".join(
            length_delimited(_MODEL_GRAPH, b"".join(item.whole for item in fields(field.content) if keep(item)))
            if _is(field, _MODEL_GRAPH)
            else bytes(field.whole)
            for field in fields(data)
        )
    except WireError as error:
        raise BundleError(f"{entry.file.path} is not an ONNX graph", got=error) from error
    return Headless(pruned, frozenset(name.decode() for name in policy & live))


def _is(field: Field, number: int) -> bool:
    return field.number == number and field.wire_type == LENGTH_DELIMITED


def _check_outputs(graph: list[Field], wanted: Names, entry: SegmentEntry) -> None:
    made = {_value_name(field.content) for field in graph if _is(field, _GRAPH_OUTPUT)}
    if missing := set(wanted) - made:
        raise BundleError(
            f"{entry.file.path} has other outputs than the manifest says",
            got=", ".join(sorted(name.decode(errors="replace") for name in made)) or "none",
            expected=min(missing).decode(),
        )


def _live(graph: list[Field], outputs: Names) -> set[bytes]:
    """Every tensor that the outputs need, themselves included."""
    nodes = [field.content for field in graph if _is(field, _GRAPH_NODE)]
    makers = {name: node for node in nodes for name in _names(node, _NODE_OUTPUT)}
    live: set[bytes] = set()
    waiting = set(outputs)
    while waiting:
        name = waiting.pop()
        live.add(name)
        node = makers.pop(name, None)
        if node is not None:
            waiting.update(_reads(node) - live)
            live.update(_names(node, _NODE_OUTPUT))
    return live


def _keeper(graph: list[Field], live: Names, outputs: Names, policy: Names) -> Callable[[Field], bool]:
    """Which fields of the graph stay. Those that stand for no tensor, and those not known here, all do."""
    stored = {_NAME_OF[field.number](field.content) for field in graph if _is_stored(field)}

    def keep(field: Field) -> bool:
        if field.wire_type != LENGTH_DELIMITED:
            return True
        if field.number == _GRAPH_NODE:
            return any(name in live for name in _names(field.content, _NODE_OUTPUT))
        if field.number not in _NAME_OF:
            return True
        name = _NAME_OF[field.number](field.content)
        if field.number == _GRAPH_OUTPUT:
            return name in outputs
        if field.number == _GRAPH_INPUT:
            return name in live or (name not in policy and name not in stored)
        return name in live

    return keep


def _is_stored(field: Field) -> bool:
    return field.wire_type == LENGTH_DELIMITED and field.number in (_GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER)


def _reads(node: memoryview) -> set[bytes]:
    """What a node reads, with what its subgraphs take from outside (and, harmlessly, their own names)."""
    names: set[bytes] = set()
    nodes = [node]
    while nodes:
        node = nodes.pop()
        names.update(_names(node, _NODE_INPUT))
        for graph in _subgraphs(node):
            names.update(_value_name(value) for value in contents(graph, _GRAPH_OUTPUT))
            nodes.extend(contents(graph, _GRAPH_NODE))
    return names - {b""}


def _subgraphs(node: memoryview) -> Iterator[memoryview]:
    for attribute in contents(node, _NODE_ATTRIBUTE):
        yield from contents(attribute, *_ATTRIBUTE_GRAPHS)


def _names(node: memoryview, number: int) -> list[bytes]:
    """A node's inputs or outputs; an empty name stands for one that was left out."""
    return [bytes(name) for name in contents(node, number) if len(name)]


def _last(message: memoryview, number: int) -> bytes:
    """A field that is there once: of several, the last counts."""
    found = b""
    for content in contents(message, number):
        found = bytes(content)
    return found


def _value_name(value: memoryview) -> bytes:
    return _last(value, _VALUE_NAME)


def _tensor_name(tensor: memoryview) -> bytes:
    return _last(tensor, _TENSOR_NAME)


def _sparse_name(tensor: memoryview) -> bytes:
    return _tensor_name(memoryview(b"".join(contents(tensor, _SPARSE_VALUES))))


_NAME_OF: Mapping[int, Callable[[memoryview], bytes]] = {
    _GRAPH_INITIALIZER: _tensor_name,
    _GRAPH_INPUT: _value_name,
    _GRAPH_OUTPUT: _value_name,
    _GRAPH_VALUE_INFO: _value_name,
    _GRAPH_QUANTIZATION: _value_name,
    _GRAPH_SPARSE_INITIALIZER: _sparse_name,
}
"""How to find the name in each kind of field that stands for one tensor."""
