"""The whole model in one piece: what every cascade has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, ModelError
from edgeexit_runtime.backends.base import SessionSettings
from edgeexit_runtime.backends.onnx_graph import Graph
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.merge import onnx_is_here, whole_model

__all__ = ["Whole", "as_it_comes", "merged_whole", "whole_from_file"]

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMBERS = ("bool", "float16", "float32", "float64", *INTEGERS)


class Whole:
    """A model in one piece. A single sample is run on bound arrays, as in a lane, so that like is compared with like.

    Args:
        graph: The model.
        noise: Makes the arrays for n samples, for a model that the bundle's samples don't fit.
        source: What it was opened from: the graph's bytes, or the path of its file.
        constants: Inputs that are bound once.

    Attributes:
        source: As given.
        constants: As given.
    """

    def __init__(
        self,
        graph: Graph,
        noise: Callable[[int], Arrays] | None = None,
        *,
        source: bytes | str = b"",
        constants: Arrays | None = None,
    ) -> None:
        self.source = source
        self.constants = dict(constants or {})
        self._graph = graph
        self._noise = noise
        self._single: _Single | None = None

    def feeds(self, batch: Arrays) -> dict[str, NDArray[Any]]:
        """What the model takes for a batch of the bundle's samples."""
        arrays = batch if self._noise is None else self._noise(len(next(iter(batch.values()))))
        return {name: arrays[name] for name in self._graph.inputs}

    def __call__(self, batch: Arrays) -> list[NDArray[Any]]:
        """Run once. The outputs for a single sample hold until the next."""
        inputs = list(self.feeds(batch).values())
        if len(inputs[0]) != 1:
            return self._graph.run(inputs)
        if self._single is None:
            self._single = _Single(self._graph, inputs)
        return self._single.run(inputs)


class _Single:
    """A graph on arrays of its own, laid out after a first run told the shapes of the outputs."""

    def __init__(self, graph: Graph, inputs: Sequence[NDArray[Any]]) -> None:
        self._inputs = [array.copy() for array in inputs]
        self._outputs = [array.copy() for array in graph.run(inputs)]
        names = (*graph.inputs, *graph.outputs)
        self._run = graph.bound(dict(zip(names, (*self._inputs, *self._outputs), strict=True)))

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        for kept, array in zip(self._inputs, inputs, strict=True):
            kept[...] = array
        self._run()
        return self._outputs


def merged_whole(bundle: Bundle, settings: SessionSettings) -> Whole | None:
    """The model merged from the bundle's segments; None where onnx is not installed.

    Raises:
        BundleError: The segments cannot be merged.
    """
    if not onnx_is_here():
        return None
    entries = bundle.manifest.segments
    merged = whole_model([bundle.segment(k) for k in range(len(entries))], entries)
    constants = {name: bundle.exits[name] for name in merged.policy_inputs}
    graph = Graph(merged.data, "the merged model", settings, constants=constants)
    return Whole(graph, source=merged.data, constants=constants)


def whole_from_file(path: Path, bundle: Bundle, settings: SessionSettings) -> Whole:
    """The model as the user has it. Where its inputs are not the bundle's, it gets noise of the right shape.

    Raises:
        ModelError: The file cannot be opened, or its inputs have no batch axis of any length.
    """
    try:
        graph = Graph(str(path), str(path), settings)
    except BundleError as error:
        raise ModelError(error.problem, got=error.got, expected="an ONNX model") from error
    tensors = {name: graph.tensor(name) for name in graph.inputs}
    if tensors == {spec.name: (spec.dtype, (None, *spec.shape)) for spec in bundle.manifest.inputs}:
        return Whole(graph, source=str(path))
    for name, (dtype, shape) in tensors.items():
        if not shape or shape[0] is not None or None in shape[1:] or dtype not in NUMBERS:
            raise ModelError(
                f"{path} cannot be run on batches: the input {name} has an unsuitable type or shape",
                got=f"{dtype} {shape}",
                expected="numbers of shape (n, …), the first length open, the others known",
            )
    return Whole(graph, lru_cache(maxsize=1)(partial(_noise, tensors)), source=str(path))


def as_it_comes(whole: Whole, threads: int) -> Callable[[Arrays], object]:
    """The model in ONNX Runtime with nothing set but the number of threads, run as its first example shows."""
    import onnxruntime as ort  # Graph sets what is to be left alone here

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(whole.source, options, providers=["CPUExecutionProvider"])

    def run(batch: Arrays) -> object:
        return session.run(None, {**whole.feeds(batch), **whole.constants})

    return run


def _noise(tensors: Mapping[str, tuple[str, tuple[int | None, ...]]], n: int) -> Arrays:
    random = np.random.default_rng(0)
    lengths = {name: (n, *(length for length in shape[1:] if length)) for name, (_, shape) in tensors.items()}
    return {name: random.uniform(0, 2, lengths[name]).astype(dtype) for name, (dtype, _) in tensors.items()}
