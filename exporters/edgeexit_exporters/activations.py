"""Activations that ONNX Runtime reads out of a graph, as torch trains heads on them.

Who imports this module needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeexit.data import Dataset
from edgeexit.training.frozen import ActivationBatch
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.features import Features, numbers
from edgeexit_exporters.fit import FeatureModel
from edgeexit_exporters.heads.table import TensorPlace

__all__ = ["GraphActivations", "GraphFeed"]


@dataclass(frozen=True)
class _Read:
    """A tensor as float32."""

    features: Features


class GraphActivations:
    """A graph with some of its tensors, a mask and the whole model's logits as outputs.

    Args:
        analysis: The graph.
        places: The tensors.
        threads: Of ONNX Runtime; 0 takes all cores.
    """

    def __init__(self, analysis: Analysis, places: Sequence[TensorPlace], *, threads: int) -> None:
        self.shapes = [place.info.shape for place in places]
        self.mask = next((place.mask for place in places if place.mask is not None), None)
        readers = [_Read(numbers(place.tensor, place.info, place.prefix)) for place in places]
        if self.mask is not None:
            readers.append(_Read(numbers(self.mask, analysis.infos[self.mask], f"{self.mask}.as.")))
        self._model = FeatureModel(analysis.graph, readers, [analysis.own[-1].tensor], threads=threads)

    def batches(
        self, data: Dataset, order: NDArray[np.int64], size: int, labels: NDArray[np.int64] | None
    ) -> Iterator[ActivationBatch]:
        """The samples at these positions, `size` at a time."""
        for rows, values, logits in self._model.run(data, order, "activations", quiet=True, size=size):
            shaped = [torch.from_numpy(v.reshape(len(rows), *s)) for v, s in zip(values, self.shapes, strict=False)]
            yield ActivationBatch(
                values=shaped,
                teacher=torch.from_numpy(logits[-1]),
                labels=None if labels is None else torch.from_numpy(labels[rows]),
                mask=None if self.mask is None else torch.from_numpy(values[-1]),
            )


@dataclass(frozen=True)
class GraphFeed:
    """An `edgeexit.training.frozen.ActivationFeed` of a data set: each epoch runs the graph once.

    Attributes:
        source: The graph.
        data: The samples.
        labels: (n,), or None where they are not to be looked at.
        batch: Most samples a step.
        seed: Every epoch has its own order, which follows from it and the epoch's number; None: as the data are.
    """

    source: GraphActivations
    data: Dataset
    labels: NDArray[np.int64] | None
    batch: int
    seed: int | None = None

    @property
    def steps(self) -> int:
        """Batches of an epoch. In training a last batch that is not full is left out, unless it is the only one."""
        full, rest = divmod(len(self.data), self.batch)
        return max(1, full) if self.seed is not None else full + bool(rest)

    @property
    def size_bytes(self) -> int:
        """Bytes of all activations."""
        return 4 * len(self.data) * sum(math.prod(shape) for shape in self.source.shapes)

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        """The batches of an epoch from batch `start` on.

        Raises:
            DataError: A sample cannot be read.
        """
        order = np.arange(len(self.data))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number]).permutation(order)
        rows = order[start * self.batch : self.steps * self.batch]
        return self.source.batches(self.data, rows, self.batch, self.labels)
