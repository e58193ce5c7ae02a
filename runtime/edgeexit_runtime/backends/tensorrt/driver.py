"""The CUDA driver, asked before anything else is.

TensorRT hands out a runtime without a driver, and reading an engine with it then ends the process. So the
driver is loaded, started and asked for its first GPU here, through `ctypes`, before TensorRT sees a byte.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeexit.errors import BackendError

__all__ = ["Gpu", "check_driver"]

LIBRARY = "libcuda.so.1"
SUCCESS = 0
NO_DEVICE = 100
COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NAME_BYTES = 256
VERSION_FILE = Path("proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The GPU that CUDA lists first, and the driver below it.

    Attributes:
        name: As the driver gives it.
        compute_capability: Such as "8.7".
        memory_bytes: All of its memory; on a Jetson it is the board's.
        cuda: The newest CUDA that the driver speaks, such as "12.6".
        driver: The driver's own version, "unknown" where the system does not tell.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    cuda: str
    driver: str


def check_driver(*, load: Callable[[str], Any] = ctypes.CDLL, root: Path = Path("/")) -> Gpu:
    """Start the driver and describe its first GPU.

    Args:
        load: Opens a shared library by name.
        root: Where `/proc` is.

    Raises:
        BackendError: There is no driver, it does not start, or it has no GPU.
    """
    library = _load(load)
    _call(library, "cuInit", 0)
    _check_count(_number(library, "cuDeviceGetCount"))
    device = _number(library, "cuDeviceGet", 0)
    version = _number(library, "cuDriverGetVersion")
    major, minor = (_number(library, "cuDeviceGetAttribute", attribute, device) for attribute in COMPUTE_CAPABILITY)
    name = ctypes.create_string_buffer(NAME_BYTES)
    _call(library, "cuDeviceGetName", name, NAME_BYTES, device)
    memory = ctypes.c_size_t()
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        driver=_driver_version(root),
    )


def _load(load: Callable[[str], Any]) -> Any:
    try:
        return load(LIBRARY)
    except OSError as error:
        raise BackendError(
            "there is no CUDA driver on this machine",
            got=f"{LIBRARY}: {error}",
            remedy="install NVIDIA's driver; in a container, start it with its NVIDIA runtime. "
            "Without a GPU: --backend onnxruntime",
        ) from error


def _check_count(count: int) -> None:
    if count < 1:
        raise _no_gpu("the driver counts 0 GPUs")


def _no_gpu(got: str) -> BackendError:
    return BackendError(
        "the CUDA driver finds no GPU",
        got=got,
        remedy="nvidia-smi, and the variable CUDA_VISIBLE_DEVICES. Without a GPU: --backend onnxruntime",
    )


def _number(library: Any, function: str, *arguments: Any) -> int:
    """Call a function whose first argument is where it writes an int."""
    result = ctypes.c_int()
    _call(library, function, ctypes.byref(result), *arguments)
    return result.value


def _call(library: Any, function: str, *arguments: Any) -> None:
    try:
        code = getattr(library, function)(*arguments)
    except AttributeError as error:
        raise BackendError(
            "the CUDA driver is not one that can be used", got=f"{LIBRARY} without {function}"
        ) from error
    if code == NO_DEVICE:
        raise _no_gpu(f"{function}: {_describe(library, code)}")
    if code != SUCCESS:
        raise BackendError(
            "the CUDA driver does not work",
            got=f"{function}: {_describe(library, code)}",
            remedy="nvidia-smi; restart the machine after an update of the driver",
        )


def _describe(library: Any, code: int) -> str:
    """The driver's name of an error, and its number."""
    text = ctypes.c_char_p()
    try:
        known = library.cuGetErrorName(code, ctypes.byref(text)) == SUCCESS
    except AttributeError:
        known = False
    return f"{text.value.decode('ascii', 'replace')} ({code})" if known and text.value else f"error {code}"


def _driver_version(root: Path) -> str:
    try:
        content = (root / VERSION_FILE).read_text(errors="replace")
    except OSError:
        return "unknown"
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", content)
    return found[0] if found else "unknown"
