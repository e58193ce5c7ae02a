"""The TensorRT backend of this machine: driver first, then TensorRT, then memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeexit_runtime.backends.tensorrt.backend import TensorRTBackend
from edgeexit_runtime.backends.tensorrt.cache import EngineCache, cache_folder, device_key
from edgeexit_runtime.backends.tensorrt.driver import check_driver
from edgeexit_runtime.backends.tensorrt.library import import_tensorrt
from edgeexit_runtime.backends.tensorrt.memory import load_memory
from edgeexit_runtime.backends.tensorrt.ranges import BatchRange

__all__ = ["on_this_machine"]


def on_this_machine(
    *,
    cache: Path | None = None,
    timings: Path | None = None,
    ranges: Sequence[BatchRange] | None = None,
    workspace_mb: int | None = None,
) -> TensorRTBackend:
    """The backend for the first GPU.

    Args:
        cache: Where engines are kept; `EDGEEXIT_CACHE` or the user's folder for caches when None.
        timings: The timing cache; in the cache's folder when None.
        ranges: As for `TensorRTBackend`.
        workspace_mb: As for `TensorRTBackend`.

    Raises:
        BackendError: There is no driver or no GPU, or the cache's folder cannot be used.
        MissingPartError: TensorRT, or both pycuda and cuda-python, are not installed.
    """
    gpu = check_driver()
    trt = import_tensorrt()
    memory = load_memory()
    engines = EngineCache(cache_folder() if cache is None else cache, device_key(), timings)
    return TensorRTBackend(gpu, trt, memory, engines, ranges=ranges, workspace_mb=workspace_mb)
