"""TensorRT as a backend. Handles are tensors in device memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import Advance, progress
from edgeexit.errors import BackendError
from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.base import Lane, SessionSettings, policy_tensors
from edgeexit_runtime.backends.handles import HandleLane
from edgeexit_runtime.backends.tensorrt import compaction
from edgeexit_runtime.backends.tensorrt.building import build
from edgeexit_runtime.backends.tensorrt.cache import EngineCache, Found
from edgeexit_runtime.backends.tensorrt.device import Device, DeviceTensor
from edgeexit_runtime.backends.tensorrt.driver import Gpu
from edgeexit_runtime.backends.tensorrt.engine import Engine
from edgeexit_runtime.backends.tensorrt.execution import Execution, Scratch
from edgeexit_runtime.backends.tensorrt.fingerprint import fingerprint
from edgeexit_runtime.backends.tensorrt.lane import TensorRTLane
from edgeexit_runtime.backends.tensorrt.library import make_log, translated
from edgeexit_runtime.backends.tensorrt.memory import DeviceMemory
from edgeexit_runtime.backends.tensorrt.monitor import PARTS, Phases
from edgeexit_runtime.backends.tensorrt.ranges import DEFAULT_BATCHES, BatchRange, ranges_up_to
from edgeexit_runtime.backends.tensorrt.segment import TensorRTSegment

__all__ = ["Built", "TensorRTBackend"]

Progress = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Built:
    """An engine that is in the cache now.

    Attributes:
        found: The engine.
        path: Its file.
        built: Whether it was built just now.
        reasons: Why: what has changed since it was built last, nothing if there was none.
        build_s: How long the build took; 0 without one.
    """

    found: Found
    path: Path
    built: bool
    reasons: tuple[str, ...]
    build_s: float

    @property
    def ranges(self) -> tuple[BatchRange, ...]:
        """Its batch ranges."""
        return tuple(BatchRange(*bounds) for bounds in self.found.fingerprint.ranges)


class TensorRTBackend:
    """See `Backend`.

    Args:
        gpu: The GPU, as the driver described it.
        trt: TensorRT.
        memory: Device memory.
        cache: Where engines are kept.
        ranges: The batch ranges to build for. Engines with other ranges are good enough when None; where there
            is none at all, it is built for the default ranges.
        workspace_mb: MiB that a layer may use besides its tensors; no limit when None.
        progress: Shows how far a build is; on standard error when not given.
        clock: Seconds.

    Raises:
        BackendError: TensorRT gives no runtime.
    """

    name = "tensorrt"

    def __init__(
        self,
        gpu: Gpu,
        trt: Any,
        memory: DeviceMemory,
        cache: EngineCache,
        *,
        ranges: Sequence[BatchRange] | None = None,
        workspace_mb: int | None = None,
        progress: Progress = progress,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.gpu = gpu
        self.trt = trt
        self.cache = cache
        self._ranges = ranges_up_to(DEFAULT_BATCHES) if ranges is None else tuple(ranges)
        self._chosen = ranges is not None or workspace_mb is not None
        self._workspace_mb = workspace_mb
        self._progress = progress
        self._clock = clock
        self._log = make_log(trt)
        self._device = Device(memory)
        self._scratch = Scratch(self._device)
        with self._device, translated(self._log, f"TensorRT {trt.__version__} gives no runtime here"):
            self._runtime = trt.Runtime(self._log)

    def open(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> TensorRTSegment:
        """See `Backend.open`. An engine that is not in the cache, or not of this machine as it is, is built.

        Raises:
            BackendError: Also where the cached engine is not one that this device wrote.
        """
        policy = policy_tensors(entry, tensors)
        found = self._cached(data, entry)
        if found is None:
            with self._progress(f"building the engine of {entry.file.path}", PARTS) as advance:
                found = self.build(data, entry, advance)
        rows = {spec.name: spec.shape for spec in entry.inputs}
        with self._device as device:
            engine = Engine(self.trt, self._runtime, self._log, found.found.engine, entry, found.ranges)
            execution = Execution(engine, device, self._scratch, rows)
            return TensorRTSegment(device, execution, entry, self._bound(policy))

    def build(self, data: bytes, entry: SegmentEntry, advance: Advance, *, replace_foreign: bool = False) -> Built:
        """Put a segment's engine into the cache, unless it is there and fits.

        Args:
            data: The graph, its hash checked.
            entry: What the manifest says about it.
            advance: Called for `PARTS` in all.
            replace_foreign: Whether a file that this device did not write is replaced; else it is refused.

        Raises:
            BackendError: TensorRT cannot build it, the device failed, or the cache is refused or cannot be written.
        """
        reasons: tuple[str, ...] = ()
        try:
            found, reasons = self._look_up(data, entry)
        except BackendError as error:
            if not replace_foreign:
                raise
            found, reasons = None, (error.problem,)
        if found is not None:
            advance(PARTS)
            return found
        started_s = self._clock()
        engine = self._build(data, entry, Phases(advance), replace_foreign)
        wanted = fingerprint(data, entry, self.gpu, self.trt.__version__, self._ranges, self._workspace_mb)
        made = Found(engine, wanted)
        return Built(made, self.cache.store(made), True, reasons, self._clock() - started_s)

    def rebound(
        self, segment: TensorRTSegment, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]
    ) -> TensorRTSegment:
        """See `Backend.rebound`."""
        policy = policy_tensors(entry, tensors)
        with self._device as device:
            return TensorRTSegment(device, segment.execution, entry, self._bound(policy))

    def lane(
        self,
        segments: Sequence[TensorRTSegment],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
        capacity: int = 1,
    ) -> Lane:
        """See `Backend.lane`."""
        if capacity > 1:
            return HandleLane(self, segments, entries, inputs)
        return TensorRTLane(self._device, self._scratch, segments, entries, inputs)

    def take(self, handle: DeviceTensor, rows: NDArray[np.intp]) -> DeviceTensor:
        """See `Backend.take`."""
        with self._device as device:
            return compaction.take(device, handle, rows)

    def concat(self, handles: Sequence[DeviceTensor]) -> DeviceTensor:
        """See `Backend.concat`."""
        with self._device as device:
            return compaction.concat(device, handles)

    def to_device(self, array: NDArray[Any]) -> DeviceTensor:
        """See `Backend.to_device`."""
        with self._device as device:
            return device.upload(np.ascontiguousarray(array))

    def to_host(self, handle: DeviceTensor) -> NDArray[Any]:
        """A copy on the host."""
        with self._device as device:
            return device.download(handle)

    def _bound(self, policy: Mapping[str, NDArray[Any]]) -> dict[str, DeviceTensor]:
        """The policy tensors on the device, for good."""
        bound = {name: self._device.upload(np.ascontiguousarray(array)) for name, array in policy.items()}
        self._device.synchronise()
        return bound

    def _cached(self, data: bytes, entry: SegmentEntry) -> Built | None:
        return self._look_up(data, entry)[0]

    def _look_up(self, data: bytes, entry: SegmentEntry) -> tuple[Built | None, tuple[str, ...]]:
        """The engine, if it fits, and otherwise why it does not."""
        wanted = fingerprint(data, entry, self.gpu, self.trt.__version__, self._ranges, self._workspace_mb)
        digest = hashlib.sha256(data).hexdigest()
        found = self.cache.load(digest)
        if found is None:
            return None, ()
        reasons = tuple(found.fingerprint.changes(wanted, chosen=self._chosen))
        return (None, reasons) if reasons else (Built(found, self.cache.path(digest), False, (), 0.0), ())

    def _build(self, data: bytes, entry: SegmentEntry, phases: Phases, replace_foreign: bool) -> bytes:
        version, gpu = self.trt.__version__, self.gpu.name
        timings = self.cache.load_timings(version, gpu, replace_foreign=replace_foreign)
        with self._device:
            plan = build(
                self.trt,
                self._log,
                data,
                entry,
                ranges=self._ranges,
                workspace_mb=self._workspace_mb,
                timings=timings,
                phases=phases,
            )
        if plan.timings:
            self.cache.store_timings(version, gpu, plan.timings)
        phases.complete()
        return plan.engine
