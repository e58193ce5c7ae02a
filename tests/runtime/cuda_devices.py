"""The devices that the CUDA backend is tested on, and the tiny bundle's segments opened there."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit.errors import BackendError
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.backends.cuda import CudaBackend, CudaSegment
from edgeexit_runtime.backends.tensorrt.driver import check_driver
from runtime.cascades import F32, tiny_parts, weights

MANIFEST, CONTENTS = tiny_parts()


def built_with_cuda() -> bool:
    return "CUDAExecutionProvider" in ort.get_available_providers()


def gpu_is_here() -> bool:
    try:
        check_driver()
    except BackendError:
        return False
    return built_with_cuda()


KINDS: list[Literal["cpu", "cuda"]] = ["cpu", "cuda"] if gpu_is_here() else ["cpu"]


def samples(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, 4)).astype(F32)


def open_segment(backend: CudaBackend, k: int = 0, data: bytes | None = None, **changes: Any) -> CudaSegment:
    entry = msgspec.structs.replace(MANIFEST.segments[k], **changes)
    return backend.open(data or CONTENTS[f"segments/{k:02}.onnx"], entry, weights(), SessionSettings())
