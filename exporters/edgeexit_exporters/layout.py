"""Keep ONNX Runtime's fast convolution layout across cuts.

On CPUs, ONNX Runtime computes convolutions in a blocked channel layout and folds a residual addition
and its activation into the convolution before it, but only while both operands are in that layout. A
tensor that enters a segment is not, so a cut through a residual network would cost every block behind
it the fusion. A maximum pool over 1 × 1, which changes no value, is an operator that takes the tensor
into the layout. Measured on ResNet-56: the chain of ten segments falls from 1.19 to 1.08 of the whole
model's time at batch 64 on an AVX-512 CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from edgeexit.manifest import LAYOUT_HINT
from edgeexit_exporters.probe import TensorInfo

__all__ = ["with_layout_hints"]

_BLOCK = 8
_MAP_RANK = 4
_PLAIN = {"Pad", "Slice", "Gather", "Reshape", "Transpose"}


def with_layout_hints(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], infos: Mapping[str, TensorInfo]
) -> list[onnx.NodeProto]:
    """The nodes with a hint before each residual addition that would leave the layout.

    An operand of an addition gets one if it enters the segment, or comes from an operator that only
    moves data, and the other operand comes from a computation on maps.

    Args:
        nodes: A segment's nodes, in topological order.
        inputs: The activations that enter the segment.
        infos: What `probe` measured.
    """
    if not any(node.op_type == "Conv" for node in nodes):
        return list(nodes)
    maker = {name: node.op_type for node in nodes for name in node.output}
    entering = set(inputs)

    def plain(name: str) -> bool:
        return name in entering or maker.get(name) in _PLAIN

    hinted: set[str] = set()
    for node in nodes:
        if node.op_type == "Add" and len(node.input) == 2:
            one, other = node.input
            hinted |= {
                a for a, b in ((one, other), (other, one)) if plain(a) and not plain(b) and _blocks(infos.get(a))
            }
    changed: list[onnx.NodeProto] = [_hint(name) for name in inputs if name in hinted]
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if copy.op_type not in _PLAIN and copy.op_type != "Shape":
            for i, name in enumerate(copy.input):
                copy.input[i] = LAYOUT_HINT + name if name in hinted else name
        changed.append(copy)
        changed += [_hint(name) for name in node.output if name in hinted]
    return changed


def _hint(name: str) -> onnx.NodeProto:
    return helper.make_node("MaxPool", [name], [LAYOUT_HINT + name], name=LAYOUT_HINT + name, kernel_shape=[1, 1])


def _blocks(info: TensorInfo | None) -> bool:
    """Whether the blocked layout is possible for a tensor."""
    if info is None or info.dtype != "float32" or len(info.axes) != _MAP_RANK or not info.batched:
        return False
    channels, height, width = info.shape
    return channels % _BLOCK == 0 and height * width > 1
