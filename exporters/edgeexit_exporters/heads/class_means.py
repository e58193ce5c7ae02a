"""E2CM's head: the distance to each class mean of max-pooled activations (Görmez et al. 2022, eq. 2–7).

    d_k = ‖x − c_k‖₂            (eq. 3)
    d_k ← d_k / norm_k          (eq. 4; norm_k is the mean of d_k over the *fitting* samples, stored)
    logit_k = −d_k              (eq. 5; the softmax, with a fitted temperature, is the policy's)

Equation 4 needs the mean distance to means that are known only at the end of the pass. The root mean
square distance follows exactly from running sums; its ratio to the mean distance is measured on a
sample of fixed size. With no more samples than that the norms are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeexit.statistics import ClassSums, FeatureSample
from edgeexit_exporters.features import Features
from edgeexit_exporters.split import HeadNodes

__all__ = ["ClassMeansFitter", "ClassMeansHead"]

_SAMPLE = 1024
_ABSENT_NORM = 1e-6


@dataclass(frozen=True)
class ClassMeansHead:
    """means (K, D) are the pooled class means, norms (K,) the mean distances to them."""

    features: Features
    means: NDArray[np.float32]
    norms: NDArray[np.float32]
    kind: str = "class-means"

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.forward`."""
        return -_distances(features, self.means) / self.norms

    def nodes(self, prefix: str) -> HeadNodes:
        """See `Head.nodes`. ‖x − c‖² is expanded to ‖x‖² − 2 x·c + ‖c‖²: one matrix product."""
        means, norms, logits = f"{prefix}means", f"{prefix}norms", f"{prefix}logits"
        names = {
            word: f"{prefix}{word}"
            for word in ("squares", "length", "product", "sum", "positive", "distance", "scaled")
        }
        axis, zero = f"{prefix}axis1", f"{prefix}zero"
        source = self.features.output
        nodes = (
            *self.features.nodes,
            helper.make_node("ReduceSumSquare", [means, axis], [names["squares"]], keepdims=0),
            helper.make_node("ReduceSumSquare", [source, axis], [names["length"]], keepdims=1),
            helper.make_node("Gemm", [source, means, names["squares"]], [names["product"]], alpha=-2.0, transB=1),
            helper.make_node("Add", [names["product"], names["length"]], [names["sum"]]),
            helper.make_node("Max", [names["sum"], zero], [names["positive"]]),
            helper.make_node("Sqrt", [names["positive"]], [names["distance"]]),
            helper.make_node("Div", [names["distance"], norms], [names["scaled"]]),
            helper.make_node("Neg", [names["scaled"]], [logits]),
        )
        constants = (
            numpy_helper.from_array(np.asarray([1], dtype=np.int64), axis),
            numpy_helper.from_array(np.asarray(0.0, dtype=np.float32), zero),
        )
        return HeadNodes(
            nodes=nodes,
            reads=self.features.reads,
            logits=logits,
            policy={means: self.means, norms: self.norms},
            initializers=(*self.features.initializers, *constants),
            macs=2 * self.means.size + self.means.shape[1],
        )


class ClassMeansFitter:
    """Sums the features of each class; keeps a fixed number of samples for eq. 4."""

    def __init__(self, features: Features, classes: int) -> None:
        self.features = features
        self._sums = ClassSums(classes, features.length)
        self._sample = FeatureSample(_SAMPLE)

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """See `HeadFitter.add`."""
        self._sums.add(features, labels)
        self._sample.add(features)

    def variants(self) -> Sequence[ClassMeansHead]:
        """The one head."""
        means = self._sums.means().astype(np.float32)
        distances = _distances(self._sample.rows(), means).astype(np.float64)
        ratio = distances.mean(axis=0) / np.maximum(np.sqrt((distances**2).mean(axis=0)), 1e-12)
        norms = np.maximum(self._sums.rms_distances() * ratio, _ABSENT_NORM)
        norms[self._sums.counts == 0] = _ABSENT_NORM
        return [ClassMeansHead(self.features, means, norms.astype(np.float32))]


def _distances(features: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.float32]:
    squared = (features**2).sum(axis=1)[:, None] - 2 * features @ means.T + (means**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))
