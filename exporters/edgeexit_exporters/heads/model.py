"""The head of an exit that the model brings itself: its own logits, handed out as float32 (batch, classes)."""

from __future__ import annotations

from onnx import TensorProto, helper

from edgeexit_exporters.probe import TensorInfo
from edgeexit_exporters.split import HeadNodes

__all__ = ["model_logits"]


def model_logits(tensor: str, info: TensorInfo, prefix: str) -> HeadNodes:
    """Nodes that hand out `tensor`, of shape (batch, classes) or (batch, classes, 1, 1)."""
    logits = f"{prefix}logits"
    nodes, source = [], tensor
    if len(info.axes) > 2:
        source = f"{prefix}flat"
        nodes.append(helper.make_node("Flatten", [tensor], [source], axis=1))
    if info.dtype == "float32":
        nodes.append(helper.make_node("Identity", [source], [logits]))
    else:
        nodes.append(helper.make_node("Cast", [source], [logits], to=TensorProto.FLOAT))
    return HeadNodes(nodes=tuple(nodes), reads=(tensor,), logits=logits)
