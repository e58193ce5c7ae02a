"""The Gaussian head in ONNX, a single matrix product; its closed form is `edgeexit.heads.gaussian`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.heads.gaussian import GaussianLearner
from edgeexit_exporters.features import Features
from edgeexit_exporters.heads.linear import linear_nodes
from edgeexit_exporters.split import HeadNodes

__all__ = ["GaussianFitter", "GaussianHead"]

_SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.8)


@dataclass(frozen=True)
class GaussianHead:
    """logits = features · weightᵀ + bias; weight (C, D), a row a class, and bias (C,)."""

    features: Features
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    shrinkage: float
    statistics: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    kind: str = "gaussian"

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.forward`."""
        return np.asarray(features @ self.weight.T + self.bias)

    def nodes(self, prefix: str) -> HeadNodes:
        """See `Head.nodes`."""
        return linear_nodes(prefix, self.features, self.weight, self.bias, statistics=self.statistics)


class GaussianFitter:
    """Sums the scatter of the features and solves for the head at several shrinkages.

    Args:
        features: What the head reads.
        classes: Number of classes.
        updatable: Whether the heads keep the statistics that a device can continue.
    """

    def __init__(self, features: Features, classes: int, *, updatable: bool = False) -> None:
        self.features = features
        self._learner = GaussianLearner(classes, features.length)
        self._updatable = updatable

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """See `HeadFitter.add`."""
        self._learner.add(features, labels)

    def variants(self) -> Sequence[GaussianHead]:
        """One head for each shrinkage, the least first."""
        fitted = self._learner.statistics()
        del self._learner  # its sums take more memory than all heads together
        stored = fitted.stored() if self._updatable else {}
        heads = []
        for shrinkage in _SHRINKAGES:
            own = {**stored, "shrinkage": np.asarray([shrinkage])} if self._updatable else {}
            head = replace(fitted, shrinkage=shrinkage).head()
            heads.append(GaussianHead(self.features, head["weight"], head["bias"], shrinkage, own))
        return heads
