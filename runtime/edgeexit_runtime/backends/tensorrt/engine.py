"""An engine: deserialised once, and held against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeexit.errors import BackendError, BundleError
from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.backends.tensorrt.library import data_types, failure, translated
from edgeexit_runtime.backends.tensorrt.ranges import BatchRange

__all__ = ["Engine"]


class Engine:
    """A segment's engine. Nothing but bytes that this device sealed may get here.

    Args:
        trt: TensorRT.
        runtime: Its runtime, which must live as long as the engine.
        log: Its logger.
        data: The serialised engine.
        entry: What the manifest says about the segment.
        ranges: The engine's batch ranges.

    Attributes:
        ranges: As given.
        inputs: The names of the inputs that the engine reads; the parser leaves out what no operator uses.
        classes: The number of classes; 0 for a segment without a head.

    Raises:
        OutOfDeviceMemoryError: The device has no room for it.
        BackendError: TensorRT cannot read it.
        BundleError: Its tensors are not those that the manifest lists.
    """

    def __init__(
        self, trt: Any, runtime: Any, log: Any, data: bytes, entry: SegmentEntry, ranges: Sequence[BatchRange]
    ) -> None:
        self.ranges = tuple(ranges)
        self._trt, self._runtime, self._log = trt, runtime, log
        self._name = entry.file.path
        with translated(log, f"TensorRT {trt.__version__} cannot load the engine of {self._name}"):
            self._engine = cuda_engine = runtime.deserialize_cuda_engine(data)
        if cuda_engine is None:
            raise self.failed("cannot load the engine of")
        names = [cuda_engine.get_tensor_name(index) for index in range(cuda_engine.num_io_tensors)]
        modes = {name: cuda_engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self._check(entry, [name for name in names if name not in self.inputs])
        self.classes = int(tuple(cuda_engine.get_tensor_shape(entry.logits))[1]) if entry.logits else 0

    def context(self) -> Any:
        """A new execution context, which is given its memory before each run."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with translated(self._log, f"TensorRT {self._trt.__version__} cannot make a context for {self._name}"):
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self.failed("cannot make a context for")
        return context

    def scratch_bytes(self, profile: int) -> int:
        """The memory that a context needs besides its tensors, in batches of one profile's range."""
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def failed(self, problem: str, error: Exception | None = None) -> BackendError:
        """The error to raise when TensorRT said no, or raised; `problem` goes before the segment's name."""
        return failure(self._log, f"TensorRT {self._trt.__version__} {problem} {self._name}", error)

    def _check(self, entry: SegmentEntry, outputs: Sequence[str]) -> None:
        batch = [(spec.name, spec.dtype, (-1, *spec.shape)) for spec in (*entry.inputs, *entry.outputs)]
        bound = [(spec.name, spec.dtype, spec.shape) for spec in entry.policy_inputs]
        head = [entry.logits] if entry.logits else []
        known = {*(name for name, _, _ in (*batch, *bound)), *head}
        made = {*head, *(spec.name for spec in entry.outputs)}
        if made != set(outputs) or not known.issuperset(self.inputs):
            raise BundleError(
                f"{self._name} has other tensors than the manifest says",
                got=", ".join([*self.inputs, *outputs]),
                expected=", ".join(sorted(known)),
            )
        for name, dtype, shape in (*batch, *bound):
            if name in self.inputs or name in outputs:
                self._expect(name, dtype, shape)
        for name in head:
            self._expect(name, "float32", (-1, None))

    def _expect(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> None:
        found = tuple(self._engine.get_tensor_shape(name))
        kind = self._engine.get_tensor_dtype(name)
        found_dtype = data_types(self._trt).get(kind, str(kind))
        same = len(found) == len(shape) and all(
            length == there if length is not None else there > 0 for length, there in zip(shape, found, strict=False)
        )
        if found_dtype != dtype or not same:
            raise BundleError(
                f"{self._name}: the tensor {name} is not what the manifest says",
                got=f"{found_dtype} {_describe(found)}",
                expected=f"{dtype} {_describe(shape)}",
            )


def _describe(shape: Sequence[int | None]) -> str:
    return f"({', '.join('n' if length in (-1, None) else str(length) for length in shape)})"
