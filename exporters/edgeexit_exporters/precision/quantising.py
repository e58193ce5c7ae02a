"""8-bit integers: static quantisation by ONNX Runtime's quantizer, on samples of the fitting data.

The graph keeps its operators; QuantizeLinear and DequantizeLinear nodes around them say where values
are rounded, and a backend computes what lies between in integers. Weights get one scale a channel,
activations one a tensor, from the smallest and largest value seen.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from edgeexit.console import progress
from edgeexit.data import Dataset
from edgeexit.errors import EdgeExitError, ModelError
from edgeexit_exporters.graph import Graph
from edgeexit_exporters.normalise import BATCH
from edgeexit_exporters.probe import TensorInfo

__all__ = ["SAMPLES", "quantise"]

SAMPLES = 512
"""Samples whose activations give the ranges. More changed no accuracy by a tenth of a percent."""

_BATCH = 32


def quantise(
    graph: Graph,
    infos: Mapping[str, TensorInfo],
    nodes: Sequence[int],
    data: Dataset,
    *,
    symmetric: bool,
    seed: int,
    quiet: bool,
) -> onnx.ModelProto:
    """A copy of the graph's model with these nodes quantised, as the quantizer writes it; node i is named `i`.

    Args:
        graph: In float32.
        infos: What `probe` measured.
        nodes: Positions of the nodes.
        data: Where the ranges of activations come from.
        symmetric: int8 activations with zero point 0 and float biases, which TensorRT asks for;
            otherwise uint8 activations, which processors prefer.
        seed: Which samples.
        quiet: Show no progress.

    Raises:
        ModelError: The quantizer cannot.
        DataError: A sample cannot be read.
    """
    activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(_named(graph, infos), source)
        order = np.random.default_rng(seed).permutation(len(data))[:SAMPLES]
        with progress("quantising", len(order), quiet=quiet) as advance, _silent():
            try:
                quantize_static(
                    str(source),
                    str(target),
                    _Reader(data, order, advance),
                    op_types_to_quantize=sorted({graph.nodes[i].op_type for i in nodes}),
                    nodes_to_quantize=[str(i) for i in nodes],
                    per_channel=True,
                    activation_type=activations,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                    extra_options={
                        "ActivationSymmetric": symmetric,
                        "QuantizeBias": not symmetric,
                        "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    },
                )
                return onnx.load(target)
            except EdgeExitError:
                raise
            except Exception as error:  # the quantizer raises whatever it stumbles over
                raise ModelError(
                    "ONNX Runtime cannot quantise the model",
                    got=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}",
                    remedy="--precision fp16 or fp32",
                ) from error


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples as the quantizer reads them."""

    def __init__(self, data: Dataset, order: NDArray[np.int64], advance: object) -> None:
        self._batches = data.batches(_BATCH, order)
        self._advance = advance

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """The next batch, or None at the end."""
        batch = next(self._batches, None)
        if batch is not None:
            self._advance(len(next(iter(batch.values()))))  # type: ignore[operator]
        return batch


def _named(graph: Graph, infos: Mapping[str, TensorInfo]) -> onnx.ModelProto:
    """The model with its nodes named by position, and the type of every tensor declared: the quantizer asks."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for i, node in enumerate(model.graph.node):
        node.name = str(i)
    outputs = {value.name for value in model.graph.output}
    for value in model.graph.output:
        value.CopyFrom(_declared(value.name, infos[value.name]))
    names = [name for name in graph.producer if name not in outputs]
    model.graph.value_info.extend(_declared(name, infos[name]) for name in names)
    return model


def _declared(name: str, info: TensorInfo) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype))
    axes = [BATCH if a.per_sample == 1 and not a.fixed else None if a.per_sample else a.fixed for a in info.axes]
    return helper.make_tensor_value_info(name, kind, axes)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the quantizer's prints and advice away from the user's output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
