"""What ONNX Runtime throws, translated by its kind. Its exceptions have few types, so the text tells."""

from __future__ import annotations

import re

import onnxruntime as ort

from edgeexit.errors import BackendError, BundleError, EdgeExitError

__all__ = ["is_device_trouble", "is_out_of_memory", "opening_error", "running_error"]

OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory"  # the arena, on any device
    r"|available memory of \d+ is smaller than requested"  # the arena, at its limit
    r"|out of memory"  # the CUDA runtime's own words
    r"|(CUBLAS|CUDNN)_STATUS_\w*ALLOC\w*_FAILED"
    r"|bad.?alloc",
    re.IGNORECASE,
)
DEVICE_TROUBLE = re.compile(
    r"\b(CUDA|CUDNN(_FE)?|CUBLAS|CURAND|CUFFT)[_ ](failure|error|status_)|cudaGetDeviceCount|invalid device id",
    re.IGNORECASE,
)
NEWER_THAN_THE_RUNTIME = ("NOT_IMPLEMENTED", "official released onnx opset", "Unsupported model IR version")


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was too little memory, on the host or on the device."""
    return isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)) is not None


def is_device_trouble(error: Exception) -> bool:
    """Whether CUDA or one of its libraries failed."""
    return DEVICE_TROUBLE.search(str(error)) is not None


def running_error(name: str, error: Exception) -> BackendError:
    """What to raise when running something failed.

    Args:
        name: What was run, as users know it.
        error: What ONNX Runtime threw.
    """
    if is_out_of_memory(error):
        return BackendError(
            f"there is too little memory to run {name}",
            got=_gist(error),
            remedy="smaller batches, or let go of what else is on the device",
        )
    return BackendError(f"ONNX Runtime failed while it ran {name}", got=_gist(error))


def opening_error(name: str, error: Exception) -> EdgeExitError:
    """What to raise when opening a graph failed: a BackendError where the machine is to blame, else a BundleError."""
    text = str(error)
    if any(part in text for part in NEWER_THAN_THE_RUNTIME):
        return BackendError(
            f"ONNX Runtime {ort.__version__} is too old for {name}",
            got=_gist(error),
            remedy="pip install --upgrade onnxruntime",
        )
    if is_out_of_memory(error):
        return BackendError(f"there is too little memory to open {name}", got=_gist(error))
    if is_device_trouble(error):
        return BackendError(f"the device failed while {name} was opened", got=_gist(error))
    return BundleError(f"{name} is not a graph that ONNX Runtime can open", got=_gist(error))


def _gist(error: Exception) -> str:
    """The line that says most, with the kind of exception before it, and without where in the source it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if OUT_OF_MEMORY.search(line) or DEVICE_TROUBLE.search(line)]
    line = next(iter(telling or lines), "")
    found = DEVICE_TROUBLE.search(line)
    if found:  # everything else in the line is about ONNX Runtime's source, and the machine's name
        line = line[found.start() :].split(" ;")[0]
    return f"{type(error).__name__}: {line}"
