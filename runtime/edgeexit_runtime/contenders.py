"""What the cascade is compared with: the whole model, the bare chain, and the cascade with free checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, ModelError
from edgeexit.manifest import Manifest, SegmentEntry
from edgeexit_runtime.backends.base import SessionSettings, policy_tensors
from edgeexit_runtime.backends.onnx_graph import Graph
from edgeexit_runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeLane
from edgeexit_runtime.merge import onnx_is_here, whole_model, without_head
from edgeexit_runtime.wiring import wire

__all__ = ["Chain", "Link", "Whole", "bare_chain", "ideal_chain", "merged_whole", "whole_from_file"]

Arrays = Mapping[str, NDArray[Any]]

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMBERS = ("bool", "float16", "float32", "float64", *INTEGERS)


class Whole:
    """A model in one piece. A single sample is run on bound arrays, as in a lane, so that like is compared with like.

    Args:
        graph: The model.
        noise: Makes the arrays for n samples, for a model that the bundle's samples don't fit.
    """

    def __init__(self, graph: Graph, noise: Callable[[int], Arrays] | None = None) -> None:
        self._graph = graph
        self._noise = noise
        self._single: _Single | None = None

    def __call__(self, batch: Arrays) -> list[NDArray[Any]]:
        """Run once. The outputs for a single sample hold until the next."""
        n = len(next(iter(batch.values())))
        feeds = batch if self._noise is None else self._noise(n)
        inputs = [feeds[name] for name in self._graph.inputs]
        if n != 1:
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


@dataclass(frozen=True)
class Link:
    """A segment of a `Chain`.

    Attributes:
        index: Of the segment in the bundle.
        entry: Its entry there.
        graph: What is run; its outputs are those of the entry, and the logits if it has its head.
        with_head: Whether it gives logits.
    """

    index: int
    entry: SegmentEntry
    graph: Graph
    with_head: bool


class Chain:
    """Segments in a row with no policy between them; a single sample goes through a lane, as in the cascade.

    Args:
        manifest: The bundle's manifest.
        links: What to run, in order.
    """

    def __init__(self, manifest: Manifest, links: Sequence[Link]) -> None:
        self.links = tuple(links)
        self._inputs = [spec.name for spec in manifest.inputs]
        self._backend = OnnxRuntimeBackend()
        entries = [link.entry for link in links]
        self._steps = wire(manifest.inputs, entries)
        classes = [len(manifest.labels) if link.with_head else None for link in links]
        self._lane = OnnxRuntimeLane([link.graph for link in links], entries, manifest.inputs, classes)

    def __call__(self, batch: Arrays) -> None:
        """Run every segment on every sample."""
        tensors = [batch[name] for name in self._inputs]
        if len(tensors[0]) == 1:
            self._lane.start(tensors)
            for i in range(len(self.links)):
                self._lane.run(i)
            return
        for link, step in zip(self.links, self._steps, strict=True):
            outputs = link.graph.run(step.inputs(tensors))
            tensors = step.carry(tensors, outputs)
            del outputs

    def survivors_s(self, batch: Arrays, exits: NDArray[np.int64], clock: Callable[[], float]) -> float:
        """Run each segment on the samples that get there, and time nothing but the segments.

        Args:
            batch: n samples.
            exits: (n,) the exit that each sample takes.
            clock: Seconds.

        Returns:
            Seconds.
        """
        tensors, seconds = [batch[name] for name in self._inputs], 0.0
        if len(exits) == 1:
            return self._survivor_s(tensors, int(exits[0]), clock)
        for link, step in zip(self.links, self._steps, strict=True):
            stay = np.flatnonzero(exits >= link.index)
            if len(stay) == 0:
                break
            if len(stay) < len(exits):
                tensors = [self._backend.take(tensor, stay) for tensor in tensors]
                exits = exits[stay]
            inputs = step.inputs(tensors)
            start_s = clock()
            outputs = link.graph.run(inputs)
            seconds += clock() - start_s
            tensors = step.carry(tensors, outputs[: len(link.entry.outputs)])
            del inputs, outputs
        return seconds

    def _survivor_s(self, tensors: Sequence[NDArray[Any]], exit_index: int, clock: Callable[[], float]) -> float:
        self._lane.start(tensors)
        start_s = clock()
        for i, link in enumerate(self.links):
            if link.index > exit_index:
                break
            self._lane.run(i)
        return clock() - start_s


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
    return Whole(Graph(merged.data, "the merged model", settings, constants=constants))


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
        return Whole(graph)
    for name, (dtype, shape) in tensors.items():
        if not shape or shape[0] is not None or None in shape[1:] or dtype not in NUMBERS:
            raise ModelError(
                f"{path} cannot be run on batches: the input {name} has an unsuitable type or shape",
                got=f"{dtype} {shape}",
                expected="numbers of shape (n, …), the first length open, the others known",
            )
    return Whole(graph, lru_cache(maxsize=1)(partial(_noise, tensors)))


def bare_chain(bundle: Bundle, settings: SessionSettings) -> Chain:
    """The chain with every exit disabled: early heads left out where onnx is installed, else run.

    Segments that hand nothing on, such as the small model of a cascade of models, are left out.

    Raises:
        BundleError: A segment cannot be opened.
    """
    entries = bundle.manifest.segments
    chosen = [k for k, entry in enumerate(entries) if entry.outputs or k == len(entries) - 1]
    heads = set(chosen) if not onnx_is_here() else {len(entries) - 1}
    return _chain(bundle, settings, chosen, heads)


def ideal_chain(bundle: Bundle, settings: SessionSettings) -> Chain | None:
    """The chain to time with `Chain.survivors_s`: what the exits cost if every check were free.

    Heads that were fitted for the exits are left out. Logits of the model itself, as in a model
    with several outputs or in a cascade of models, are no check and stay in. None where onnx is
    not installed.

    Raises:
        BundleError: A segment cannot be opened.
    """
    if not onnx_is_here():
        return None
    manifest = bundle.manifest
    last = len(manifest.segments) - 1
    heads = {k for k, entry in enumerate(manifest.exits) if entry.head == "model" or k == last}
    chosen = [k for k, entry in enumerate(manifest.segments) if entry.outputs or k in heads]
    return _chain(bundle, settings, chosen, heads)


def _chain(bundle: Bundle, settings: SessionSettings, chosen: Sequence[int], heads: set[int]) -> Chain:
    return Chain(bundle.manifest, [_link(bundle, settings, k, k in heads) for k in chosen])


def _link(bundle: Bundle, settings: SessionSettings, index: int, with_head: bool) -> Link:
    entry = bundle.manifest.segments[index]
    data = bundle.segment(index)
    constants = policy_tensors(entry, bundle.exits)
    outputs = [spec.name for spec in entry.outputs]
    if with_head:
        outputs.append(entry.logits)
    else:
        data, left = without_head(data, entry)
        constants = {name: tensor for name, tensor in constants.items() if name in left}
    inputs = [spec.name for spec in entry.inputs]
    graph = Graph(data, entry.file.path, settings, inputs=inputs, outputs=outputs, constants=constants)
    return Link(index, entry, graph, with_head)


def _noise(tensors: Mapping[str, tuple[str, tuple[int | None, ...]]], n: int) -> Arrays:
    random = np.random.default_rng(0)
    lengths = {name: (n, *(length for length in shape[1:] if length)) for name, (_, shape) in tensors.items()}
    return {name: random.uniform(0, 2, lengths[name]).astype(dtype) for name, (dtype, _) in tensors.items()}
