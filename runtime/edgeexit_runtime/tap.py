"""Tapping: a segment whose features come out, made from the bytes of one that keeps them inside.

A bundle's graphs give boundary tensors and logits and nothing else, so that no backend carries what
nobody asked for. To learn, a device needs the features that the heads read. A serialised ONNX model is a
protocol buffer, and of these it is specified that the concatenation of two messages reads as their
merge, in which lists are joined. So a few bytes behind the graph, a model that consists of one output,
name the features as an output more. No onnx is needed for that, and the hashed bytes are untouched.
"""

from __future__ import annotations

import msgspec

from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.protobuf import length_delimited

__all__ = ["tapped_entry", "tapped_graph"]

_MODEL_GRAPH = 7  # field numbers of onnx.proto: ModelProto.graph, GraphProto.output, ValueInfoProto.name
_GRAPH_OUTPUT = 12
_VALUE_NAME = 1


def tapped_graph(data: bytes, entry: SegmentEntry) -> bytes:
    """The graph with its features as a last output; as it is where the entry names none."""
    if entry.features is None:
        return data
    output = length_delimited(_VALUE_NAME, entry.features.name.encode())
    return data + length_delimited(_MODEL_GRAPH, length_delimited(_GRAPH_OUTPUT, output))


def tapped_entry(entry: SegmentEntry) -> SegmentEntry:
    """The entry with the features as a last boundary tensor, which no later segment takes."""
    if entry.features is None:
        return entry
    return msgspec.structs.replace(entry, outputs=(*entry.outputs, entry.features))
