"""The class-means head in ONNX; its closed form is `edgeexit.heads.class_means`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeexit.heads.class_means import ClassMeansLearner, distances
from edgeexit_exporters.features import Features
from edgeexit_exporters.split import HeadNodes

__all__ = ["ClassMeansFitter", "ClassMeansHead"]


@dataclass(frozen=True)
class ClassMeansHead:
    """means (K, D) are the pooled class means, norms (K,) the mean distances to them."""

    features: Features
    means: NDArray[np.float32]
    norms: NDArray[np.float32]
    statistics: Mapping[str, NDArray[Any]]
    kind: str = "class-means"

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.forward`."""
        return -distances(features, self.means) / self.norms

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
            features=source,
            feature_length=self.features.length,
            statistics=self.statistics,
        )


class ClassMeansFitter:
    """Sums the features of each class; keeps a fixed number of samples for eq. 4."""

    def __init__(self, features: Features, classes: int) -> None:
        self.features = features
        self._learner = ClassMeansLearner(classes, features.length)

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """See `HeadFitter.add`."""
        self._learner.add(features, labels)

    def variants(self) -> Sequence[ClassMeansHead]:
        """The one head."""
        statistics = self._learner.statistics()
        head = statistics.head()
        return [ClassMeansHead(self.features, head["means"], head["norms"], statistics.stored())]
