"""Software: Python and the packages that the device side runs on, by their recorded versions."""

from __future__ import annotations

from collections.abc import Iterator

from edgeexit_runtime.doctor.finding import Finding, ok, problem, warning
from edgeexit_runtime.doctor.host import Host
from edgeexit_runtime.doctor.versions import at_least, below

__all__ = ["check_software"]

PYTHON = ("3.10", "3.15")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
PACKAGES = ("numpy", "msgspec", "click", "rich", "pillow")


def check_software(host: Host) -> Iterator[Finding]:
    """Versions against what EdgeExit was written for."""
    yield _python(host)
    yield _onnxruntime(host)
    for name in PACKAGES:
        least = host.process.least.get(name)
        found = host.process.versions.get(name)
        if least is not None:
            yield _package(name, found, least)


def _python(host: Host) -> Finding:
    oldest, too_new = PYTHON
    found, expected = host.process.python, f"{oldest} or newer"
    if below(found, oldest):
        return problem("Python", found, expected, f"sudo apt install python{oldest}")
    if at_least(found, too_new):
        return warning("Python", f"{found}, newer than was tried", f"{oldest} up to, without, {too_new}", None)
    return ok("Python", found, expected)


def _onnxruntime(host: Host) -> Finding:
    there = {name: host.process.versions[name] for name in RUNTIMES if name in host.process.versions}
    least = host.process.least.get("onnxruntime", "0")
    if len(there) > 1:
        return warning(
            "onnxruntime",
            ", ".join(f"{name} {version}" for name, version in there.items()),
            "one of them: they write over each other",
            f"pip uninstall -y {' '.join(there)} && pip install {RUNTIMES[1]}",
        )
    name, found = next(iter(there.items()), (RUNTIMES[0], None))
    return _package(name, found, least)


def _package(name: str, found: str | None, least: str) -> Finding:
    expected = f"{least} or newer"
    if found is None:
        return problem(name, "not installed", expected, f"pip install '{name}>={least}'")
    if below(found, least):
        return problem(name, found, expected, f"pip install --upgrade '{name}>={least}'")
    return ok(name, found, expected)
