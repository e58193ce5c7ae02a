"""The machine that figures were measured on, to be stored beside them. No host or user names."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["describe_machine"]

PACKAGES = ("edgeexit", "edgeexit-runtime", "numpy", "onnxruntime", "onnx")


def describe_machine() -> dict[str, object]:
    """The processor, the cores this process may use, the system, and the versions of what ran."""
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _cpu_model() -> str:
    """What the kernel calls the processor, or the board where it has no name for the processor."""
    for path in ("/proc/cpuinfo", "/proc/device-tree/model"):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if not path.endswith("cpuinfo"):
            return text.strip("\0 \n")
        fields = dict(_field(line) for line in text.splitlines() if ":" in line)
        for key in ("model name", "Model"):
            if key in fields:
                return fields[key]
    return platform.processor() or platform.machine()


def _field(line: str) -> tuple[str, str]:
    key, value = line.split(":", 1)
    return key.strip(), value.strip()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
