"""NVIDIA: driver, TensorRT, and what a Jetson adds. Only files are looked at; nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeexit.targets import Jetson, PowerMode, Target, VersionRange
from edgeexit_runtime.doctor.finding import Finding, ok, warning
from edgeexit_runtime.doctor.host import Host
from edgeexit_runtime.doctor.versions import as_numbers, at_least, below

__all__ = ["check_nvidia", "driver", "jetpack_of", "tensorrt_version"]

DRIVERS = (
    "usr/lib/*/libcuda.so.1",
    "usr/lib/*/nvidia/libcuda.so.1*",
    "usr/lib/*/tegra/libcuda.so.1*",
    "usr/lib64/libcuda.so.1",
    "usr/lib/wsl/lib/libcuda.so.1",
)
DEVICES = ("dev/nvidiactl", "dev/nvhost-gpu", "dev/nvgpu/igpu0/ctrl", "dev/dxg")
TENSORRT = ("usr/lib/*/libnvinfer.so.*", "usr/local/tensorrt*/lib/libnvinfer.so.*")
BINDINGS = ("pycuda", "cuda-python", "cuda-bindings")

JETPACKS = {
    (35,): "5",
    (36, 2): "6.0",
    (36, 3): "6.0",
    (36, 4): "6.1",
    (36, 4, 3): "6.2",
    (36, 4, 4): "6.2.1",
    (38,): "7.0",
    (38, 4): "7.1",
    (39,): "7.2",
}
"""Which JetPack a release of Jetson Linux belongs to: the last that is not newer (JetPack's release notes)."""

_RELEASE = re.compile(r"# R(\d{1,4}) \(release\), REVISION: (\d{1,4}(?:\.\d{1,4})*)")
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=([\w.-]{1,64})")
_CURRENT = re.compile(r"pmode:(\d{1,6})")
_LIBRARY = re.compile(r"libnvinfer\.so\.(\d{1,4}(?:\.\d{1,4})+)$")
_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+(\d{1,6}(?:\.\d{1,6})*)")


def check_nvidia(host: Host, target: Target | None) -> Iterator[Finding]:
    """The driver and TensorRT where the target or the machine has a GPU, and a Jetson's release and power mode."""
    jetson = None if target is None else target.jetson
    if jetson is not None:
        yield from _release(host, jetson)
        yield from _power_mode(host, jetson)
    version, tensorrt = driver(host), tensorrt_version(host)
    if version is not None:
        yield ok("NVIDIA driver", version)
    elif jetson is not None:
        yield warning("NVIDIA driver", "no libcuda or no device", "there", "sudo apt install nvidia-jetpack")
    else:
        yield ok("NVIDIA driver", "none: the processor does the work")
    if jetson is not None or tensorrt is not None:
        yield from _tensorrt(host, tensorrt, jetson, version)


def driver(host: Host) -> str | None:
    """The driver's version, or "there" where it tells none; None without library or device."""
    library = any(host.paths(pattern) for pattern in DRIVERS)
    device = any((host.root / path).exists() for path in DEVICES)
    if not (library and device):
        return None
    match = _DRIVER.search(host.text("proc/driver/nvidia/version") or "")
    return match[1] if match else "there"


def tensorrt_version(host: Host) -> str | None:
    """TensorRT's version, of its Python package or else of its library; None where there is none."""
    if "tensorrt" in host.process.versions:
        return host.process.versions["tensorrt"]
    found = [_LIBRARY.search(path) for pattern in TENSORRT for path in host.paths(pattern)]
    return max((match[1] for match in found if match), key=as_numbers, default=None)


def jetpack_of(release: str) -> str | None:
    """The JetPack that a release of Jetson Linux, such as 36.4.3, belongs to; None for unknown ones."""
    numbers = as_numbers(release)
    known = [key for key in JETPACKS if key <= numbers and key[:1] == numbers[:1]]
    return JETPACKS[max(known)] if known else None


def _release(host: Host, jetson: Jetson) -> Iterator[Finding]:
    match = _RELEASE.search(host.text("etc/nv_tegra_release") or "")
    expected = _range(jetson.jetpack)
    if match is None:
        yield warning("JetPack", "/etc/nv_tegra_release does not tell", expected, "install JetPack with SDK Manager")
        return
    release = f"{match[1]}.{match[2]}"
    jetpack = jetpack_of(release)
    found = f"Jetson Linux {release}" + (f", JetPack {jetpack}" if jetpack else "")
    if jetpack is None:
        yield warning("JetPack", found, expected, "a release that is not known here")
    elif _within(jetpack, jetson.jetpack):
        yield ok("JetPack", found, expected)
    else:
        yield warning(
            "JetPack", found, expected, "install another JetPack with SDK Manager; ONNX Runtime runs as it is"
        )


def _power_mode(host: Host, jetson: Jetson) -> Iterator[Finding]:
    current = _CURRENT.search(host.text("var/lib/nvpmodel/status") or "")
    modes = {int(number): name for number, name in _MODE.findall(host.text("etc/nvpmodel.conf") or "")}
    best = max(jetson.power_modes, key=_strength)
    if current is None:
        yield warning("power mode", "/var/lib/nvpmodel/status does not tell", best.name, "sudo nvpmodel -q")
        return
    number = int(current[1])
    name = modes.get(number, f"mode {number}")
    best_number = next((n for n, other in modes.items() if _same_mode(other, best.name)), None)
    if _same_mode(name, best.name):
        yield ok("power mode", name, best.name)
        return
    known = next((mode for mode in jetson.power_modes if _same_mode(name, mode.name)), None)
    found = name if known is None else f"{name}: {known.cores.value} cores"
    remedy = f"sudo nvpmodel -m {best_number}" if best_number is not None else "sudo nvpmodel -p --verbose"
    yield warning("power mode", found, f"{best.name}, the fastest", remedy)


def _tensorrt(host: Host, found: str | None, jetson: Jetson | None, cuda: str | None) -> Iterator[Finding]:
    expected = None if jetson is None else _range(jetson.tensorrt)
    if found is None:
        yield warning("TensorRT", "not installed", expected, "sudo apt install tensorrt python3-libnvinfer")
        return
    if cuda is None:
        remedy = "leave the tensorrt backend alone: without a driver TensorRT ends the process"
        yield warning("TensorRT", f"{found}, without a driver", expected, remedy)
    elif jetson is not None and not _within(found, jetson.tensorrt):
        yield warning("TensorRT", found, expected, "install a JetPack that brings it")
    else:
        yield ok("TensorRT", found, expected)
    there = [f"{name} {host.process.versions[name]}" for name in BINDINGS if name in host.process.versions]
    if there:
        yield ok("CUDA for Python", ", ".join(there))
    else:
        yield warning("CUDA for Python", "none", "pycuda or cuda-python", "pip install cuda-python")


def _range(versions: VersionRange) -> str:
    return f"{versions.minimum} up to, without, {versions.below}"


def _within(version: str, versions: VersionRange) -> bool:
    return at_least(version, versions.minimum) and below(version, versions.below)


def _same_mode(name: str, other: str) -> bool:
    """Whether two names are of one mode: nvpmodel says MODE_15W on some boards and 15W on others."""
    return name.upper().removeprefix("MODE_") == other.upper().removeprefix("MODE_")


def _strength(mode: PowerMode) -> float:
    return float("inf") if mode.power is None else mode.power.value
