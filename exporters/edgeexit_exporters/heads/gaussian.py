"""The Gaussian head: class means with one shared covariance, in closed form.

Samples of class k are taken as normal with mean μ_k and a covariance Σ common to all classes, so the
log of p(class k | features f) is linear in f (linear discriminant analysis):

    logit_k(f) = (Σ⁻¹ μ_k)ᵀ f − ½ μ_kᵀ Σ⁻¹ μ_k + log π_k

Σ is shrunk towards a multiple of the identity, (1 − s) Σ + s (tr Σ / D) I; s is chosen on the
calibration split. At run time this is a single matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgeexit.statistics import Scatter
from edgeexit_exporters.features import Features
from edgeexit_exporters.split import HeadNodes

__all__ = ["GaussianFitter", "GaussianHead"]

_SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.8)
_ABSENT_LOGIT = -1e6


@dataclass(frozen=True)
class GaussianHead:
    """logits = features · weightᵀ + bias; weight (C, D), a row a class, and bias (C,)."""

    features: Features
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    shrinkage: float
    kind: str = "gaussian"

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.forward`."""
        return np.asarray(features @ self.weight.T + self.bias)

    def nodes(self, prefix: str) -> HeadNodes:
        """See `Head.nodes`."""
        weight, bias, logits = f"{prefix}weight", f"{prefix}bias", f"{prefix}logits"
        return HeadNodes(
            nodes=(
                *self.features.nodes,
                helper.make_node("Gemm", [self.features.output, weight, bias], [logits], transB=1),
            ),
            reads=self.features.reads,
            logits=logits,
            policy={weight: self.weight, bias: self.bias},
            initializers=self.features.initializers,
            macs=self.weight.size,
        )


class GaussianFitter:
    """Sums the scatter of the features and solves for the head at several shrinkages."""

    def __init__(self, features: Features, classes: int) -> None:
        self.features = features
        self._scatter = Scatter(classes, features.length)

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """See `HeadFitter.add`."""
        self._scatter.add(features, labels)

    def variants(self) -> Sequence[GaussianHead]:
        """One head for each shrinkage, the least first."""
        covariance = self._scatter.covariance()
        means, priors = self._scatter.means(), self._scatter.priors()
        self._scatter.release()
        # About the overall mean the numbers are small: single precision then loses nothing at run time.
        centre = priors @ means
        centred = means - centre
        variance = float(np.trace(covariance)) / len(covariance) or 1.0
        heads = []
        for shrinkage in _SHRINKAGES:
            shrunk = (1 - shrinkage) * covariance
            shrunk[np.diag_indices_from(shrunk)] += shrinkage * variance
            weight = np.linalg.solve(shrunk, centred.T).T
            bias = -0.5 * np.einsum("kd,kd->k", centred, weight) + np.log(np.maximum(priors, 1e-12)) - weight @ centre
            bias[priors == 0] = _ABSENT_LOGIT
            heads.append(
                GaussianHead(
                    self.features, np.ascontiguousarray(weight, dtype=np.float32), bias.astype(np.float32), shrinkage
                )
            )
        return heads
