"""Measure every tensor of a graph by running it twice, with two batch sizes.

Shape inference guesses; running knows. A tensor whose axis 0 follows the batch, and whose other
axes don't, can cross a cut; any other cannot, because samples that left could not be taken out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit.precision import products_saturate
from edgeexit_exporters.graph import Graph

__all__ = ["PROBE_BATCHES", "Axis", "Rounding", "TensorInfo", "probe", "session"]

PROBE_BATCHES = (2, 3)
_MIXING = 0.02


@dataclass(frozen=True)
class Axis:
    """An axis whose length is `per_sample` · batch + `fixed`."""

    per_sample: int
    fixed: int


@dataclass(frozen=True)
class Rounding:
    """What integers stand for: (integer − zero_point) · scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's dtype (NumPy's name) and its axes.

    `mixes` says that the first samples' rows changed when another sample joined the batch. `rounding` is
    there where the integers of a quantised model stand for other numbers.
    """

    dtype: str
    axes: tuple[Axis, ...]
    mixes: bool = False
    rounding: Rounding | None = None

    @property
    def continuous(self) -> bool:
        """Whether the values stand for real numbers: floating point, or rounded to integers."""
        return self.rounding is not None or np.issubdtype(np.dtype(self.dtype), np.floating)

    @property
    def batched(self) -> bool:
        """Axis 0 is the batch and no other axis depends on it."""
        return bool(self.axes) and self.axes[0] == Axis(1, 0) and all(axis.per_sample == 0 for axis in self.axes[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all axes but the batch."""
        return tuple(axis.fixed for axis in self.axes[1:])

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def at(self, batch: int) -> tuple[int, ...]:
        """The whole shape at a batch size."""
        return tuple(axis.per_sample * batch + axis.fixed for axis in self.axes)


def session(model: onnx.ModelProto | bytes, *, threads: int = 0, optimise: bool = True) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, spinning off.

    Raises:
        ModelError: ONNX Runtime does not accept the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        data = model if isinstance(model, bytes) else model.SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime and protobuf raise many unrelated types
        raise ModelError("ONNX Runtime cannot load the model", got=_first_line(error)) from error


def probe(graph: Graph, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, TensorInfo]:
    """Run the graph on the first 2 and 3 rows of `feeds` and measure every tensor.

    Args:
        graph: The whole graph.
        feeds: An array for each input, axis 0 at least 3.

    Returns:
        Each input's and each node output's dtype and axes; initialisers too.

    Raises:
        ModelError: The graph does not run with a batch of 2 or 3.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    names = list(graph.producer)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    running = session(model, optimise=False)
    found = []
    for batch in PROBE_BATCHES:
        rows = {name: np.ascontiguousarray(array[:batch]) for name, array in feeds.items()}
        try:
            values = running.run(names, rows)
        except Exception as error:
            raise ModelError(
                f"the model does not run with a batch of {batch}",
                got=_first_line(error),
                expected="a graph in which the batch size is free",
                remedy="export the model with a dynamic batch axis",
            ) from error
        found.append({name: np.asarray(value) for name, value in zip(names, values, strict=True)} | rows)
    two, three = found
    infos = {name: _compare(two[name], three[name]) for name in two}
    for name, tensor in graph.initializers.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        infos[name] = TensorInfo(dtype, tuple(Axis(0, length) for length in tensor.dims))
    return infos


def _compare(two: NDArray[np.generic], three: NDArray[np.generic]) -> TensorInfo:
    if two.ndim != three.ndim:
        return TensorInfo(two.dtype.name, tuple(Axis(0, length) for length in two.shape))
    axes = tuple(Axis(b - a, a - 2 * (b - a)) for a, b in zip(two.shape, three.shape, strict=True))
    info = TensorInfo(two.dtype.name, axes)
    if info.batched and not _close(two, three[: len(two)]):
        return replace(info, mixes=True)
    return info


def _close(alone: NDArray[np.generic], joined: NDArray[np.generic]) -> bool:
    if not np.issubdtype(alone.dtype, np.floating):
        return True  # a rounding difference may turn an integer; floating-point tensors tell
    a, b = alone.astype(np.float64), joined.astype(np.float64)
    scale = max(1e-6, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
    return bool(np.allclose(a, b, rtol=0.0, atol=_MIXING * scale, equal_nan=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:400]
