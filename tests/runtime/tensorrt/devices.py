"""Fake devices to test with, each with a TensorRT, memory and a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeexit.console import Advance
from edgeexit_runtime.backends.tensorrt.backend import TensorRTBackend
from edgeexit_runtime.backends.tensorrt.cache import EngineCache
from edgeexit_runtime.backends.tensorrt.driver import Gpu
from edgeexit_runtime.backends.tensorrt.fake import FAKE_GPU, FakeMemory, fake_tensorrt
from edgeexit_runtime.backends.tensorrt.ranges import ranges_up_to

KEY = bytes(range(32))
LASTS = (1, 4, 8)


@dataclass
class FakeDevice:
    """A machine with a GPU; `backend` opens the backend as a process would."""

    cache: Path
    version: str = "10.3.0"
    gpu: Gpu = FAKE_GPU
    key: bytes = KEY
    capacity_bytes: int = 1 << 30
    memory: FakeMemory = field(init=False)
    trt: Any = field(init=False)
    shown: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = FakeMemory(self.capacity_bytes)
        self.trt = fake_tensorrt(self.memory, self.version)

    def backend(
        self, lasts: Sequence[int] | None = LASTS, *, timings: Path | None = None, workspace_mb: int | None = None
    ) -> TensorRTBackend:
        return TensorRTBackend(
            self.gpu,
            self.trt,
            self.memory,
            EngineCache(self.cache, self.key, timings),
            ranges=None if lasts is None else ranges_up_to(lasts),
            workspace_mb=workspace_mb,
            progress=self.progress,
            clock=lambda: 0.0,
        )

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        self.shown[description] = 0

        def advance(n: int = 1) -> None:
            self.shown[description] += n
            assert self.shown[description] <= total

        yield advance

    def engines(self) -> list[Path]:
        return sorted(self.cache.glob("engines/*.engine"))
