"""Source models as one graph with everything measured that cutting it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.errors import UsageError
from edgeexit_exporters.compose import compose, prefix
from edgeexit_exporters.exits import OwnExit, find_own_exits
from edgeexit_exporters.graph import Graph, bits
from edgeexit_exporters.macs import count_macs, count_params
from edgeexit_exporters.normalise import keep_outputs
from edgeexit_exporters.probe import PROBE_BATCHES, TensorInfo, probe

__all__ = ["Analysis", "analyse", "reanalyse"]


@dataclass(frozen=True)
class Analysis:
    """One analysed graph.

    Attributes:
        graph: With the logits of the models' own exits as its only outputs.
        infos: Dtype and axes of every tensor.
        macs: MACs of every node, one sample.
        stages: The nodes of each model of a cascade, as bit masks; empty for one model.
        own: The exits that the models bring, cheapest first; the last is the whole model's.
        classes: Number of classes.
    """

    graph: Graph
    infos: Mapping[str, TensorInfo]
    macs: list[int]
    stages: list[int]
    own: tuple[OwnExit, ...]
    classes: int

    def spent(self, nodes: int) -> int:
        """MACs of a set of nodes."""
        return sum(self.macs[i] for i in bits(nodes))

    @property
    def whole_macs(self) -> int:
        """MACs of the whole model alone: the last exit without any other."""
        return max(1, self.spent(self.graph.needs([self.own[-1].tensor])))

    @property
    def whole_params(self) -> int:
        """Parameters of the whole model alone."""
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        keep_outputs(model, [self.own[-1].tensor])
        return count_params(Graph(model))


def analyse(models: Sequence[onnx.ModelProto], names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Analysis:
    """Make one graph of normalised models and measure it.

    Args:
        models: One, or a cascade of models from small to large.
        names: What to call them.
        feeds: Example inputs of the first model, at least one row; rows are repeated as needed.

    Raises:
        ModelError: The models do not fit together, do not run, or have no logits.
        UsageError: A model of the cascade is smaller than the one before it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(compose(models))
    order = np.arange(max(PROBE_BATCHES)) % len(next(iter(feeds.values())))
    graph = Graph(model)
    infos = probe(graph, {name: array[order] for name, array in feeds.items()})
    own, classes = find_own_exits(graph, infos, _stages(graph, len(models)), names)
    keep_outputs(model, [exit_.tensor for exit_ in own])
    graph = Graph(model)
    analysis = Analysis(graph, infos, count_macs(graph, infos), _stages(graph, len(models)), own, classes)
    _check_order(analysis, names)
    return analysis


def reanalyse(
    analysis: Analysis,
    model: onnx.ModelProto,
    infos: Mapping[str, TensorInfo] | None = None,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
) -> Analysis:
    """The analysis of an altered model with the same exits and the same stages.

    Args:
        analysis: Of the model before.
        model: Normalised, the own exits' logits under their old names; names of a cascade's nodes begin
            as before.
        infos: What is known of its tensors; measured if None.
        feeds: Example inputs, at least 3 rows, where something is to be measured.

    Raises:
        ModelError: The altered model does not run.
    """
    graph = Graph(model)
    known = probe(graph, feeds or {}) if infos is None else infos
    stages = _stages(graph, len(analysis.stages) or 1)
    return Analysis(graph, known, count_macs(graph, known), stages, analysis.own, analysis.classes)


def _check_order(analysis: Analysis, names: Sequence[str]) -> None:
    spent = [analysis.spent(nodes) for nodes in analysis.stages]
    for k in range(1, len(spent)):
        if spent[k] < spent[k - 1]:
            raise UsageError(
                "the models of a cascade come from small to large",
                got=f"{names[k - 1]} with {spent[k - 1]:,} MACs before {names[k]} with {spent[k]:,}",
                remedy=f"give {names[k]} first",
            )


def _stages(graph: Graph, models: int) -> list[int]:
    if models == 1:
        return []
    masks = [0] * models
    for i, node in enumerate(graph.nodes):
        owner = next(m for m in range(models) if node.output[0].startswith(prefix(m)))
        masks[owner] |= 1 << i if graph.is_activation_node(i) else 0
    return masks
