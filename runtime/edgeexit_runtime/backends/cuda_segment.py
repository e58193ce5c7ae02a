"""A segment in a session of ONNX Runtime on a device, and the handles that it takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.backends.cuda_batches import SteadyBatch
from edgeexit_runtime.backends.cuda_rows import Rows
from edgeexit_runtime.backends.onnx_graph import Graph
from edgeexit_runtime.backends.ort_errors import running_error

__all__ = ["CudaSegment", "DeviceTensor"]


class DeviceTensor(NamedTuple):
    """A handle.

    Attributes:
        value: An OrtValue on the device, of at least `rows` rows.
        rows: How many of them are samples; those behind are filler.
    """

    value: Any
    rows: int


class CudaSegment:
    """See `Segment`. Safe to run from several threads at once.

    Args:
        graph: What to run.
        entry: The manifest's entry.
        constants: The policy tensors, on the device.
        rows: Chooses rows on the device.
        batch: Which batch sizes to run at; None for any.

    Attributes:
        graph: As given.
        entry: As given.
        constants: As given.
        batch: As given.
        gives_logits: Whether the graph does: not without its head.
    """

    def __init__(
        self,
        graph: Graph,
        entry: SegmentEntry,
        constants: Mapping[str, Any],
        rows: Rows,
        batch: SteadyBatch | None,
    ) -> None:
        self.graph = graph
        self.entry = entry
        self.constants = constants
        self.batch = batch
        self.gives_logits = entry.logits in graph.outputs
        self._rows = rows

    def run(self, inputs: Sequence[DeviceTensor]) -> tuple[list[DeviceTensor], NDArray[np.float32]]:
        """See `Segment.run`. Without logits they are (n, 0)."""
        n = inputs[0].rows
        size = n if self.batch is None else self.batch.fit(n)
        specs = self.entry.outputs
        outputs = [self._rows.device.empty((size, *spec.shape), spec.dtype) for spec in specs]
        feeds = {spec.name: self._sized(tensor, size) for spec, tensor in zip(self.entry.inputs, inputs, strict=True)}
        try:
            binding = self.bound(feeds, {spec.name: value for spec, value in zip(specs, outputs, strict=True)})
            if self.gives_logits:
                binding.bind_output(self.entry.logits, "cpu")
            self.graph.session.run_with_iobinding(binding)
            logits = binding.get_outputs()[-1].numpy() if self.gives_logits else np.zeros((size, 0), np.float32)
        except Exception as error:  # its exceptions have no common base below Exception
            raise running_error(self.graph.name, error) from error
        return [DeviceTensor(value, n) for value in outputs], logits[:n]

    def bound(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """An I/O binding with OrtValues by name, and with the constants.

        Device memory lives as long as the binding; what lies in an array has to be kept alive.
        """
        binding = self.graph.session.io_binding()
        for name, value in (*inputs.items(), *self.constants.items()):
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def rebound(self, constants: Mapping[str, Any]) -> CudaSegment:
        """The same session with other policy tensors."""
        return CudaSegment(self.graph, self.entry, constants, self._rows, self.batch)

    def _sized(self, tensor: DeviceTensor, size: int) -> Any:
        """The tensor's memory if it has this many rows, else a copy that has; the last sample is the filler."""
        if tensor.value.shape()[0] == size:
            return tensor.value
        return self._rows.gather(tensor.value, np.minimum(np.arange(size), tensor.rows - 1))
