"""Running an engine: a context, told only what changed since its last run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeexit_runtime.backends.tensorrt.device import Buffer, Device
from edgeexit_runtime.backends.tensorrt.engine import Engine
from edgeexit_runtime.backends.tensorrt.library import RAISED
from edgeexit_runtime.backends.tensorrt.memory import Address
from edgeexit_runtime.backends.tensorrt.ranges import range_of

__all__ = ["Execution", "Scratch"]

Shape = tuple[int, ...]


class Scratch:
    """Memory for layers, shared by all segments of a device: they run one after another on one stream.

    Args:
        device: The device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer: Buffer | None = None
        self._size_bytes = 0

    def reserve(self, size_bytes: int) -> tuple[Address, int]:
        """Address and size of at least this much.

        Raises:
            OutOfDeviceMemoryError: The device has no room.
        """
        if self._buffer is None or self._size_bytes < size_bytes:
            self._buffer = None
            self._buffer = self._device.buffer(size_bytes)
            self._size_bytes = size_bytes
        return self._buffer.address, self._size_bytes


class Execution:
    """An engine's context. Used inside `with device:`.

    Args:
        engine: The engine.
        device: Where it runs.
        scratch: The layers' memory.
        rows: The shape of one sample of each input that has a batch axis, by name.
    """

    def __init__(self, engine: Engine, device: Device, scratch: Scratch, rows: Mapping[str, Shape]) -> None:
        self.engine = engine
        self._context = engine.context()
        self._stream = device.stream
        self._scratch = scratch
        self._rows = {name: shape for name, shape in rows.items() if name in engine.inputs}
        self._profile: int | None = None
        self._batch: int | None = None
        self._memory: tuple[Address, int] | None = None
        self._addresses: dict[str, Address] = {}

    def prepare(self, batch: int) -> None:
        """Make ready for a batch of this size, at most the last of the engine's ranges.

        Raises:
            BackendError: TensorRT refuses it, or the device failed.
        """
        context = self._context
        profile = range_of(self.engine.ranges, batch)
        if profile != self._profile:
            self._call(
                context.set_optimization_profile_async, profile, self._stream, problem="cannot change the profile of"
            )
            self._profile, self._memory = profile, None
        if batch != self._batch:
            for name, shape in self._rows.items():
                self._call(context.set_input_shape, name, (batch, *shape), problem=f"refuses a batch of {batch} for")
            self._batch = batch
        address, size_bytes = self._scratch.reserve(self.engine.scratch_bytes(profile))
        if (address, size_bytes) != self._memory:
            self._call(context.set_device_memory, address, size_bytes, problem="refuses memory for")
            self._memory = address, size_bytes

    def bind(self, addresses: Mapping[str, Address]) -> None:
        """Say where tensors are, by name; other tensors stay where they were."""
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self._call(self._context.set_tensor_address, name, address, problem=f"refuses the address of {name} of")
                self._addresses[name] = address

    def queue(self) -> None:
        """Queue a run.

        Raises:
            BackendError: TensorRT refuses it.
        """
        self._call(self._context.execute_async_v3, self._stream, problem="failed while it ran")

    def _call(self, function: Callable[..., Any], *arguments: Any, problem: str) -> None:
        try:
            result = function(*arguments)
        except RAISED as error:
            raise self.engine.failed(problem, error) from error
        if result is False:
            raise self.engine.failed(problem)
