"""The last step of a head as an ONNX node: a matrix product whose weights are policy tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgeexit_exporters.features import Features
from edgeexit_exporters.split import HeadNodes

__all__ = ["linear_nodes"]


def linear_nodes(
    prefix: str,
    features: Features,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    body_macs: int = 0,
    body_params: int = 0,
    statistics: Mapping[str, NDArray[Any]] | None = None,
) -> HeadNodes:
    """Nodes of logits = features · weightᵀ + bias.

    Args:
        prefix: What new names begin with.
        features: D of them, and how they are computed.
        weight: (C, D), a row a class.
        bias: (C,).
        body_macs: Of computing the features, for one sample.
        body_params: Learned values in that.
        statistics: What weight and bias can be continued from, if anything.
    """
    names = {word: f"{prefix}{word}" for word in ("weight", "bias", "logits")}
    product = helper.make_node("Gemm", [features.output, names["weight"], names["bias"]], [names["logits"]], transB=1)
    return HeadNodes(
        nodes=(*features.nodes, product),
        reads=features.reads,
        logits=names["logits"],
        policy={names["weight"]: weight, names["bias"]: bias},
        initializers=features.initializers,
        macs=body_macs + weight.size,
        body_params=body_params,
        features=features.output,
        feature_length=features.length,
        statistics=statistics or {},
    )
