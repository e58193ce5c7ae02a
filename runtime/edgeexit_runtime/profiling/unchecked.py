"""The chain without the exits' checks, in ONNX Runtime: what it takes less is what the checks cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.manifest import Manifest
from edgeexit_runtime.backends import Backend, Segment, SessionSettings
from edgeexit_runtime.headless import headless_graph

__all__ = ["UncheckedChain", "unchecked_chain"]


class UncheckedChain:
    """The segments of a bundle in a row, without the heads that were fitted for exits.

    Args:
        manifest: The bundle's manifest.
        graphs: One per segment.
        leaves_out: Whether each is without its head.
        largest: The most samples at once.

    Attributes:
        leaves_out: As given.
    """

    def __init__(self, manifest: Manifest, graphs: Sequence[Any], leaves_out: Sequence[bool], largest: int) -> None:
        from edgeexit_runtime.backends.onnxruntime import OnnxRuntimeLane

        self.leaves_out = tuple(leaves_out)
        classes = [None if without else len(manifest.labels) for without in leaves_out]
        self._lane = OnnxRuntimeLane(graphs, manifest.segments, manifest.inputs, classes, largest)

    def seconds(self, arrays: Sequence[NDArray[Any]], clock: Callable[[], float]) -> list[float]:
        """Run all segments on a batch, one array per input of the model, and time each."""
        spent = []
        self._lane.start(arrays)
        for k in range(len(self.leaves_out)):
            start_s = clock()
            self._lane.run(k)
            spent.append(clock() - start_s)
        self._lane.stop()
        return spent


def unchecked_chain(
    bundle: Bundle, backend: Backend, segments: Sequence[Segment], settings: SessionSettings, largest: int
) -> UncheckedChain | None:
    """The chain beside opened segments; None with a backend whose graphs are not ONNX Runtime's.

    The model's own logits are no check, and a segment that hands nothing on is all head: both stay.

    Raises:
        BundleError: A graph is malformed.
        BackendError: ONNX Runtime cannot run it.
    """
    if backend.name != "onnxruntime":
        return None
    from edgeexit_runtime.backends.base import policy_tensors
    from edgeexit_runtime.backends.onnx_graph import Graph

    graphs: list[Any] = []
    manifest = bundle.manifest
    leaves_out = [
        bool(entry.outputs) and exit_.head != "model"
        for entry, exit_ in zip(manifest.segments, manifest.exits, strict=True)
    ]
    for k, (entry, segment) in enumerate(zip(manifest.segments, segments, strict=True)):
        if not leaves_out[k]:
            graphs.append(segment.graph)  # type: ignore[attr-defined]  # by its name it is ONNX Runtime's
            continue
        headless = headless_graph(bundle.segment(k), entry)
        constants = policy_tensors(entry, bundle.exits)
        graphs.append(
            Graph(
                headless.data,
                f"{entry.file.path} without its head",
                settings,
                inputs=[spec.name for spec in entry.inputs],
                outputs=[spec.name for spec in entry.outputs],
                constants={name: constants[name] for name in headless.policy_inputs},
            )
        )
    return UncheckedChain(manifest, graphs, leaves_out, largest)
