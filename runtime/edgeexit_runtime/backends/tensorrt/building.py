"""Building an engine from the ONNX bytes of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeexit.errors import BackendError
from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.backends.tensorrt.library import failure, translated
from edgeexit_runtime.backends.tensorrt.monitor import Phases, make_monitor
from edgeexit_runtime.backends.tensorrt.ranges import BatchRange

__all__ = ["Plan", "build"]

MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """A built engine, serialised.

    Attributes:
        engine: What TensorRT deserialises.
        timings: The timing cache as it is after the build; empty where TensorRT keeps none.
    """

    engine: bytes
    timings: bytes


def build(
    trt: Any,
    log: Any,
    data: bytes,
    entry: SegmentEntry,
    *,
    ranges: Sequence[BatchRange],
    workspace_mb: int | None,
    timings: bytes,
    phases: Phases,
) -> Plan:
    """Build the engine of a segment.

    The network is strongly typed: each layer computes in the dtypes that the graph says, so that precision
    is the bundle's. TensorFloat-32 is off, because a float32 graph was calibrated with all its digits.

    Args:
        trt: TensorRT.
        log: Its logger, see `make_log`.
        data: The graph, its hash checked.
        entry: What the manifest says about it.
        ranges: One optimisation profile each.
        workspace_mb: MiB that a layer may use besides its tensors; no limit when None.
        timings: A timing cache that this device wrote; empty for none.
        phases: Told what goes on.

    Raises:
        OutOfDeviceMemoryError: The device has no room to build it.
        BackendError: TensorRT does not know an operator, or cannot build the network.
    """
    log.lines.clear()
    with translated(log, f"TensorRT {trt.__version__} cannot build {entry.file.path}"):
        builder = trt.Builder(log)
        network = builder.create_network(_strongly_typed(trt))
        _parse(trt, log, network, data, entry.file.path)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        if workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb * MIB)
        _add_profiles(builder, config, log, entry, ranges)
        timing = _timing_cache(config, timings)
        config.progress_monitor = monitor = make_monitor(trt, phases)
        serialised = builder.build_serialized_network(network, config)
        phases.reraise()
        if serialised is None:
            raise failure(log, f"TensorRT {trt.__version__} cannot build {entry.file.path}")
        del monitor  # held until the build was over
        return Plan(bytes(serialised), b"" if timing is None else bytes(timing.serialize()))


def _strongly_typed(trt: Any) -> int:
    """The flags of a strongly typed network. TensorRT 11 makes no other, and may drop the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, log: Any, network: Any, data: bytes, name: str) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(data):
        return
    reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    raise BackendError(
        f"TensorRT {trt.__version__} cannot read {name}",
        got=reasons[0].strip() if reasons else failure(log, "").got,
        remedy="--backend onnxruntime",
    )


def _add_profiles(builder: Any, config: Any, log: Any, entry: SegmentEntry, ranges: Sequence[BatchRange]) -> None:
    for first, last in ranges:
        profile = builder.create_optimization_profile()
        for spec in entry.inputs:
            profile.set_shape(spec.name, (first, *spec.shape), (last, *spec.shape), (last, *spec.shape))
        if config.add_optimization_profile(profile) < 0:
            raise failure(log, f"TensorRT refuses the batches {BatchRange(first, last)} for {entry.file.path}")


def _timing_cache(config: Any, timings: bytes) -> Any:
    """A timing cache for the build: what was written before, or an empty one where TensorRT refuses that."""
    for content in (timings, b""):
        timing = config.create_timing_cache(content)
        if timing is not None and config.set_timing_cache(timing, False):
            return timing
    return None
