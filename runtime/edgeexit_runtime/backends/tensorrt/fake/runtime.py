"""The side of the fake TensorRT that loads engines and runs them."""

from __future__ import annotations

import json
import struct
import weakref
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends.tensorrt.fake.enums import (
    DataType,
    ExecutionContextAllocationStrategy,
    Severity,
    TensorIOMode,
)
from edgeexit_runtime.backends.tensorrt.fake.memory import DeviceFaultError, FakeMemory
from edgeexit_runtime.backends.tensorrt.fake.network import ENGINE_MAGIC, TYPES, Shape, open_graph
from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError

__all__ = ["SCRATCH_BYTES", "runtime_classes"]

SCRATCH_BYTES = 512
"""What an engine's layers need for each sample of a profile's largest batch."""


def runtime_classes(trt: Any, device: FakeMemory) -> dict[str, type]:
    """The runtime's classes, by their names in TensorRT."""

    class ICudaEngine:
        def __init__(self, log: Any, header: dict[str, Any], data: bytes) -> None:
            self._log = log
            self._profiles: list[dict[str, list[Shape]]] = header["profiles"]
            self._session = open_graph(data)
            fed, made = self._session.get_inputs(), self._session.get_outputs()
            self._modes = {node.name: TensorIOMode.INPUT for node in fed}
            self._modes.update({node.name: TensorIOMode.OUTPUT for node in made})
            self._types = {node.name: TYPES[node.type] for node in (*fed, *made)}
            self._shapes = {node.name: tuple(_length(length) for length in node.shape) for node in (*fed, *made)}
            self._fixed = {node.name: self._shapes[node.name] for node in fed if -1 not in self._shapes[node.name]}
            weights = device.allocate(max(len(data), 1))
            weakref.finalize(self, _free_weights, device, weights).atexit = False

        @property
        def num_io_tensors(self) -> int:
            return len(self._modes)

        def get_tensor_name(self, index: int) -> str:
            names: list[str] = list(self._modes)
            return names[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return self._modes[name]

        def get_tensor_dtype(self, name: str) -> DataType:
            return DataType(self._types[name])

        def get_tensor_shape(self, name: str) -> Shape:
            return self._shapes[name]

        def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
            return SCRATCH_BYTES * next(iter(self._profiles[profile_index].values()))[2][0]

        def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Any:
            if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
                raise DeviceFaultError("a context with memory of its own, for each segment")
            return IExecutionContext(self)

        def _sized(self, name: str, batch: int) -> Shape:
            return tuple(batch if length == -1 else length for length in self._shapes[name])

        def _refuse(self, reason: str) -> bool:
            self._log.log(Severity.ERROR, reason)
            return False

        def _execute(self, shapes: dict[str, Shape], addresses: dict[str, int], batch: int) -> None:
            feeds = {}
            for name in shapes:
                size_bytes = prod(self._sized(name, batch)) * np.dtype(self._types[name]).itemsize
                content = device.read(addresses[name], size_bytes)
                feeds[name] = content.view(self._types[name]).reshape(self._sized(name, batch))
            names = [name for name, mode in self._modes.items() if mode is TensorIOMode.OUTPUT]
            for name, result in zip(names, self._session.run(names, feeds), strict=True):
                device.write(addresses[name], _bytes(result))

    class IExecutionContext:
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine
            self._profile: int | None = None
            self._memory: tuple[int, int] | None = None
            self._shapes: dict[str, Shape] = dict(engine._fixed)
            self._addresses: dict[str, int] = {}

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            _check_stream(stream_handle)
            if not 0 <= profile_index < len(self._engine._profiles):
                self._engine._refuse(f"there is no profile {profile_index}")
                raise RuntimeError("Error in set optimization profile async.")
            self._profile, self._shapes = profile_index, dict(self._engine._fixed)
            return True

        def set_input_shape(self, name: str, shape: Shape) -> bool:
            if self._profile is None:
                raise DeviceFaultError("a shape was set before the profile")
            if name not in self._engine._profiles[self._profile]:
                return self._engine._refuse(f"{name} is no dynamic input")
            low, _, high = self._engine._profiles[self._profile][name]
            if len(low) != len(shape) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return self._engine._refuse(f"Error Code 3: {name} {shape} is outside profile {self._profile}")
            self._shapes[name] = tuple(shape)
            return True

        def set_device_memory(self, memory: int, size: int) -> None:
            _check_aligned(memory)
            self._memory = (memory, size)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if name not in self._engine._modes:
                return self._engine._refuse(f"there is no tensor {name}")
            _check_aligned(memory)
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            _check_stream(stream_handle)
            inputs = [name for name, mode in self._engine._modes.items() if mode is TensorIOMode.INPUT]
            missing = [name for name in self._engine._modes if name not in self._addresses]
            if missing:
                raise DeviceFaultError(f"the address of {missing[0]} was not set")
            if self._profile is None or any(name not in self._shapes for name in inputs):
                raise DeviceFaultError("an input's shape was not set since the profile was")
            needed = self._engine.get_device_memory_size_for_profile_v2(self._profile)
            if self._memory is None or self._memory[1] < needed:
                raise DeviceFaultError(f"{needed} bytes of device memory were not set")
            device.check(self._memory[0], needed)
            batches = {self._shapes[name][0] for name in inputs if name not in self._engine._fixed}
            if len(batches) != 1:
                raise DeviceFaultError(f"inputs of different batches: {self._shapes}")
            batch, shapes, addresses = batches.pop(), dict(self._shapes), dict(self._addresses)
            for name, kind in self._engine._types.items():
                device.check(addresses[name], prod(self._engine._sized(name, batch)) * np.dtype(kind).itemsize)
            scratch = self._memory[0], np.full(needed, 0xFF, np.uint8)
            device.enqueue(lambda: device.write(*scratch))  # layers write there
            device.enqueue(lambda: self._engine._execute(shapes, addresses, batch))
            return True

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._log = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            if not serialized_engine.startswith(ENGINE_MAGIC):
                raise DeviceFaultError("native code was loaded from bytes that are no engine")
            trt.deserialised.append(serialized_engine)
            start = len(ENGINE_MAGIC) + 4
            (length,) = struct.unpack_from("<I", serialized_engine, len(ENGINE_MAGIC))
            header = json.loads(serialized_engine[start : start + length])
            if header["version"] != trt.__version__:
                self._log.log(Severity.ERROR, "The engine plan file is not compatible with this version of TensorRT")
                return None
            try:
                return ICudaEngine(self._log, header, serialized_engine[start + length :])
            except OutOfDeviceMemoryError as error:
                self._log.log(Severity.ERROR, f"[defaultAllocator] Error Code 1: Cuda Runtime (out of memory): {error}")
                return None

    def _check_stream(stream_handle: int) -> None:
        if stream_handle != device.stream:
            raise DeviceFaultError(f"stream {stream_handle}, where the device's is {device.stream}")

    return {kind.__name__: kind for kind in (ICudaEngine, IExecutionContext, Runtime)}


def _free_weights(device: FakeMemory, address: int) -> None:
    with device:
        device.synchronise()  # as freeing does in CUDA
        device.free(address)


def _check_aligned(address: int) -> None:
    if address == 0 or address % 256:
        raise DeviceFaultError(f"the address {address:#x} is not a multiple of 256")


def _length(length: Any) -> int:
    return length if isinstance(length, int) else -1


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
