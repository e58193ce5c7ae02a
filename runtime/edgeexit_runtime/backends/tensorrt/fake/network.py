"""The side of the fake TensorRT that parses and builds."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from edgeexit_runtime.backends.tensorrt.fake.enums import BuilderFlag, MemoryPoolType, Severity
from edgeexit_runtime.backends.tensorrt.fake.memory import DeviceFaultError, FakeMemory
from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError

__all__ = ["ENGINE_MAGIC", "TYPES", "Shape", "builder_classes", "open_graph"]

ENGINE_MAGIC = b"FAKE-TENSORRT-ENGINE"
TIMINGS_MAGIC = b"FAKE-TENSORRT-TIMINGS "

Shape = tuple[int, ...]

TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name})": name for name in ("int8", "uint8", "int32", "int64")},
}


def open_graph(data: bytes) -> Any:
    """The ONNX graph in ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def builder_classes(trt: Any, device: FakeMemory, *, typed_only_when_told: bool) -> dict[str, type]:
    """The builder's classes, by their names in TensorRT."""

    class INetworkDefinition:
        def __init__(self, flags: int) -> None:
            strongly_typed = bool(flags >> 1 & 1) or not typed_only_when_told
            if not strongly_typed:
                raise DeviceFaultError("a network that is not strongly typed: its precision is TensorRT's choice")
            self._data = b""
            self._inputs: dict[str, list[int]] = {}

    class ParserError:
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network, self._log = network, logger
            self._errors: list[ParserError] = []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

        def parse(self, model: bytes) -> bool:
            try:
                session = open_graph(model)
            except Exception as error:
                self._errors.append(ParserError(f"In node -1: {error}"))
                return False
            unknown = [node.type for node in session.get_inputs() if node.type not in TYPES]
            if unknown:
                self._errors.append(ParserError(f"Unsupported data type {unknown[0]}"))
                return False
            self._network._data = bytes(model)
            self._network._inputs = {
                node.name: [length if isinstance(length, int) else -1 for length in node.shape]
                for node in session.get_inputs()
            }
            return True

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

        def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
            if not all(low <= best <= high for low, best, high in zip(min, opt, max, strict=True)):
                raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
            self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content

    class IBuilderConfig:
        def __init__(self) -> None:
            self._profiles: list[IOptimizationProfile] = []
            self.progress_monitor: Any = None
            self._limits: dict[MemoryPoolType, int] = {}
            self._flags = {BuilderFlag.TF32}
            self._timing: ITimingCache | None = None

        def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
            self._limits[pool] = pool_size

        def clear_flag(self, flag: BuilderFlag) -> None:
            self._flags.discard(flag)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(bytes(serialized_timing_cache))

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            header = TIMINGS_MAGIC + trt.__version__.encode()
            if cache._content and not cache._content.startswith(header) and not ignore_mismatch:
                return False
            self._timing = cache
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            if not getattr(logger, "_initialised", False):
                raise TypeError("TensorRT's __init__ of the logger was not called")
            self._log = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
            trt.timed.append(b"" if config._timing is None else config._timing._content)
            problem = _profile_problem(network._inputs, config._profiles)
            if problem:
                self._log.log(Severity.ERROR, problem)
                return None
            if not _told(config.progress_monitor):
                self._log.log(Severity.ERROR, "Build was cancelled")
                return None
            try:  # what a builder takes to time kernels
                device.free(device.allocate(max(len(network._data), 1)))
            except OutOfDeviceMemoryError as error:
                self._log.log(Severity.ERROR, f"[executor] Error Code 2: OutOfMemory ({error})")
                return None
            trt.built += 1
            if config._timing is not None:
                config._timing._content = TIMINGS_MAGIC + f"{trt.__version__} after {trt.built}".encode()
            header = json.dumps(
                {
                    "version": trt.__version__,
                    "profiles": [profile._shapes for profile in config._profiles],
                    "tf32": BuilderFlag.TF32 in config._flags,
                    "workspace": config._limits.get(MemoryPoolType.WORKSPACE),
                }
            ).encode()
            return ENGINE_MAGIC + struct.pack("<I", len(header)) + header + network._data

    kinds = (Builder, IBuilderConfig, INetworkDefinition, IOptimizationProfile, ITimingCache, OnnxParser, ParserError)
    return {kind.__name__: kind for kind in kinds}


def _profile_problem(inputs: dict[str, list[int]], profiles: list[Any]) -> str | None:
    """Why a network cannot be built with these profiles."""
    dynamic = {name: shape for name, shape in inputs.items() if -1 in shape}
    if dynamic and not profiles:
        return "Error Code 4: Network has dynamic or shape inputs, but no optimization profile has been defined."
    for profile in profiles:
        for name, shape in dynamic.items():
            if name not in profile._shapes:
                return f"Error Code 4: input {name} has dynamic shapes but no profile"
            for given in profile._shapes[name]:
                fixed = [length if there == -1 else there for length, there in zip(given, shape, strict=False)]
                if len(given) != len(shape) or list(given) != fixed or np.prod(given) >= 1 << 31:
                    return f"Error Code 4: the profile's shape {given} of {name} does not match {shape}"
    return None


def _told(monitor: Any) -> bool:
    """Tell of a build in two phases, one within the other; whether it may go on."""
    if monitor is None:
        return True
    if not monitor._initialised:
        raise TypeError("TensorRT's __init__ of the monitor was not called")
    going = True
    monitor.phase_start("Building Engine", None, 2)
    for step in range(2):
        monitor.phase_start("Timing Graph", "Building Engine", 4)
        for inner in range(4):
            going = going and bool(monitor.step_complete("Timing Graph", inner))
        monitor.phase_finish("Timing Graph")
        going = going and bool(monitor.step_complete("Building Engine", step))
    monitor.phase_finish("Building Engine")
    return going
