"""The module `tensorrt`, as far as it is used, on a fake device."""

from __future__ import annotations

import enum
import re
from types import SimpleNamespace
from typing import Any

from edgeexit_runtime.backends.tensorrt.fake.enums import (
    BuilderFlag,
    DataType,
    ExecutionContextAllocationStrategy,
    MemoryPoolType,
    Severity,
    TensorIOMode,
)
from edgeexit_runtime.backends.tensorrt.fake.memory import FakeMemory
from edgeexit_runtime.backends.tensorrt.fake.network import builder_classes
from edgeexit_runtime.backends.tensorrt.fake.runtime import runtime_classes

__all__ = ["FakeTensorRT", "fake_tensorrt"]


class ILogger:
    """As in TensorRT: subclasses say what is done with a message."""

    Severity = Severity

    def __init__(self) -> None:
        self._initialised = True

    def log(self, severity: Any, msg: str) -> None:
        """Take a message."""
        raise NotImplementedError


class IProgressMonitor:
    """As in TensorRT: subclasses are told of a build's phases."""

    def __init__(self) -> None:
        self._initialised = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins."""
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step is done; whether to go on."""
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        """A phase is over."""
        raise NotImplementedError


class FakeTensorRT(SimpleNamespace):
    """The module, and what it counted.

    Attributes:
        deserialised: The serialised engines that were turned into engines, in order.
        built: The number of networks built.
        timed: For each build the timing cache that it was given.
    """

    deserialised: list[bytes]
    built: int
    timed: list[bytes]


def fake_tensorrt(device: FakeMemory, version: str = "10.3.0") -> Any:
    """A TensorRT of this version.

    As the real ones, 11 makes strongly typed networks with and without being told to, and 10 only when told.

    Args:
        device: Where engines and contexts take their memory.
        version: Such as "10.3.0" or "11.4.0.106".
    """
    major = int(re.findall(r"\d+", version)[0])
    trt = FakeTensorRT(__version__=version, deserialised=[], built=0, timed=[])
    flags = {"STRONGLY_TYPED": 1} if major >= 11 else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    parts = {
        "ILogger": ILogger,
        "IProgressMonitor": IProgressMonitor,
        "BuilderFlag": BuilderFlag,
        "DataType": DataType,
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
        "MemoryPoolType": MemoryPoolType,
        "NetworkDefinitionCreationFlag": enum.IntEnum("NetworkDefinitionCreationFlag", flags),
        "TensorIOMode": TensorIOMode,
        **builder_classes(trt, device, typed_only_when_told=major < 11),
        **runtime_classes(trt, device),
    }
    for name, part in parts.items():
        setattr(trt, name, part)
    return trt
