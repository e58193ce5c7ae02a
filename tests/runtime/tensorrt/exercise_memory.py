"""Use a memory shim on the driver of `fake_libcuda.c`. Runs in a process of its own, and prints "works".

python exercise_memory.py CudaPythonMemory
"""

import gc
import os
import sys
import threading

import numpy as np

from edgeexit_runtime.backends.tensorrt import memory_cuda_python, memory_pycuda
from edgeexit_runtime.backends.tensorrt.compaction import concat, take
from edgeexit_runtime.backends.tensorrt.device import Device
from edgeexit_runtime.backends.tensorrt.driver import check_driver
from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError

SHIMS = {
    "CudaPythonMemory": memory_cuda_python.CudaPythonMemory,
    "PycudaMemory": memory_pycuda.PycudaMemory,
}


def copies_arrive(device):
    """Host to device, device to device, device to host."""
    array = np.arange(60, dtype=np.float32).reshape(10, 6)
    rows = np.array([0, 2, 3, 9])
    with device:
        tensor = device.upload(array)
        joined = concat(device, [take(device, tensor, rows), tensor])
        np.testing.assert_array_equal(device.download(joined), np.concatenate([array[rows], array]))
        pinned = device.memory.pinned(24).view(np.float32)
        pinned[...] = 7
        device.memory.copy(tensor.address, pinned, 24)
        np.testing.assert_array_equal(device.download(tensor)[0], np.full(6, 7, np.float32))
        assert tensor.address % 256 == 0


def room_ends(device):
    """More than there is raises our error, and later allocations work."""
    with device:
        try:
            device.empty((1 << 40,), np.uint8)
        except OutOfDeviceMemoryError:
            pass
        else:
            raise AssertionError("a terabyte was allocated")
        device.empty((16,), np.uint8)


def main(shim):
    log = os.environ["FAKE_CUDA_LOG"]
    assert check_driver().name == "Fake GPU"
    device = Device(SHIMS[shim]())
    copies_arrive(device)
    thread = threading.Thread(target=copies_arrive, args=[device])
    thread.start()
    thread.join()
    room_ends(device)
    del device
    gc.collect()
    with open(log) as file:
        calls = file.read().splitlines()
    pushed, popped = calls.count("cuCtxPushCurrent_v2"), calls.count("cuCtxPopCurrent_v2")
    assert pushed == popped, (pushed, popped)
    assert calls.count("no room") >= 2, calls
    assert calls.count("cuMemAlloc_v2") - calls.count("no room") == calls.count("cuMemFree_v2"), calls
    assert "cuCtxCreate_v2" not in calls
    print("works")


if __name__ == "__main__":
    sys.setdlopenflags(os.RTLD_LAZY)  # pycuda names functions of the driver that it is not asked for here
    main(sys.argv[1])
