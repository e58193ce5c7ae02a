"""A head that torch trained, in ONNX: its body as nodes, its last layer as policy tensors.

Who imports this module needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.training.heads import Head as TorchHead
from edgeexit.training.heads.bodies import FeatureNorm
from edgeexit_exporters.features import Features, numbers
from edgeexit_exporters.graph import Graph
from edgeexit_exporters.heads.linear import linear_nodes
from edgeexit_exporters.heads.table import TensorPlace
from edgeexit_exporters.macs import count_macs, count_params
from edgeexit_exporters.normalise import normalise, raise_opset
from edgeexit_exporters.probe import PROBE_BATCHES, TensorInfo, probe
from edgeexit_exporters.renaming import rename
from edgeexit_exporters.sources import export_module
from edgeexit_exporters.split import HeadNodes

__all__ = ["TrainedHead", "trained_head"]

_ACTIVATION, _MASK, _FEATURES = "activation", "mask", "features"


@dataclass(frozen=True)
class TrainedHead:
    """logits = features · weightᵀ + bias; weight (C, D), a row a class, and bias (C,).

    Attributes:
        features: The body and what it reads.
        body_macs: Its MACs for one sample.
        body_params: Its learned values.
    """

    features: Features
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    body_macs: int
    body_params: int
    kind: str = "trained"

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.forward`."""
        return np.asarray(features @ self.weight.T + self.bias)

    def nodes(self, prefix: str) -> HeadNodes:
        """See `Head.nodes`."""
        return linear_nodes(
            prefix, self.features, self.weight, self.bias, body_macs=self.body_macs, body_params=self.body_params
        )


def trained_head(head: TorchHead, place: TensorPlace, infos: Mapping[str, TensorInfo], opset: int) -> TrainedHead:
    """The nodes of a torch head behind the tensor that it was trained on; `head` stays as it is.

    Args:
        head: See `edgeexit.training.heads`; in whatever mode, on whatever device.
        place: The tensor, and the mask if the graph has one.
        infos: What `probe` measured of the graph.
        opset: The graph's operator set.

    Raises:
        ModelError: torch cannot export the body.
    """
    body, linear = _without_norm(head)
    generator = torch.Generator().manual_seed(0)
    feeds: dict[str, Any] = {_ACTIVATION: torch.randn(2, *place.info.shape, generator=generator)}
    if place.mask is not None and head.spec.tokens == "mean":
        dtype = getattr(torch, infos[place.mask].dtype)
        feeds[_MASK] = torch.ones((2, *infos[place.mask].shape), dtype=dtype)
    exported = export_module(
        f"the head at {place.tensor}",
        body,
        tuple(feeds.values()),
        list(feeds),
        torch,
        output_names=[_FEATURES],
    )
    model = raise_opset(normalise(exported), opset)
    graph = Graph(model)
    rows = np.arange(max(PROBE_BATCHES)) % 2
    macs = count_macs(graph, probe(graph, {name: feeds[name].numpy()[rows] for name in graph.inputs}))
    return TrainedHead(
        features=_grafted(model, place, linear.in_features),
        weight=linear.weight.detach().numpy().astype(np.float32),
        bias=linear.bias.detach().numpy().astype(np.float32),
        body_macs=sum(macs),
        body_params=count_params(graph),
    )


class _Body(nn.Module):
    """What a head does before its last layer, in float32."""

    def __init__(self, head: TorchHead, layers: list[nn.Module]) -> None:
        super().__init__()
        self.body = head.body
        self.layers = nn.Sequential(*layers)

    def forward(self, activation: Tensor, mask: Tensor | None = None) -> Tensor:
        """Activation (n, …) to features (n, D)."""
        features: Tensor = self.layers(self.body.read(activation, mask))
        return features


def _without_norm(head: TorchHead) -> tuple[_Body, nn.Linear]:
    """Copies of body and classifier on the CPU; the feature norm is part of the next linear layer: an operator less.

    (x − μ)/σ · Wᵀ + b = x · (W/σ)ᵀ + (b − W μ/σ).
    """
    copied = copy.deepcopy(head).cpu().float().eval().requires_grad_(False)
    norm, *layers = copied.body.layers
    assert isinstance(norm, FeatureNorm)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    linear = next(layer for layer in [*layers, copied.classifier] if isinstance(layer, nn.Linear))
    weight = linear.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = linear.bias.double() - weight @ norm.running_mean.double()
    linear.weight.copy_(weight.to(torch.float32))
    linear.bias.copy_(bias.to(torch.float32))
    copied.body.layers = nn.Sequential()
    return _Body(copied, layers).eval(), copied.classifier


def _grafted(model: onnx.ModelProto, place: TensorPlace, length: int) -> Features:
    """The body's nodes, reading the place's tensor and mask."""
    raw = numbers(place.tensor, place.info, place.prefix)
    made = {name for node in model.graph.node for name in node.output}
    reads = {name for node in model.graph.node for name in node.input}
    output = f"{place.prefix}{_FEATURES}" if _FEATURES in made else raw.output
    fixed = {_ACTIVATION: raw.output, _FEATURES: output}
    masks: tuple[str, ...] = ()
    if place.mask is not None and _MASK in reads:
        masks = (place.mask,)
        fixed[_MASK] = place.mask
    rename(model.graph, f"{place.prefix}body.", fixed)
    return replace(
        raw,
        reads=(*raw.reads, *masks),
        nodes=(*raw.nodes, *model.graph.node),
        initializers=(*raw.initializers, *model.graph.initializer),
        length=length,
        output=output,
    )
