"""A CUDA driver as `ctypes` would load it, made of a few answers."""

from __future__ import annotations

from typing import Any

__all__ = ["FakeDriver"]

NAMES = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 34: b"CUDA_ERROR_STUB_LIBRARY", 100: b"CUDA_ERROR_NO_DEVICE"}
NAMES[999] = b"CUDA_ERROR_UNKNOWN"


class FakeDriver:
    """See `check_driver`, whose `load` it can be: calling it gives the library itself.

    Args:
        gpus: How many there are.
        starts_with: What `cuInit` returns; 0 is success.
        name: The GPUs' name.
        compute_capability: Major and minor.
        cuda: As `cuDriverGetVersion` gives it.

    Attributes:
        calls: The functions called so far.
    """

    def __init__(
        self,
        gpus: int = 1,
        *,
        starts_with: int = 0,
        name: bytes = b"Fake GPU",
        compute_capability: tuple[int, int] = (8, 7),
        cuda: int = 12060,
    ) -> None:
        self.calls: list[str] = []
        self._gpus, self._starts_with, self._name = gpus, starts_with, name
        self._compute_capability, self._cuda = compute_capability, cuda

    def __call__(self, library: str) -> FakeDriver:
        """The library itself, whatever its name."""
        return self

    def cuInit(self, flags: int) -> int:  # noqa: N802 the driver's name
        """0, or the error to begin with."""
        self.calls.append("cuInit")
        return self._starts_with

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        """The newest CUDA that the driver speaks."""
        return self._write("cuDriverGetVersion", version, self._cuda)

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        """The number of GPUs."""
        return self._write("cuDeviceGetCount", count, self._gpus)

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        """A GPU's handle."""
        return self._write("cuDeviceGet", device, ordinal)

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:  # noqa: N802
        """The compute capability: attribute 75 is major, 76 minor."""
        return self._write("cuDeviceGetAttribute", value, self._compute_capability[attribute - 75])

    def cuDeviceGetName(self, name: Any, size_bytes: int, device: int) -> int:  # noqa: N802
        """A GPU's name."""
        self.calls.append("cuDeviceGetName")
        name.value = self._name[: size_bytes - 1]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: int) -> int:  # noqa: N802
        """A GPU's memory."""
        return self._write("cuDeviceTotalMem_v2", memory, 8 << 30)

    def cuGetErrorName(self, code: int, text: Any) -> int:  # noqa: N802
        """The name of an error."""
        text._obj.value = NAMES.get(code)
        return 0 if code in NAMES else 1

    def _write(self, function: str, target: Any, value: int) -> int:
        self.calls.append(function)
        target._obj.value = value  # what `ctypes.byref` refers to
        return 0
