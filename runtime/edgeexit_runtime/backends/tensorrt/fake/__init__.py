"""A TensorRT, a device memory and a driver that need no GPU, and are stricter than the real ones.

    device = FakeMemory(capacity_bytes=1 << 30)
    trt = fake_tensorrt(device, version="10.3.0")
    backend = TensorRTBackend(FAKE_GPU, trt, device, EngineCache(folder, key))

An engine of the fake is the ONNX graph itself, run by ONNX Runtime on the CPU. What would be undefined with
a GPU is an error here: an address that was not set or freed, a batch outside the profile, memory read before
it was written, a result read before the stream was waited for. Work is queued and done when it is waited for.
Every class and name of the fake is one of the real bindings; a test compares them.
"""

from __future__ import annotations

from edgeexit_runtime.backends.tensorrt.driver import Gpu
from edgeexit_runtime.backends.tensorrt.fake.driver import FakeDriver
from edgeexit_runtime.backends.tensorrt.fake.library import fake_tensorrt
from edgeexit_runtime.backends.tensorrt.fake.memory import DeviceFaultError, FakeMemory

__all__ = ["FAKE_GPU", "DeviceFaultError", "FakeDriver", "FakeMemory", "fake_tensorrt"]

FAKE_GPU = Gpu(name="Fake GPU", compute_capability="8.7", memory_bytes=8 << 30, cuda="12.6", driver="540.4.0")
