"""Give an analysed model another precision, before anything is fitted on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeexit.data import Dataset
from edgeexit.errors import ModelError, UsageError
from edgeexit_exporters.analysis import Analysis, reanalyse
from edgeexit_exporters.cuts import cut_after
from edgeexit_exporters.graph import Graph
from edgeexit_exporters.normalise import keep_outputs
from edgeexit_exporters.precision.arranging import arrange
from edgeexit_exporters.precision.choice import quantisable
from edgeexit_exporters.precision.folding import fold_normalisations
from edgeexit_exporters.precision.half import to_half
from edgeexit_exporters.precision.plan import Precision, node_precisions
from edgeexit_exporters.precision.quantising import quantise
from edgeexit_exporters.probe import PROBE_BATCHES, Rounding, TensorInfo

__all__ = ["in_precision", "refuse_missing"]


def in_precision(
    analysis: Analysis,
    wanted: Sequence[Precision],
    data: Dataset,
    *,
    cut_names: Sequence[str] = (),
    symmetric: bool = False,
    seed: int = 0,
    quiet: bool = False,
) -> Analysis:
    """The same model in another precision, analysed anew. Its tensors keep their names.

    Args:
        analysis: The model in float32.
        wanted: One precision, or one for each segment.
        data: Samples that the ranges of activations are taken from.
        cut_names: The tensors after which the model will be cut; used only if `wanted` has several entries.
        symmetric: int8 as TensorRT wants it; see `quantise`.
        seed: Which samples.
        quiet: Show no progress.

    Raises:
        UsageError: `wanted` does not fit the segments.
        ModelError: The model cannot be converted, or has that precision already.
    """
    if set(wanted) == {"fp32"}:
        return analysis
    _check(analysis, wanted)
    feeds = next(iter(data.batches(max(PROBE_BATCHES), np.arange(max(PROBE_BATCHES)) % len(data))))
    analysis = _with_constants(analysis)
    folded = fold_normalisations(analysis.graph)
    if folded is not None:
        analysis = _again(analysis, folded, feeds)
    refuse_missing(analysis, cut_names)
    places = [cut_after(analysis.graph, analysis.infos, analysis.macs, name, analysis.stages) for name in cut_names]
    precisions = node_precisions(analysis, places, wanted)
    half = {analysis.graph.nodes[i].output[0] for i, precision in enumerate(precisions) if precision == "fp16"}
    nodes = quantisable(analysis, {i for i, precision in enumerate(precisions) if precision == "int8"})
    if nodes:
        written = quantise(analysis.graph, analysis.infos, nodes, data, symmetric=symmetric, seed=seed, quiet=quiet)
        analysis = _again(analysis, arrange(written, analysis.graph, nodes), feeds)
    elif "int8" in wanted:
        raise ModelError(
            "nothing in the model can be computed in 8-bit integers",
            expected="convolutions or matrix products in float32 with constant weights",
            remedy="--precision fp16 or fp32",
        )
    if half:
        chosen = {i for i, node in enumerate(analysis.graph.nodes) if half.intersection(_origins(node))}
        analysis = _again(analysis, to_half(analysis.graph, analysis.infos, chosen), feeds)
    return analysis


def refuse_missing(analysis: Analysis, names: Sequence[str]) -> None:
    """Refuse cuts after tensors that are not there any more.

    Raises:
        UsageError: One of them is not.
    """
    missing = next((name for name in names if name not in analysis.graph.producer), None)
    if missing is not None:
        raise UsageError(
            f"in the precision asked for there is no tensor {missing}: it is computed together with the next",
            expected="the name of a tensor behind a layer's normalisation and activation",
            remedy="edgeexit export SOURCE --list-cuts",
        )


def _check(analysis: Analysis, wanted: Sequence[Precision]) -> None:
    nodes = analysis.graph.nodes
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear") for node in nodes):
        raise ModelError(
            "the model is quantised already",
            got=f"--precision {','.join(wanted)}",
            remedy="leave --precision out, or give the model in float32",
        )
    inner = next((node for node in nodes if any(a.g.node or a.graphs for a in node.attribute)), None)
    if inner is not None:
        raise ModelError(
            "a model with branches or loops keeps its precision",
            got=f"operator {inner.op_type}",
            remedy="leave --precision out",
        )


def _origins(node: onnx.NodeProto) -> set[str]:
    """Names that the node's outputs may have had before quantisation."""
    return {name for output in node.output for name in (output, output.removesuffix(".float"))}


def _with_constants(analysis: Analysis) -> Analysis:
    """The same with Constant nodes as initialisers, so that weights are found in one place."""
    graph = analysis.graph
    found = {
        node.output[0]: a.t
        for node in graph.nodes
        if node.op_type == "Constant"
        for a in node.attribute
        if a.HasField("t")
    }
    if not found:
        return analysis
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    model.graph.node.extend(node for node in graph.nodes if node.output[0] not in found)
    model.graph.initializer.extend(
        numpy_helper.from_array(numpy_helper.to_array(tensor), name) for name, tensor in found.items()
    )
    return reanalyse(analysis, model, analysis.infos)


def _again(analysis: Analysis, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Analysis:
    """Analyse a converted model, and note which of its tensors stand for rounded numbers."""
    names = [own.tensor for own in analysis.own]
    del model.graph.output[:]  # whose declared types may not hold any more
    keep_outputs(model, names)
    found = reanalyse(analysis, model, feeds=feeds)
    return replace(found, infos={**found.infos, **_roundings(found.graph, found.infos)})


def _roundings(graph: Graph, infos: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    found = {}
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and graph.is_activation_node(graph.producer[node.output[0]]):
            scale, zero_point = (numpy_helper.to_array(graph.initializers[name]) for name in node.input[1:])
            rounding = Rounding(float(scale), int(zero_point))
            found[node.output[0]] = replace(infos[node.output[0]], rounding=rounding)
    return found
