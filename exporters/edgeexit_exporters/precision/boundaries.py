"""Boundary tensors of integers cross with their channels last.

ONNX Runtime computes integer convolutions with channels last, and folds a residual addition in between
while both operands are. A tensor that enters a segment with channels first is not, and each block
behind it gets a transposition before every operator and one after. Two transpositions at the cut, which
ONNX Runtime merges with its own, take all of them away: for ResNet-56 in six segments 52 become 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import helper

from edgeexit_exporters.probe import TensorInfo
from edgeexit_exporters.split import Segment, tensor_type

__all__ = ["channels_last"]

_MAP_AXES = 4
_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def channels_last(
    segments: Sequence[Segment], infos: Mapping[str, TensorInfo]
) -> tuple[list[Segment], dict[str, TensorInfo]]:
    """The segments with transposed boundaries where integers of maps cross, and what is known of all tensors."""
    crossing = [name for segment in segments for name in segment.outputs]
    renamed = {n: f"{n}.channels_last" for n in crossing if infos[n].rounding and len(infos[n].axes) == _MAP_AXES}
    known = dict(infos)
    for name, new in renamed.items():
        axes = infos[name].axes
        known[new] = replace(infos[name], axes=tuple(axes[i] for i in _LAST))
    return [_transposed(segment, renamed, known) for segment in segments], known


def _transposed(segment: Segment, renamed: Mapping[str, str], infos: Mapping[str, TensorInfo]) -> Segment:
    if not renamed.keys() & {*segment.inputs, *segment.outputs}:
        return segment
    model = onnx.ModelProto()
    model.CopyFrom(segment.model)
    graph = model.graph
    entering = [helper.make_node("Transpose", [renamed[n]], [n], perm=_FIRST) for n in segment.inputs if n in renamed]
    leaving = [helper.make_node("Transpose", [n], [renamed[n]], perm=_LAST) for n in segment.outputs if n in renamed]
    nodes = [*entering, *graph.node, *leaving]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for value in (*graph.input, *graph.output):
        if value.name in renamed:
            value.CopyFrom(tensor_type(renamed[value.name], infos[renamed[value.name]]))
    return replace(
        segment,
        model=model,
        inputs=tuple(renamed.get(name, name) for name in segment.inputs),
        outputs=tuple(renamed.get(name, name) for name in segment.outputs),
    )
