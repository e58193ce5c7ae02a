"""What the cascade is compared with, made of its own segments: the bare chain, and the cascade with free checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.manifest import Manifest, SegmentEntry
from edgeexit_runtime.backends.base import SessionSettings, policy_tensors
from edgeexit_runtime.backends.onnx_graph import Graph
from edgeexit_runtime.backends.onnxruntime import OnnxRuntimeLane
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.merge import onnx_is_here, without_head

__all__ = ["Chain", "Link", "bare_chain", "ideal_chain"]


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
    """Segments in a row with no policy between them, in lanes as in the cascade.

    Args:
        manifest: The bundle's manifest.
        links: What to run, in order.
    """

    def __init__(self, manifest: Manifest, links: Sequence[Link]) -> None:
        self.links = tuple(links)
        self._manifest = manifest
        self._inputs = [spec.name for spec in manifest.inputs]
        self._lanes: dict[int, OnnxRuntimeLane] = {}

    def __call__(self, batch: Arrays) -> None:
        """Run every segment on every sample."""
        arrays = [batch[name] for name in self._inputs]
        lane = self._lane(len(arrays[0]))
        lane.start(arrays)
        for i in range(len(self.links)):
            lane.run(i)
        lane.stop()

    def survivors_s(self, batch: Arrays, exits: NDArray[np.int64], clock: Callable[[], float]) -> float:
        """Run each segment on the samples that get there, and time nothing but the segments.

        Args:
            batch: n samples.
            exits: (n,) the exit that each sample takes.
            clock: Seconds.

        Returns:
            Seconds.
        """
        lane = self._lane(len(exits))
        lane.start([batch[name] for name in self._inputs])
        seconds = 0.0
        for i, link in enumerate(self.links):
            gone = exits < link.index
            if gone.all():
                break
            if gone.any():
                exits = exits[lane.keep(gone)]
            start_s = clock()
            lane.run(i)
            seconds += clock() - start_s
        lane.stop()
        return seconds

    def _lane(self, n: int) -> OnnxRuntimeLane:
        capacity = 1 << (n - 1).bit_length()
        if capacity not in self._lanes:
            classes = [len(self._manifest.labels) if link.with_head else None for link in self.links]
            graphs, entries = [link.graph for link in self.links], [link.entry for link in self.links]
            self._lanes[capacity] = OnnxRuntimeLane(graphs, entries, self._manifest.inputs, classes, capacity)
        return self._lanes[capacity]


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
